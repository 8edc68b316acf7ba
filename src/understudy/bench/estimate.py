"""How long a grid will take: a few operations timed on this machine, times how often each cell does them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from understudy.bench.suite import Cell
from understudy.objectives.config import Passes
from understudy.recipes.config import RunConfig
from understudy.run.start import load_start
from understudy.students.generate import draw_clips
from understudy.students.rollout import SeededNoise, roll_clip

_BATCH = 8
_PREPARE = 15.0  # seconds to start, read and encode clips, and parse the reference, measured on one core
_MEASURE = 0.03  # seconds to measure one clip, measured on one core


@dataclass(frozen=True)
class Unit:
    """Seconds for one clip: a rollout, a forward and a forward-backward pass of the student."""

    rollout: float
    forward: float
    backward: float

    def of(self, passes: Passes) -> float:
        """Return the seconds of ``passes``."""
        return passes.rollouts * self.rollout + passes.forward * self.forward + passes.backward * self.backward


def calibrate(config: RunConfig) -> Unit:
    """Time the operations with the recipe's start student, a few seconds in all."""
    torch.set_num_threads(max(1, config.threads))
    bundle = load_start(config)
    student = bundle.student
    text = ["a small red ball is dropped"] * _BATCH
    frames = bundle.form.frames // bundle.codec.frames_per_latent
    shape = (_BATCH, frames, *student.latent_shape)
    noisy, levels = torch.randn(shape), torch.ones(shape[:2])
    draw_clips(bundle, text[:1], [0])  # the first pass pays for memory

    def roll() -> None:
        noise = SeededNoise(list(range(_BATCH)))
        roll_clip(student, student.encode_text(text), _BATCH, bundle.levels, noise, frames)

    def forward() -> torch.Tensor:
        return student.teacher_forced(noisy, noisy, levels, student.encode_text(text)).square().mean()

    def backward() -> None:
        torch.autograd.grad(forward(), [p for p in student.parameters() if p.requires_grad], allow_unused=True)

    with torch.no_grad():
        rollout, one_way = _timed(roll), _timed(forward)
    student.requires_grad_(True)
    return Unit(rollout, one_way, _timed(backward))


def _timed(function: Callable[[], object], times: int = 3) -> float:
    """Return the seconds for one clip: the shortest of a few runs, in processor time: others may want the cores too."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken) / _BATCH


def seconds(cell: Cell, unit: Unit) -> float:
    """Return the seconds that ``cell`` will take on one core, within a third or so."""
    config = cell.config
    objective, judge, train = config.objective, config.discriminator, config.train
    total = _PREPARE + config.evaluation.prompts * config.evaluation.rollouts * (unit.rollout + _MEASURE)
    if cell.long is not None:
        clips = cell.long.prompts * cell.long.rollouts * len(cell.long.windows)
        total += 2 * clips * cell.long.times * (unit.rollout + _MEASURE)
    if not cell.spec.train:
        return total
    batch = train.prompts * objective.group
    step, warmup = objective.update_passes(judge), objective.warmup_passes(judge, batch)
    total += train.steps * batch * unit.of(step) + unit.of(warmup)
    if cell.spec.distil is not None:
        total += cell.spec.distil.steps * 48 * unit.backward
    return total


def lines(cells: Sequence[Cell], unit: Unit) -> list[str]:
    """Say, setting by setting and row by row, which seeds of ``cells`` there are and how long each will take."""
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.setting, cell.row), []).append(cell)
    said = []
    for (setting, row), same in grouped.items():
        seeds = f"seed{'s' if len(same) > 1 else ''} {', '.join(str(cell.seed) for cell in same)}"
        each = " each" if len(same) > 1 else ""
        said.append(f"{setting} / {row}: {seeds}; about {seconds(same[0], unit):.0f} s{each}")
    return said


def wall(cells: Sequence[Cell], unit: Unit, workers: int) -> float:
    """Return the seconds until all ``cells`` are done by ``workers`` processes."""
    times = [seconds(cell, unit) for cell in cells]
    return max(sum(times) / workers, max(times, default=0.0))
