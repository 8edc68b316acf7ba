"""The section of a teacher from Python."""

from typing import ClassVar, Literal

from pydantic import Field

from understudy.plugins import PythonSection
from understudy.teachers.base import ClipParams
from understudy.teachers.config import TeacherSection, TermsConfig


class PythonTeacherConfig(PythonSection, TeacherSection):
    """A class or function that makes an ``understudy.Teacher``: a name, terms, and ``generate``."""

    kind: Literal["python"] = "python"
    frames: int | None = Field(None, ge=1)
    """Frames asked for; null: the teacher chooses."""
    fps: float | None = Field(None, gt=0)
    """Frames per second asked for; null: the teacher chooses."""
    width: int | None = Field(None, ge=16)
    """Pixels asked for; null: the teacher chooses."""
    height: int | None = Field(None, ge=16)
    """Pixels asked for; null: the teacher chooses."""
    terms: TermsConfig | None = None
    """What the terms say; null: what the teacher says of itself."""

    what: ClassVar[str] = "teacher"
    outside: ClassVar[bool] = True

    def clip_params(self) -> ClipParams:
        """Return what is asked for explicitly."""
        return ClipParams(self.frames, self.fps, self.width, self.height)
