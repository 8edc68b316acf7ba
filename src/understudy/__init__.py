"""Understudy: distil any video generator you can only watch into a causal autoregressive model you own.

    import understudy as us

    student = us.load("builtin:frame")
    clip = student.draw("a small red ball is thrown to the left", seconds=4, seed=1)
    run = us.Run("quickstart", teacher=MyTeacher(), reward=my_score, steps=60)

Names are imported when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.api import Run, Stream, Student, load, recipe
    from understudy.discriminators.base import Discriminator
    from understudy.errors import PluginError, PromptRejected, TeacherError, UnderstudyError
    from understudy.objectives.inputs import Inputs
    from understudy.objectives.on_policy import OnPolicy
    from understudy.objectives.rollouts import Rollouts
    from understudy.objectives.update import Update
    from understudy.objectives.verdict import Verdict
    from understudy.recipes.config import RunConfig
    from understudy.rewards.base import Reward
    from understudy.students.base import StudentModule
    from understudy.students.bundle import Bundle
    from understudy.teachers.base import ClipParams, ClipRequest, JobStatus, JobTeacher, Teacher, Terms
    from understudy.tracking.events import Event
    from understudy.training.loop import Objective
    from understudy.training.state import StepReport, TrainState, new_state
    from understudy.video.clips import Clip, ClipForm

__version__ = "0.1.0"

_HOMES = {
    "api": ("Run", "Stream", "Student", "load", "recipe"),
    "video.clips": ("Clip", "ClipForm"),
    "discriminators.base": ("Discriminator",),
    "errors": ("PluginError", "PromptRejected", "TeacherError", "UnderstudyError"),
    "objectives.inputs": ("Inputs",),
    "objectives.on_policy": ("OnPolicy",),
    "objectives.rollouts": ("Rollouts",),
    "objectives.update": ("Update",),
    "objectives.verdict": ("Verdict",),
    "recipes.config": ("RunConfig",),
    "rewards.base": ("Reward",),
    "students.base": ("StudentModule",),
    "students.bundle": ("Bundle",),
    "teachers.base": ("ClipParams", "ClipRequest", "JobStatus", "JobTeacher", "Teacher", "Terms"),
    "tracking.events": ("Event",),
    "training.loop": ("Objective",),
    "training.state": ("StepReport", "TrainState", "new_state"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bundle",
    "Clip",
    "ClipForm",
    "ClipParams",
    "ClipRequest",
    "Discriminator",
    "Event",
    "Inputs",
    "JobStatus",
    "JobTeacher",
    "Objective",
    "OnPolicy",
    "PluginError",
    "PromptRejected",
    "Reward",
    "Rollouts",
    "Run",
    "RunConfig",
    "StepReport",
    "Stream",
    "Student",
    "StudentModule",
    "Teacher",
    "TeacherError",
    "Terms",
    "TrainState",
    "UnderstudyError",
    "Update",
    "Verdict",
    "load",
    "new_state",
    "recipe",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
