"""What the sections of all teachers have."""

from typing import ClassVar, Literal

from pydantic import Field

from understudy.recipes.section import Section, far
from understudy.teachers.base import ClipParams, Terms
from understudy.teachers.terms import known_terms


class TeacherSection(Section):
    """Base of all teachers' sections: what a recipe's readers ask of one without knowing its kind."""

    kind: str

    jobs_at_once: ClassVar[int] = 1
    """Jobs at the same time where the recipe does not say."""
    outside: ClassVar[bool] = False
    """Whether it is a service, a server or a pipeline, whose terms are shown before it is asked."""

    def clip_params(self) -> ClipParams:
        """Return what is asked for explicitly: nothing of the embedded world and of a folder, everything of services."""
        return ClipParams()


class TermsConfig(Section):
    """What the teacher's terms say about training on its outputs, as you have read them."""

    training: Literal["yes", "no", "conditional", "unknown"]
    """Whether they allow it."""
    note: str = Field(min_length=1)
    """What they say, in a sentence."""
    url: str = ""
    """Where they say it."""
    checked: str = ""
    """When you read them, as 2026-11-01."""


class RequestConfig(TeacherSection):
    """What is asked of a teacher that is not the embedded world."""

    frames: int = Field(81, ge=1, le=far(100_000))
    """Frames asked for."""
    fps: float = Field(16.0, gt=0, le=far(1000))
    """Frames per second asked for."""
    width: int = Field(832, ge=16, le=far(16_384))
    """Pixels asked for."""
    height: int = Field(480, ge=16, le=far(16_384))
    """Pixels asked for."""
    terms: TermsConfig | None = None
    """What the terms say; null: what is known of the teacher (`understudy collect` prints it)."""

    outside: ClassVar[bool] = True

    def clip_params(self) -> ClipParams:
        """Return what is asked for explicitly."""
        return ClipParams(self.frames, self.fps, self.width, self.height)

    def stated_terms(self, kind: str, model: str) -> Terms:
        """Return what the recipe says of the terms, or what is known of ``model`` of a ``kind``."""
        own = self.terms
        return known_terms(kind, model) if own is None else Terms(own.training, own.note, own.url, own.checked)
