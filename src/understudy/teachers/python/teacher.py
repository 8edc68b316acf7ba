"""A teacher of one's own."""

from pathlib import Path
from typing import Any

from understudy.errors import PluginError
from understudy.plugins import guarded
from understudy.teachers.base import ClipParams, ClipRequest, JobStatus, JobTeacher, Teacher, Terms
from understudy.teachers.python.config import PythonTeacherConfig
from understudy.video.clips import Clip, encode_mp4


class OwnTeacher:
    """A `Teacher` of the user's whose errors name it, and whose clips may be ``Clip`` objects as well as bytes."""

    def __init__(self, made: Any, label: str, terms: str | Terms) -> None:
        self._made, self._label, self.terms = made, label, terms
        self.name = str(made.name)

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """See `Teacher`."""
        clip = guarded(self._label, self._made.generate, prompt, seed, params)
        if isinstance(clip, Clip):
            return encode_mp4(clip)
        if not isinstance(clip, bytes | bytearray | memoryview):
            raise PluginError(
                f"{self._label} returned {type(clip).__name__} for {prompt!r}: return the bytes of an mp4 file or a Clip"
            )
        return bytes(clip)


class OwnJobTeacher:
    """A `JobTeacher` of the user's whose errors name it; what it does not say of itself is what holds for a service."""

    def __init__(self, made: Any, label: str, terms: str | Terms) -> None:
        self._made, self._label, self.terms = made, label, terms
        self.name = str(made.name)
        self.idempotent, self.local = bool(getattr(made, "idempotent", False)), bool(getattr(made, "local", False))
        self.own_files, self.currency = False, str(getattr(made, "currency", ""))

    def price(self, params: ClipParams) -> float | None:
        """See `JobTeacher`; None where the teacher does not say."""
        price: float | None = None
        if hasattr(self._made, "price"):
            price = guarded(self._label, self._made.price, params)
        return price

    def submit(self, request: ClipRequest) -> str:
        """See `JobTeacher`."""
        return str(guarded(self._label, self._made.submit, request))

    def poll(self, handle: str) -> JobStatus:
        """See `JobTeacher`."""
        status = guarded(self._label, self._made.poll, handle)
        if not isinstance(status, JobStatus):
            raise PluginError(
                f"{self._label} answered a poll with {type(status).__name__}, not an understudy.JobStatus"
            )
        return status

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """See `JobTeacher`."""
        guarded(self._label, self._made.download, handle, status, path)


def build(config: PythonTeacherConfig, sealed: Path | None) -> Teacher | JobTeacher:
    """Return what the class or function makes, or the object that was given.

    Raises:
        PluginError: it fails, or makes something that is no teacher.
    """
    made = config.made()
    jobs = ("submit", "poll", "download")
    methods = jobs if hasattr(made, "submit") and not hasattr(made, "generate") else ("generate",)
    absent = [name for name in ("name", "terms", *methods) if not hasattr(made, name)]
    if absent:
        raise PluginError(
            f"teacher {config.call} made a {type(made).__name__} without {', '.join(absent)}; see understudy.Teacher"
        )
    own = config.terms
    terms = made.terms if own is None else Terms(own.training, own.note, own.url, own.checked)
    teacher = OwnJobTeacher if methods is jobs else OwnTeacher
    return teacher(made, f"teacher {config.call}", terms)
