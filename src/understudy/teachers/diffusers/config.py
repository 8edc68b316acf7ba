"""The section of a pipeline of diffusers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from understudy.teachers.base import ClipParams
from understudy.teachers.config import RequestConfig
from understudy.teachers.fields import asked_by

DEFAULT_CALL: Final = {"prompt": "{prompt}", "num_frames": "{frames}", "width": "{width}", "height": "{height}"}
"""Arguments of a call where the recipe does not say."""


class DiffusersTeacherConfig(RequestConfig):
    """A text-to-video pipeline of diffusers in a folder on this machine; needs the extra [wan]."""

    kind: Literal["diffusers"] = "diffusers"
    path: Path
    """The pipeline's folder, with model_index.json and safetensors; nothing is downloaded."""
    model: str = ""
    """What to call it; the terms of known weights go by this name. Empty: the folder's name."""
    call: dict[str, Any] | None = None
    """Arguments of the call, with {prompt} {frames} {fps} {width} {height}; null: prompt, num_frames, width, height."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of its weights and arithmetic."""
    device: str = "cpu"
    """Torch device it runs on."""

    def clip_params(self) -> ClipParams:
        """Return what of the wanted clip the pipeline takes; the rate is that of the file we write."""
        return replace(asked_by(DEFAULT_CALL if self.call is None else self.call, super().clip_params()), fps=self.fps)
