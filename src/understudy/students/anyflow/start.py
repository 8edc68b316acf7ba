"""A public AnyFlow-FAR pipeline folder as the start of a run: what the recipe anyflow_1.3b calls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy import flow
from understudy.codecs.wan import load_wan_codec
from understudy.errors import ConfigError
from understudy.students.anyflow.model import AnyFlowStudent
from understudy.students.bundle import Bundle
from understudy.students.umt5 import UMT5Text
from understudy.video.clips import ClipForm


def pipeline(
    path: str,
    size: tuple[int, int] = (480, 832),
    fps: float = 16.0,
    steps: int = 4,
    shift: float = 5.0,
    cache: str = "runs/text",
    dtype: str = "bfloat16",
) -> Bundle:
    """Return the student of a diffusers folder with ``transformer``, ``vae``, ``text_encoder`` and ``tokenizer``.

    Args:
        path: the folder, such as that of nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers.
        size: height and width in pixels of the clips.
        fps: their rate; their length is that of all the model's blocks.
        steps: noise levels of the sampler; a flow map takes any number.
        shift: how far they are warped towards noise.
        cache: folder of the prompts' embeddings; runs share it.
        dtype: of the autoencoder and the text encoder.

    Raises:
        CheckpointError: the folder holds no such model. ConfigError: the size does not suit it. MissingExtra: [wan].
    """
    folder = Path(path)
    codec = load_wan_codec(folder, dtype, None)
    unit = 4 * codec.stride  # its compressed patches
    if size[0] % unit or size[1] % unit or min(size) < unit:
        raise ConfigError(f"settings.size {list(size)} must be multiples of {unit} pixels")
    student = AnyFlowStudent.from_diffusers(folder, size[0] // codec.stride, size[1] // codec.stride)
    text: dict[str, Any] = {"path": path, "cache": cache, "dtype": dtype}
    student.spec = replace(student.spec, text=text)  # saved with it: who loads it has a text encoder
    student.use_text(UMT5Text(path=path, cache=cache, dtype=dtype))
    frames = codec.first_frames + (student.spec.max_frames - 1) * codec.frames_per_latent
    form = ClipForm(size[0], size[1], fps, frames)
    return Bundle(student, codec, flow.sampler_levels(steps, shift), form, path)
