"""The section of a teacher from Python."""

from typing import ClassVar, Literal

from understudy.plugins import PythonSection
from understudy.teachers.config import RequestConfig


class PythonTeacherConfig(PythonSection, RequestConfig):
    """A class or function that makes an ``understudy.Teacher``: a name, terms, and ``generate``."""

    kind: Literal["python"] = "python"

    what: ClassVar[str] = "teacher"
