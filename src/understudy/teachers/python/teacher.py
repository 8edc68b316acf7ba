"""A teacher of one's own."""

from pathlib import Path

from understudy.errors import PluginError
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.python.config import PythonTeacherConfig


def build(config: PythonTeacherConfig, sealed: Path | None) -> Teacher | JobTeacher:
    """Return what the class or function makes, or the object that was given.

    Raises:
        PluginError: it fails, or makes something that is no teacher.
    """
    made = config.made()
    absent = [name for name in ("name", "terms") if not hasattr(made, name)]
    if not hasattr(made, "generate") and not hasattr(made, "submit"):
        absent.append("generate")
    if absent:
        raise PluginError(
            f"teacher {config.call} made a {type(made).__name__} without {', '.join(absent)}; see understudy.Teacher"
        )
    teacher: Teacher | JobTeacher = made
    return teacher
