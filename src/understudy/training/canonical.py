"""The canonical form of a clip: what both sides look like before they are scored.

Teacher and student differ in size, rate, length, grade, grain, codec. A discriminator would learn that container
before any motion. So every clip is brought to the student's size, rate and length and through the student's codec;
teacher clips can also be *re-rendered* by the start student: noised to one of the sampler's levels and drawn again, block
by block, with the re-rendered past as context. What is left of the teacher is its motion, in the student's own look.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.codecs.base import Codec, to_tensor
from understudy.flow import Levels, level_lists
from understudy.students.base import StudentModule
from understudy.students.bundle import ClipForm
from understudy.students.rollout import SeededNoise, Start, roll_clip
from understudy.video.clips import Clip, resample

_NEXT_COPY = 1_000_003  # seeds apart, so that drawing a clip again draws it with other noise


@torch.no_grad()
def encode_clips(clips: Sequence[Clip], form: ClipForm, codec: Codec, batch: int = 32) -> Tensor:
    """Return latents [N, F, C, h, w] of teacher clips in canonical form."""
    parts = []
    for low in range(0, len(clips), batch):
        canonical = [
            resample(clip, form.fps, form.frames, (form.height, form.width)) for clip in clips[low : low + batch]
        ]
        parts.append(codec.encode(torch.stack([to_tensor(clip.frames) for clip in canonical]).to(codec.device)))
    return torch.cat(parts)


@dataclass(frozen=True)
class Rerender:
    """Draws clips again by the start student, in its own look (re-noising, SDEdit).

    Attributes:
        start: the student that draws. sampler: its noise levels.
        level: noise level to begin from, in (0, 1); None: clips stay as they are.
    """

    start: StudentModule
    level: float | None
    sampler: Levels

    def __call__(self, latents: Tensor, prompts: Sequence[str], seed: int, copies: int = 1) -> Tensor:
        """Return ``copies`` drawings of each clip [copies N, F, C, h, w], one whole set after the other."""
        if self.level is None:
            return latents
        levels = levels_below(self.level, self.sampler)
        seeds = range(seed, seed + copies * _NEXT_COPY, _NEXT_COPY)
        return torch.cat([rerender(self.start, latents, prompts, levels, each) for each in seeds])


def levels_below(level: float, sampler: Levels) -> Levels:
    """Return ``level`` and the sampler's levels under it: those a re-rendering from ``level`` visits."""
    below = tuple((level, *(t for t in own if t < level)) for own in level_lists(sampler))
    return below[0] if len(below) == 1 else below


@torch.no_grad()
def rerender(
    student: StudentModule,
    latents: Tensor,
    prompts: Sequence[str],
    levels: Levels,
    seed: int,
    batch: int = 64,
) -> Tensor:
    """Return latents [N, F, C, h, w] drawn again by ``student`` from noise level ``levels[0]`` < 1 downwards."""
    parts = []
    for low in range(0, len(latents), batch):
        part = latents[low : low + batch]
        text = student.encode_text(prompts[low : low + batch])
        noise = SeededNoise([seed + low + i for i in range(len(part))])
        parts.append(roll_clip(student, text, len(part), levels, noise, part.shape[1], Start(part)))
    return torch.cat(parts)
