"""The teacher contract: a prompt goes in, a finished mp4 comes out, and nothing else ever crosses."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ClipParams:
    """What is asked of a teacher; ``None`` leaves the choice to the teacher.

    Attributes:
        frames: pixel frames T.
        fps: frames per second.
        width, height: pixels W and H.
    """

    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None


class Teacher(Protocol):
    """A black-box video generator."""

    @property
    def name(self) -> str:
        """Stable identity including version; part of every record's key."""
        ...

    @property
    def terms(self) -> str:
        """What its terms of use say about training on its outputs."""
        ...

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """Return one finished clip for ``prompt`` as the bytes of an mp4 file.

        Raises:
            PromptRejected: the teacher will not draw this prompt (permanent).
            TeacherError: it failed this time.
        """
        ...
