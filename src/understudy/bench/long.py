"""Drift: how clips many times the training length move and look, part by part."""

import itertools
from typing import Any, Final

from understudy.bench.suite import LongConfig
from understudy.evaluation.metrics import ClipSet, measure, prepare, to_json
from understudy.evaluation.redraw import in_own_look
from understudy.recipes.config import RunConfig
from understudy.run.clips import collected
from understudy.run.prompts import held_out_prompts
from understudy.students.bundle import Bundle
from understudy.students.generate import draw_long_clip
from understudy.teachers.world.config import WorldTeacherConfig
from understudy.video.clips import Clip, resample

TEACHER: Final = "the teacher's own clips"
# The law's nearest trajectory is searched from a clip's opening: for later parts only these say something.
_METRICS = ("motion_distance", "magnitude", "look_error", "sharpness", "permanence", "colour_ok", "pixel_motion")


def line_of(row: str, window: str) -> tuple[str, str]:
    """Return what names a curve in tables and plots: the teacher's is no row's."""
    return ("-" if window == TEACHER else row), window


def drift(
    config: RunConfig, bundle: Bundle, long: LongConfig, teacher: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Return for every window, by name, the metrics of each part of a training length.

    ``teacher`` adds how far the teacher's own balls travel in each part, under ``TEACHER``: they come to rest too.
    """
    prompts = tuple(held_out_prompts(config)[:: max(1, config.evaluation.prompts // long.prompts)][: long.prompts])
    form = bundle.form
    expected = [in_own_look(part) for part in _parts(_teacher(config, bundle, prompts, long), form.frames)]
    references = [prepare(part) for part in expected]
    result = {}
    if teacher:
        own = [to_json(measure(part, reference)) for part, reference in zip(expected, references, strict=True)]
        result[TEACHER] = [{"magnitude": part["magnitude"]} for part in own]
    for name, (window, sink) in long.windows.items():
        rolling = bundle.with_window(window, sink)
        seconds = long.times * form.frames / form.fps
        clips = tuple(
            tuple(draw_long_clip(rolling, prompt, 20_000 + take, seconds) for take in range(long.rollouts))
            for prompt in prompts
        )
        parts = _parts(ClipSet(prompts, clips), form.frames)
        measured = [to_json(measure(part, reference)) for part, reference in zip(parts, references, strict=True)]
        result[name] = [{metric: part[metric] for metric in _METRICS if metric in part} for part in measured]
    return result


def _teacher(config: RunConfig, bundle: Bundle, prompts: tuple[str, ...], long: LongConfig) -> ClipSet:
    """Return long clips of the teacher in the student's form; those of a folder have to be long enough."""
    form = bundle.form
    if isinstance(config.teacher, WorldTeacherConfig):
        frames = round(long.times * form.frames * config.teacher.fps / form.fps)
        config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"frames": frames})})
    store = config.clips.store.parent / f"{config.clips.store.name}-long"
    groups: dict[str, list[Clip]] = {prompt: [] for prompt in prompts}
    for prompt, clip in collected(config, prompts, 4, store):
        groups[prompt].append(resample(clip, form.fps, long.times * form.frames, (form.height, form.width)))
    return ClipSet(prompts, tuple(tuple(group) for group in groups.values()))


def _parts(clips: ClipSet, frames: int) -> list[ClipSet]:
    """Cut clips into parts of ``frames`` frames."""
    edges = range(0, clips.clips[0][0].length + 1, frames)
    return [
        ClipSet(clips.prompts, tuple(tuple(Clip(c.frames[low:high], c.fps) for c in group) for group in clips.clips))
        for low, high in itertools.pairwise(edges)
    ]
