"""Clips from a student: finished ones in batches, or one of any length decoded as it is drawn."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from understudy.clips import Clip
from understudy.codecs.base import latent_frames, to_frames
from understudy.errors import ConfigError
from understudy.students.bundle import Bundle
from understudy.students.rollout import SeededNoise, clips_at_once, roll_clip, rollout


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


@torch.no_grad()
def draw_long_clip(bundle: Bundle, prompt: str, seed: int, seconds: float) -> Clip:
    """Return one clip of ``seconds``, decoded block by block; needs a window past the trained length.

    Raises:
        ConfigError: the length is not positive, or is past the trained one and the student has no window.
    """
    if not seconds > 0 or not math.isfinite(seconds):
        raise ConfigError(f"seconds must be a positive number, got {seconds}")
    frames = max(1, round(seconds * bundle.form.fps))
    latents = latent_frames(bundle.codec, frames)
    spec = bundle.student.spec
    if latents > spec.max_frames and not spec.window:
        codec = bundle.codec
        longest = (codec.first_frames + (spec.max_frames - 1) * codec.frames_per_latent) / bundle.form.fps
        raise ConfigError(
            f"{seconds:g} s is longer than the {longest:.2f} s this student was trained on: "
            f"give a window of at most {spec.max_frames} latent frames (--window {spec.max_frames}) to roll its cache"
        )
    text = bundle.student.encode_text([prompt])
    decoder = bundle.codec.stream()
    blocks = rollout(bundle.student, text, 1, bundle.levels, SeededNoise([seed]), latents)
    video = np.concatenate([to_frames(decoder.push(block))[0] for block in blocks])
    return Clip(video[:frames], bundle.form.fps)
