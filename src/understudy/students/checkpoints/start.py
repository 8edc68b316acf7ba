"""A public Wan checkpoint as the start of a run: its weights with the settings that its preset names."""

from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from understudy.codecs.base import CodecModule
from understudy.codecs.wan import WanCodec
from understudy.errors import CheckpointError, ConfigError
from understudy.recipes.config import StudentSection
from understudy.students.base import block_sizes
from understudy.students.bundle import Bundle, is_bundle
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.layout import WanSizes
from understudy.students.checkpoints.read import Checkpoint, read_checkpoint
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import PRESETS, WanPreset, WanSpec, preset
from understudy.video.clips import ClipForm

_SAME: Final = (
    "dim",
    "ffn_dim",
    "heads",
    "layers",
    "freq_dim",
    "text_dim",
    "in_channels",
    "out_channels",
    "patch",
    "eps",
)


@dataclass(frozen=True)
class LatentForm:
    """What an autoencoder makes of clips.

    Attributes:
        stride: pixels along a side that one latent pixel stands for.
        first_frames, frames_per_latent: pixel frames that the first, and every further, latent frame stands for.
        channels: C of its latents; None: not known.
    """

    stride: int = 8
    first_frames: int = 1
    frames_per_latent: int = 4
    channels: int | None = None


def public_bundle(config: StudentSection, codec: CodecModule | None) -> Bundle:
    """Return the checkpoint ``config.start`` with its preset's blocks, window, sink, levels and clip form.

    Raises:
        ConfigError: preset, codec or text encoder is not named, or size and frames do not suit them.
        CheckpointError: the file holds no whole causal Wan transformer.
    """
    chosen = check_parts(config)
    if codec is None:
        raise ConfigError(f"{config.start} holds no codec: set student.codec to {{kind: wan, path: FOLDER}}")
    found = start_checkpoint(config)
    channels = codec.channels if isinstance(codec, WanCodec) else None
    latents = LatentForm(codec.stride, codec.first_frames, codec.frames_per_latent, channels)
    spec = checked_spec(config, found.sizes, found.origin, latents)
    with torch.device("meta"):  # the weights follow: nothing is drawn that is thrown away
        student = WanStudent(spec)
    dtype: torch.dtype = getattr(torch, config.dtype)
    student.load_state_dict({name: tensor.to(dtype) for name, tensor in found.tensors.items()}, assign=True)
    student.gradient_checkpointing = config.recompute
    form = clip_form(config, chosen)
    return Bundle(
        student.eval().requires_grad_(False), codec.eval().requires_grad_(False), chosen.levels, form, found.origin
    )


def check_parts(config: StudentSection) -> WanPreset:
    """Return the preset of a public checkpoint; ConfigError unless the recipe names all that it does not hold."""
    chosen = chosen_preset(config)
    if is_bundle(config.start):
        raise ConfigError(
            f"student.start {config.start} is a bundle, which has its own settings: leave out student.preset"
        )
    if config.codec is None:
        raise ConfigError(f"{config.start} holds no codec: set student.codec to {{kind: wan, path: FOLDER}}")
    if config.text is None:
        raise ConfigError(f"{config.start} holds no text encoder: set student.text to {{kind: umt5, path: FOLDER}}")
    return chosen


def start_checkpoint(config: StudentSection, headers: bool = False, adapter: bool = True) -> Checkpoint:
    """Return the public checkpoint that a recipe starts from, its ``adapter`` merged in.

    Args:
        config: the recipe's section.
        headers: names and shapes only, see ``read_checkpoint``.
        adapter: whether the recipe's adapter is added.

    Raises:
        CheckpointError: one of the files is missing, damaged or does not fit.
    """
    found = read_checkpoint(config.start, config.weights, headers=headers)
    if config.adapter is not None and adapter:
        found = with_adapter(found, config.adapter, config.adapter_alpha)
    return found


def checked_spec(config: StudentSection, sizes: WanSizes, origin: str, latents: LatentForm) -> WanSpec:
    """Return the spec of a transformer of ``sizes`` for the recipe's clips, after all checks that need no weights.

    Raises:
        CheckpointError: it cannot be a student, or not with this autoencoder.
        ConfigError: size, frames, window or sink do not suit it.
    """
    chosen = chosen_preset(config)
    if sizes.image_dim is not None or sizes.in_channels != sizes.out_channels:
        raise CheckpointError(
            f"{origin} is an image-to-video Wan, which needs image features: give a text-to-video one"
        )
    if latents.channels is not None and latents.channels != sizes.in_channels:
        raise CheckpointError(
            f"{origin} draws latents of {sizes.in_channels} channels, the autoencoder {config.codec and config.codec.path} "
            f"makes {latents.channels}: give the one it was trained with (Wan 2.1: 16, Wan 2.2 TI2V-5B: 48)"
        )
    form = clip_form(config, chosen)
    given: dict[str, Any] = {"window": config.window, "sink": config.sink}
    spec = spec_of(sizes, chosen, form, latents.stride)
    spec = replace(spec, **{name: value for name, value in given.items() if value is not None})
    count = latents_of(form.frames, latents)
    with torch.device("meta"):
        blocks = block_sizes(WanStudent(replace(spec, layers=1)), count)
    if sum(blocks) != count:
        raise ConfigError(
            f"student.frames {form.frames} are {count} latent frames, which are not whole blocks of {list(spec.blocks)}"
        )
    if count > spec.max_frames and not spec.window:
        raise ConfigError(
            f"student.frames {form.frames} are {count} latent frames, past the {spec.max_frames} that it was trained on: "
            f"draw {latents.first_frames + (spec.max_frames - 1) * latents.frames_per_latent} at most, or set student.window"
        )
    return spec


def latents_of(frames: int, latents: LatentForm) -> int:
    """Return the latent frames that ``frames`` pixel frames need."""
    return 1 + max(0, -(-(frames - latents.first_frames) // latents.frames_per_latent))


def chosen_preset(config: StudentSection) -> WanPreset:
    """Return the preset that the recipe names; ConfigError if it names none."""
    if config.preset is None:
        raise ConfigError(
            f"student.start {config.start} is a public checkpoint: set student.preset to one of {', '.join(PRESETS)}"
        )
    return preset(config.preset)


def clip_form(config: StudentSection, chosen: WanPreset) -> ClipForm:
    """Return the form of the clips to draw: the preset's, with the recipe's size and frames."""
    height, width = config.size or (chosen.form.height, chosen.form.width)
    return replace(chosen.form, height=height, width=width, frames=config.frames or chosen.form.frames)


def spec_of(sizes: WanSizes, chosen: WanPreset, form: ClipForm, stride: int) -> WanSpec:
    """Return the spec of a transformer of ``sizes`` for latents of one ``stride``-th of the clips.

    Raises:
        ConfigError: the clip's sides are no multiples of stride times patch.
    """
    unit = stride * sizes.patch[1], stride * sizes.patch[2]
    if form.height < unit[0] or form.width < unit[1] or form.height % unit[0] or form.width % unit[1]:
        raise ConfigError(f"student.size [{form.height}, {form.width}] must be multiples of {list(unit)} pixels")
    same: dict[str, Any] = {name: getattr(sizes, name) for name in _SAME}
    latent = form.height // stride, form.width // stride
    return chosen.apply(WanSpec(**same, text_len=sizes.text_length, height=latent[0], width=latent[1]))


def sizes_of_spec(spec: WanSpec) -> WanSizes:
    """Return the sizes of the transformer that ``spec`` describes."""
    return WanSizes(**{name: getattr(spec, name) for name in _SAME}, text_length=spec.text_len)
