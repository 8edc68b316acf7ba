"""The teacher that a recipe names."""

from pathlib import Path

from understudy.recipes.kinds import TEACHERS
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.config import TeacherSection


def build(config: TeacherSection, sealed: Path | None = None) -> Teacher | JobTeacher:
    """Return the teacher; ``sealed`` is where the embedded world leaves its true states. Nothing is asked yet."""
    teacher: Teacher | JobTeacher = TEACHERS.build(config, sealed)
    return teacher
