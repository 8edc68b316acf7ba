"""One arm: trained from the start student, merged, saved. The one way, for runs, their comparisons and a bench's cells."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.objectives.build import build_objective
from understudy.objectives.config import ObjectiveSection
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle, save_bundle
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import start_checkpoint
from understudy.students.lora import has_adapter, merged, save_adapter
from understudy.training.data import TeacherClips
from understudy.training.loop import Arm, train
from understudy.training.state import StepReport

OnStep = Callable[[StepReport, int], None]
"""(what the step did, steps in all)."""


def settings_of(config: RunConfig, name: str) -> tuple[ObjectiveSection, TrainConfig]:
    """Return what the arm ``name`` trains by: a comparison's own objective and rate, else the run's."""
    compared = config.compare.get(name)
    if compared is None:
        return config.objective, config.train
    lr = config.train.lr if compared.lr is None else compared.lr
    return compared.objective, config.train.model_copy(update={"lr": lr})


def train_arm(
    config: RunConfig, arm: Arm, data: TeacherClips, bundle: Bundle, on_step: OnStep
) -> tuple[StudentModule, dict[str, float]]:
    """Train ``arm`` to its end, from the start student or its newest checkpoint.

    Returns the averaged student, adapters still apart, and the shortcut probe (empty without a discriminator).

    Raises:
        Interrupted: SIGTERM or Ctrl-C; what is done is saved.
        TrainingError: a loss was not finite; the newest checkpoint is from before it.
    """
    settings, training = settings_of(config, arm.name)
    objective = build_objective(settings, training, config, data, bundle)
    state, probe = train(objective, bundle.student, arm, on_step)
    return state.policy("ema").eval(), probe


def save_arm(config: RunConfig, bundle: Bundle, trained: StudentModule, source: str, folder: Path) -> Bundle:
    """Write ``trained`` under ``folder``, adapters merged in and beside it; return it as it is to be drawn from.

    What was merged is written in full and drawn from in the type it was trained in.
    """
    own = config.student
    student = merged(trained, _public_weights(config, trained))
    if has_adapter(trained):
        save_adapter(trained, folder / "adapter", own.start, own.adapter, own.adapter_alpha)
    ready = replace(bundle, student=student, source=source)
    save_bundle(ready, folder)
    student.to(getattr(torch, config.student.dtype))
    return ready


def _public_weights(config: RunConfig, trained: StudentModule) -> dict[str, Tensor] | None:
    """Return the start's weights [D, D_in] as its file has them, where training held them in half precision."""
    own = config.student
    if own.dtype == "float32" or not has_adapter(trained) or not names_public_checkpoint(own.start):
        return None
    with suppress(CheckpointError):  # the file has gone since: what was trained is not lost for that
        return start_checkpoint(own).tensors
    return None
