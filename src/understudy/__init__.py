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
    from understudy.clips import Clip
    from understudy.discriminators.base import Discriminator
    from understudy.errors import PromptRejected, TeacherError, UnderstudyError
    from understudy.objectives.inputs import Inputs
    from understudy.objectives.on_policy import OnPolicy
    from understudy.objectives.rollouts import Rollouts
    from understudy.objectives.verdict import Verdict
    from understudy.recipes.config import RunConfig
    from understudy.students.base import StudentModule
    from understudy.students.bundle import Bundle
    from understudy.teachers.base import ClipParams, JobTeacher, Teacher
    from understudy.tracking.events import Event
    from understudy.training.loop import Objective

__version__ = "0.1.0"

_HOMES = {
    "api": ("Run", "Stream", "Student", "load", "recipe"),
    "clips": ("Clip",),
    "discriminators.base": ("Discriminator",),
    "errors": ("PromptRejected", "TeacherError", "UnderstudyError"),
    "objectives.inputs": ("Inputs",),
    "objectives.on_policy": ("OnPolicy",),
    "objectives.rollouts": ("Rollouts",),
    "objectives.verdict": ("Verdict",),
    "recipes.config": ("RunConfig",),
    "students.base": ("StudentModule",),
    "students.bundle": ("Bundle",),
    "teachers.base": ("ClipParams", "JobTeacher", "Teacher"),
    "tracking.events": ("Event",),
    "training.loop": ("Objective",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bundle",
    "Clip",
    "ClipParams",
    "Discriminator",
    "Event",
    "Inputs",
    "JobTeacher",
    "Objective",
    "OnPolicy",
    "PromptRejected",
    "Rollouts",
    "Run",
    "RunConfig",
    "Stream",
    "Student",
    "StudentModule",
    "Teacher",
    "TeacherError",
    "UnderstudyError",
    "Verdict",
    "load",
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
