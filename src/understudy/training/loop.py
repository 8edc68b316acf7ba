"""The training loop, the same for every objective: it owns time, records, checkpoints and interruption; no maths."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from understudy.errors import UnderstudyError
from understudy.files import append_line, sync, write_bytes_atomic
from understudy.reading import json_lines, line_object
from understudy.students.base import StudentModule
from understudy.training.checkpoint import load_checkpoint, save_checkpoint
from understudy.training.state import StepReport, TrainState


class Objective(Protocol):
    """What turns a state into the next: AFD, a baseline, or your own. See CONTRIBUTING for a template."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        ...

    def prepare(self, state: TrainState) -> dict[str, float]:
        """Do what is deterministic and not worth saving; return the shortcut probe, if the objective has one."""
        ...

    def step(self, state: TrainState) -> StepReport:
        """Do one step, drawing randomness from ``state.generator`` only."""
        ...


class Interrupted(UnderstudyError):
    """The run was asked to stop; it is saved. ``signal`` is the number of the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


@dataclass(frozen=True)
class Arm:
    """One training run inside a run folder.

    Attributes:
        name: of the arm, in records and folders.
        folder: for its checkpoints.
        metrics: the run's metrics.jsonl.
        config_hash: a checkpoint of another config is refused.
        checkpoint_every: steps between checkpoints.
        resume: the command that goes on.
    """

    name: str
    folder: Path
    metrics: Path
    config_hash: str
    checkpoint_every: int
    resume: str


def train(
    objective: Objective, start: StudentModule, arm: Arm, on_step: Callable[[StepReport, int], None]
) -> tuple[TrainState, dict[str, float]]:
    """Run ``objective`` from the start student, or from the arm's newest checkpoint, to its last step.

    Returns the final state and the shortcut probe.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state is saved first.
        TrainingError: a loss was not finite; the newest checkpoint is from before it.
    """
    state = objective.initial_state(start)
    resumed = load_checkpoint(state, arm.folder, arm.config_hash)
    probe = objective.prepare(state)
    trim(arm.metrics, arm.name, state.step if resumed else 0)
    with stop_signals() as stopped:
        while state.step < objective.steps:
            began = time.perf_counter()
            report = objective.step(state)
            state.step += 1
            seconds = time.perf_counter() - began
            record(
                arm.metrics,
                {
                    "arm": arm.name,
                    "step": report.step,
                    "phase": report.phase,
                    **report.values,
                    "seconds": seconds,
                },
            )
            on_step(report, objective.steps)
            if state.step % arm.checkpoint_every == 0 or stopped or state.step == objective.steps:
                sync(arm.metrics)  # a checkpoint never stands on records that a power cut takes
                save_checkpoint(state, arm.folder, arm.config_hash)
            if stopped:
                done = f"stopped after step {state.step} of {objective.steps} ({arm.name}), saved"
                raise Interrupted(f"{done}; go on with: {arm.resume}", stopped[0])
    return state, probe


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying, so the running step can end and be saved."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    try:
        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller owns the signals
        previous = {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def record(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line; figures that are not finite become null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
    append_line(path, json.dumps(clean))


def trim(path: Path, arm: str, step: int) -> None:
    """Drop the lines of ``arm`` from ``step`` on, and what is no record: those steps are done again after a resume."""
    if not path.is_file():
        return
    kept = []
    for line in json_lines(path):
        row = line_object(line)
        if row is not None and (row.get("arm") != arm or "phase" not in row or _before(row.get("step"), step)):
            kept.append(line + b"\n")
    write_bytes_atomic(path, b"".join(kept))


def _before(number: object, step: int) -> bool:
    return isinstance(number, int) and number < step
