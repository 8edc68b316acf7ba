"""Clips from a student: finished ones in batches, or one of any length decoded as it is drawn."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.codecs.base import latent_frames, to_frames, to_tensor
from understudy.errors import ConfigError
from understudy.students.base import block_sizes
from understudy.students.bundle import Bundle
from understudy.students.rollout import SeededNoise, clips_at_once, roll_clip, rollout
from understudy.video.clips import Clip, ClipForm, decode_image, is_picture, read_file, resample
from understudy.video.ingest.guard import probe_bytes, read_bytes
from understudy.video.mp4 import Frames


@torch.no_grad()
def draw_clips(bundle: Bundle, prompts: Sequence[str], seeds: Sequence[int], batch: int = 64) -> list[Clip]:
    """Return one clip of the trained length for every prompt and seed; a clip depends on its own seed only."""
    clips: list[Clip] = []
    frames = latent_frames(bundle.codec, bundle.form.frames)
    batch = min(batch, clips_at_once(bundle.student, frames))
    for low in range(0, len(prompts), batch):
        part = prompts[low : low + batch]
        text = bundle.student.encode_text(part)
        noise = SeededNoise(seeds[low : low + batch])
        latents = roll_clip(bundle.student, text, len(part), bundle.levels, noise, frames)
        clips += [Clip(video, bundle.form.fps) for video in to_frames(bundle.codec.decode(latents))]
    return clips


def own_and_hasty(bundle: Bundle, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Frames, Frames]:
    """Return uint8 clips [N, T, H, W, 3] as the sampler draws them, and the same drawn in one step from the same noise."""
    students = (bundle, replace(bundle, levels=(1.0,)))
    own, hasty = (np.stack([clip.frames for clip in draw_clips(student, prompts, seeds)]) for student in students)
    return own, hasty


@dataclass(frozen=True)
class Drawn:
    """One block of a clip: uint8 frames [T, H, W, 3], and the size of the cache it was drawn with."""

    frames: Frames
    cache_bytes: int


class ClipStream(Iterator[Drawn]):
    """One clip decoded block by block as it is drawn; its prompt can be changed on the way.

    Args:
        bundle: the student.
        prompt: what to show at first.
        seed: of all noise; the same seed and the same switches give the same frames.
        frames: pixel frames to draw, rounded up to whole blocks; None goes on for ever, and needs a window.
        given: frames uint8 [T, H, W, 3] of the student's size to go on from: an image (T = 1, held for one block) or a
            clip at its rate, of which the whole blocks that fit into the trained length are taken.

    Raises:
        ConfigError: the length is past the trained one and the student has no window, or ``given`` has another size.
    """

    def __init__(
        self, bundle: Bundle, prompt: str, seed: int, frames: int | None = None, given: Frames | None = None
    ) -> None:
        student, codec, spec = bundle.student, bundle.codec, bundle.student.spec
        latents = None if frames is None else latent_frames(codec, frames)
        if (latents is None or latents > spec.max_frames) and not spec.window:
            longest = (codec.first_frames + (spec.max_frames - 1) * codec.frames_per_latent) / bundle.form.fps
            asked = "an endless clip" if frames is None else f"{frames / bundle.form.fps:g} s"
            raise ConfigError(
                f"{asked} is longer than the {longest:.2f} s this student was trained on: "
                f"give a window of at most {spec.max_frames} latent frames (--window {spec.max_frames}) to roll its cache"
            )
        self._bundle = bundle
        self._decoder = codec.stream()
        self._turned: str | None = None
        self._cache_bytes = 0
        with torch.no_grad():
            first = None if given is None else _given_latents(bundle, given)
            text = student.encode_text([prompt])
        noise = SeededNoise([seed])
        self._blocks = rollout(student, text, 1, bundle.levels, noise, latents, given=first, switch=self._ask)

    def switch(self, prompt: str) -> None:
        """Turn to another prompt from the next block on."""
        self._turned = prompt

    def __next__(self) -> Drawn:
        """Draw the next block; StopIteration after the last."""
        block = next(self._blocks)
        with torch.no_grad():
            return Drawn(to_frames(self._decoder.push(block))[0], self._cache_bytes)

    def _ask(self, _: int, cache: Any) -> Any:
        self._cache_bytes = _nbytes(cache)
        prompt, self._turned = self._turned, None
        return None if prompt is None else self._bundle.student.encode_text([prompt])


def _nbytes(value: Any) -> int:
    """Return the bytes of all tensors in a student's cache."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        value = vars(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    return sum(map(_nbytes, parts))


def _given_latents(bundle: Bundle, given: Frames) -> Tensor:
    """Return the latents [1, F, C, h, w] of whole blocks of given frames."""
    size = (bundle.form.height, bundle.form.width)
    if given.shape[1:] != (*size, 3) or not len(given):
        raise ConfigError(f"given frames are {list(given.shape)}; this student needs [T, {size[0]}, {size[1]}, 3]")
    codec, spec = bundle.codec, bundle.student.spec
    taken = 0  # pixel frames of the whole blocks that fit, at least of the first
    latents = 0
    for block in block_sizes(bundle.student, spec.max_frames):
        frames = codec.first_frames + (latents + block - 1) * codec.frames_per_latent
        if taken and (frames > len(given) or latents + block > spec.max_frames):
            break
        taken, latents = frames, latents + block
    if len(given) < taken:  # an image, or too short a clip: its last frame is held
        given = np.concatenate([given, np.repeat(given[-1:], taken - len(given), axis=0)])
    return codec.encode(to_tensor(given[:taken])[None].to(codec.device))


def read_given(path: str | Path, form: ClipForm) -> Frames:
    """Return a picture (PNG, JPEG, WebP) or video file as frames [T, H, W, 3] of ``form``'s size and rate to start from.

    Raises:
        ClipError: it is neither, damaged, or too large.
    """
    return given_frames(read_file(path), form, str(path))


def given_frames(data: bytes, form: ClipForm, source: str) -> Frames:
    """Return what ``read_given`` does for the bytes of such a file; errors call it ``source``."""
    if is_picture(data):
        still = Clip(decode_image(data, source), form.fps)
        return resample(still, form.fps, 1, (form.height, form.width)).frames
    frames = max(1, min(form.frames, math.floor(probe_bytes(data, source).seconds * form.fps)))
    return read_bytes(data, replace(form, frames=frames), source).frames


def stream_clip(
    bundle: Bundle,
    prompt: str,
    seed: int,
    seconds: float,
    switches: Sequence[tuple[float, str]] = (),
    given: Frames | None = None,
) -> Iterator[Frames]:
    """Yield the frames [T, H, W, 3] of one clip of ``seconds`` (infinity: without end) block by block, as they are drawn.

    ``switches`` are (seconds, prompt): from the first block that starts at this time or later, the prompt is this one.
    See ``ClipStream`` for the rest.

    Raises:
        ConfigError: the length is not positive, or is past the trained one and the student has no window.
    """
    if not seconds > 0:
        raise ConfigError(f"seconds must be a positive number, got {seconds}")
    endless = math.isinf(seconds)
    left = None if endless else max(1, round(seconds * bundle.form.fps))
    stream = ClipStream(bundle, prompt, seed, left, given)
    coming = sorted(switches, key=lambda switch: switch[0])
    drawn = 0
    while left is None or drawn < left:
        while coming and drawn >= coming[0][0] * bundle.form.fps - 1e-6:
            stream.switch(coming.pop(0)[1])
        frames = next(stream).frames
        yield frames if left is None else frames[: left - drawn]
        drawn += len(frames)


def draw_long_clip(
    bundle: Bundle,
    prompt: str,
    seed: int,
    seconds: float,
    switches: Sequence[tuple[float, str]] = (),
    given: Frames | None = None,
) -> Clip:
    """Return one clip of ``seconds``, decoded block by block; see ``stream_clip``."""
    if math.isinf(seconds):
        raise ConfigError(f"seconds must be a positive number, got {seconds}")
    return Clip(np.concatenate(list(stream_clip(bundle, prompt, seed, seconds, switches, given))), bundle.form.fps)
