"""A public Wan checkpoint as the start of a run: its weights with the settings that its preset names."""

from dataclasses import replace
from typing import Any, Final

import torch

from understudy.clips import ClipForm
from understudy.codecs.base import CodecModule, latent_frames
from understudy.errors import CheckpointError, ConfigError
from understudy.recipes.config import StudentConfig
from understudy.students.base import block_sizes
from understudy.students.bundle import Bundle, bundle_folder
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.layout import WanSizes
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import PRESETS, WanPreset, WanSpec, preset

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


def public_bundle(config: StudentConfig, codec: CodecModule | None) -> Bundle:
    """Return the checkpoint ``config.start`` with its preset's blocks, window, sink, levels and clip form.

    Raises:
        ConfigError: preset, codec or text encoder is not named, or size and frames do not suit them.
        CheckpointError: the file holds no whole causal Wan transformer.
    """
    chosen = chosen_preset(config)
    if (bundle_folder(config.start) / "student.safetensors").is_file():
        raise ConfigError(
            f"student.start {config.start} is a bundle, which has its own settings: leave out student.preset"
        )
    if codec is None:
        raise ConfigError(f"{config.start} holds no codec: set student.codec to {{kind: wan, path: FOLDER}}")
    if config.text is None:
        raise ConfigError(f"{config.start} holds no text encoder: set student.text to {{kind: umt5, path: FOLDER}}")
    found = read_checkpoint(config.start)
    if config.adapter is not None:
        found = with_adapter(found, config.adapter, config.adapter_alpha)
    if found.sizes.image_dim is not None:
        raise CheckpointError(
            f"{found.origin} is an image-to-video Wan, which needs image features: give a text-to-video one"
        )
    form = clip_form(config, chosen)
    spec = spec_of(found.sizes, chosen, form, codec.stride)
    with torch.device("meta"):  # the weights follow: nothing is drawn that is thrown away
        student = WanStudent(spec)
    dtype: torch.dtype = getattr(torch, config.dtype)
    student.load_state_dict({name: tensor.to(dtype) for name, tensor in found.tensors.items()}, assign=True)
    student.gradient_checkpointing = config.recompute
    latents = latent_frames(codec, form.frames)
    if sum(block_sizes(student, latents)) != latents:
        raise ConfigError(
            f"student.frames {form.frames} are {latents} latent frames, which are not whole blocks of {list(spec.blocks)}"
        )
    return Bundle(
        student.eval().requires_grad_(False), codec.eval().requires_grad_(False), chosen.levels, form, found.origin
    )


def chosen_preset(config: StudentConfig) -> WanPreset:
    """Return the preset that the recipe names; ConfigError if it names none."""
    if config.preset is None:
        raise ConfigError(
            f"student.start {config.start} is a public checkpoint: set student.preset to one of {', '.join(PRESETS)}"
        )
    return preset(config.preset)


def clip_form(config: StudentConfig, chosen: WanPreset) -> ClipForm:
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
