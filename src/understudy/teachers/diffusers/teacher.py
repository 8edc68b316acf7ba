"""A text-to-video pipeline of diffusers on this machine as a black box: prompt and seed in, frames out.

Its weights have to lie in a folder already; nothing is ever downloaded, and only safetensors are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import ConfigError, MissingExtra, TeacherError, TeacherStopped
from understudy.files import sha256_hex
from understudy.reading import read_json
from understudy.teachers.base import ClipParams, ClipRequest, Terms
from understudy.teachers.diffusers.config import DEFAULT_CALL, DiffusersTeacherConfig
from understudy.teachers.fields import fill, request_fields
from understudy.video.clips import Clip, encode_mp4
from understudy.video.mp4 import Frames

_FPS = 16.0


class PipelineTeacher:
    """A folder that ``DiffusionPipeline.from_pretrained`` reads; a `understudy.teachers.base.Teacher`."""

    own_files = True

    def __init__(
        self,
        path: Path,
        terms: Terms,
        model: str = "",
        call: Mapping[str, Any] | None = None,
        dtype: str = "bfloat16",
        device: str = "cpu",
    ) -> None:
        """Look at the folder; the weights are read when the first clip is asked for.

        Args:
            path: the pipeline's folder, with model_index.json.
            terms: of the weights.
            model: what to call it; empty: as the folder.
            call: arguments of the call; None: `DEFAULT_CALL`. See `understudy.teachers.fields`.
            dtype: of weights and arithmetic: float32, bfloat16 or float16.
            device: where it runs.

        Raises:
            ConfigError: there is no pipeline in the folder.
        """
        index = path / "model_index.json"
        try:
            said = read_json(index)
            kind = str(said["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"teacher.path {path} is no folder of a diffusers pipeline (no readable model_index.json); download it "
                "first, for example with: hf download NAME --local-dir FOLDER"
            ) from None
        self._path, self._dtype, self._device, self.terms = path, dtype, device, terms
        self._call = dict(DEFAULT_CALL if call is None else call)
        self._pipeline: Any = None
        files = sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file())
        settings = sha256_hex(json.dumps([files, said, self._call, dtype], sort_keys=True).encode())[:8]
        self.name = f"diffusers/{kind}/{model or path.resolve().name}-{settings}"

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """Draw one clip; see ``Teacher.generate``.

        Raises:
            ConfigError: the pipeline cannot be loaded.
            TeacherStopped: it does not take these arguments, or draws no video.
            TeacherError: it failed this time, for want of memory for instance.
        """
        pipeline = self._load()
        import torch

        arguments = fill(self._call, request_fields(ClipRequest(prompt, seed, params, "")))
        generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
        try:
            with torch.inference_mode():
                drawn = pipeline(**arguments, generator=generator, output_type="np")
        except (TypeError, ValueError) as error:
            raise TeacherStopped(
                f"{self._path} does not take these arguments ({_line(error)}); see teacher.call"
            ) from None
        except RuntimeError as error:  # torch.OutOfMemoryError included
            raise TeacherError(f"{self._path} failed: {_line(error)}") from None
        return encode_mp4(Clip(_frames(drawn), params.fps or _FPS))

    def _load(self) -> Any:
        """Return the pipeline, read on first use."""
        if self._pipeline is None:
            try:
                import diffusers
                import torch
            except ImportError:
                raise MissingExtra("teacher.kind diffusers", "wan") from None
            try:
                self._pipeline = diffusers.DiffusionPipeline.from_pretrained(
                    str(self._path), dtype=getattr(torch, self._dtype), local_files_only=True, use_safetensors=True
                ).to(self._device)
            except (OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
                raise ConfigError(f"the pipeline in {self._path} cannot be loaded: {_line(error)}") from None
            self._pipeline.set_progress_bar_config(disable=True)
        return self._pipeline


def _frames(drawn: Any) -> Frames:
    """Return the first video that a pipeline has drawn as uint8 [T, H, W, 3].

    Raises:
        TeacherStopped: it is no video.
        TeacherError: it is not finite.
    """
    videos = getattr(drawn, "frames", None)
    if videos is None:
        raise TeacherStopped("the pipeline draws no video: its result has no frames")
    frames = np.stack([np.asarray(frame) for frame in videos[0]])
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] < 2:
        raise TeacherStopped(f"the pipeline draws no video: its result has the shape {list(frames.shape)}")
    if frames.dtype == np.uint8:
        return frames
    if not np.isfinite(frames).all():
        raise TeacherError("the pipeline drew values that are no numbers; try teacher.dtype float32")
    return (frames.clip(0, 1) * 255).round().astype(np.uint8)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def build(config: DiffusersTeacherConfig, sealed: Path | None) -> PipelineTeacher:
    """Return the pipeline as a teacher; nothing is loaded yet."""
    terms = config.stated_terms("diffusers", config.model or config.path.name)
    return PipelineTeacher(config.path, terms, config.model, config.call, config.dtype, config.device)
