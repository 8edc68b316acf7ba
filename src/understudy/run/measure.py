"""Measuring students of a run on its held-out prompts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from understudy.codecs.base import to_frames, to_tensor
from understudy.errors import ConfigError
from understudy.evaluation.metrics import ClipSet, Reference, measure, prepare, to_json
from understudy.evaluation.redraw import in_own_look
from understudy.files import ensure_folder, write_json_atomic
from understudy.prompts import prompt_id
from understudy.recipes.config import RunConfig
from understudy.run.clips import collect_held_out
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle
from understudy.students.generate import draw_clips
from understudy.video.clips import Clip, write_mp4

_EVALUATION_SEED: Final = 10_000


@dataclass(frozen=True)
class Evaluator:
    """Held-out prompts, the teacher's clips of them in the student's form, and where results go.

    ``teacher`` holds other clips than ``reference``: a floor measured against itself would flatter the teacher.
    """

    config: RunConfig
    bundle: Bundle
    prompts: tuple[str, ...]
    reference: Reference
    teacher: ClipSet
    folder: Path

    def student(self, name: str, student: StudentModule) -> dict[str, Any]:
        """Measure a student on all held-out prompts, with the same seeds for every arm."""
        return self._measure(name, self.draw(student))

    def draw(self, student: StudentModule) -> ClipSet:
        """Return a student's clips of all held-out prompts."""
        per_prompt = self.config.evaluation.rollouts
        texts = [prompt for prompt in self.prompts for _ in range(per_prompt)]
        clips = draw_clips(
            replace(self.bundle, student=student), texts, [_EVALUATION_SEED + i for i in range(len(texts))]
        )
        groups = tuple(tuple(clips[i : i + per_prompt]) for i in range(0, len(clips), per_prompt))
        return ClipSet(self.prompts, groups)

    def teacher_floor(self) -> dict[str, Any]:
        """Measure the teacher's own clips through the student's codec: what the measuring itself costs."""
        return self._measure("teacher", self.drawn_by_teacher())

    def drawn_by_teacher(self) -> ClipSet:
        """Return teacher clips through the student's codec, none of them in the reference."""
        groups = tuple(tuple(_round_trip(clip, self.bundle) for clip in clips) for clips in self.teacher.clips)
        return ClipSet(self.teacher.prompts, groups)

    def _measure(self, name: str, clips: ClipSet) -> dict[str, Any]:
        student = self.bundle.student
        metrics = to_json(
            measure(clips, self.reference, block=student.block_frames * self.bundle.codec.frames_per_latent)
        )
        folder = ensure_folder(self.folder / "clips" / name)
        shown = (
            np.linspace(0, len(self.prompts) - 1, min(self.config.evaluation.shown, len(self.prompts)))
            .round()
            .astype(int)
        )
        drawn = dict(zip(clips.prompts, clips.clips, strict=True))
        for index in shown:
            for i, clip in enumerate(drawn.get(self.prompts[index], ())[:2]):
                write_mp4(folder / f"{prompt_id(self.prompts[index])}-{i}.mp4", clip)
        texts = {prompt_id(self.prompts[index]): self.prompts[index] for index in shown}
        write_json_atomic(self.folder / "clips" / "prompts.json", texts)
        return metrics


def evaluator(config: RunConfig, bundle: Bundle) -> Evaluator:
    """Return what measures students of the recipe, asking the teacher for the reference clips still missing."""
    settings, form = config.evaluation, bundle.form
    pairs = collect_held_out(config, form)
    by_prompt: dict[str, list[Clip]] = {}
    for prompt, clip in pairs:
        by_prompt.setdefault(prompt, []).append(clip)
    if not by_prompt:
        raise ConfigError("the teacher delivered no clip of any held-out prompt: nothing can be evaluated")
    prompts = tuple(by_prompt)
    apart = {prompt: _for_floor(len(clips), settings.floor) for prompt, clips in by_prompt.items()}
    reference = ClipSet(prompts, tuple(tuple(by_prompt[prompt][apart[prompt] :]) for prompt in prompts))
    measured = tuple(prompt for prompt in prompts if apart[prompt])
    if not measured:
        raise ConfigError(
            f"the teacher has one clip of each of the {len(prompts)} held-out prompts, such as {prompts[0]!r}: the floor "
            "needs another one, so give at least two clips of one prompt"
        )
    floor = ClipSet(measured, tuple(tuple(by_prompt[prompt][: apart[prompt]]) for prompt in measured))
    return Evaluator(config, bundle, prompts, prepare(in_own_look(reference)), floor, config.out)


def _for_floor(clips: int, wanted: int) -> int:
    """Return how many of a prompt's ``clips`` are measured as if they were a student's; where few, half of them."""
    return wanted if clips >= wanted + 2 else clips // 2


def _round_trip(clip: Clip, bundle: Bundle) -> Clip:
    """Return the clip through the student's codec."""
    with torch.no_grad():
        frames = to_tensor(clip.frames)[None].to(bundle.codec.device)
        return Clip(to_frames(bundle.codec.decode(bundle.codec.encode(frames)))[0], clip.fps)
