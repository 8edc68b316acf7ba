"""The teacher contract: a prompt goes in, a finished mp4 comes out, and nothing else ever crosses.

There are two forms of it. A `Teacher` hands the clip over at once. A `JobTeacher` takes a job, is asked about it until it is
done, and then serves the clip; services and servers are of this form, and the job's id survives a crash of the asker.
`as_jobs` gives the first form the second one's shape, so that a collection knows only one.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

Verdict = Literal["yes", "no", "conditional", "unknown"]
"""Whether terms of use allow training a model on the outputs."""

JobState = Literal["queued", "running", "done", "rejected", "failed", "expired"]
"""``rejected`` is permanent (moderation), ``failed`` was this time, ``expired`` is lost at the teacher."""


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


@dataclass(frozen=True)
class Terms:
    """What a teacher's terms of use say about training on its outputs. A note for the user, not legal advice.

    Attributes:
        training: ``yes``, ``no``, ``conditional`` (see ``note``) or ``unknown`` (nobody has read them).
        note: what they say, in a sentence.
        url: where.
        checked: when somebody read them last, ISO date.
    """

    training: Verdict
    note: str
    url: str = ""
    checked: str = ""

    def __str__(self) -> str:
        """Return all of it on one line, as records keep it."""
        details = ", ".join(filter(None, (self.url, f"checked {self.checked}" if self.checked else "")))
        return f"training on outputs: {self.training}; {self.note}{f' ({details})' if details else ''}"


class Teacher(Protocol):
    """A black-box video generator that hands its clips over at once."""

    @property
    def name(self) -> str:
        """Stable identity including version; part of every record's key."""
        ...

    @property
    def terms(self) -> str | Terms:
        """What its terms of use say about training on its outputs; plain text counts as ``conditional``."""
        ...

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """Return one finished clip for ``prompt`` as the bytes of an mp4 file.

        Raises:
            PromptRejected: the teacher will not draw this prompt (permanent).
            TeacherError: it failed this time.
        """
        ...


@dataclass(frozen=True)
class ClipRequest:
    """One clip to ask a teacher for.

    Attributes:
        prompt: normalised text.
        seed: 0..2**31-1.
        params: the clip wanted.
        key: names this submission; a teacher that is ``idempotent`` makes one job of it however often it is sent.
    """

    prompt: str
    seed: int
    params: ClipParams
    key: str


@dataclass(frozen=True)
class JobStatus:
    """What a teacher says about a job.

    Attributes:
        state: see `JobState`.
        reason: why it was rejected, failed or expired.
        asset: address of the finished clip, where the teacher gives one; a ``data:`` address holds the clip itself.
        cost: what the teacher charged, where it says so.
        notes: what else is worth keeping with the clip, such as the prompt as the teacher rewrote it.
        again: of a failed job, whether handing it in once more may help.
        strange: the teacher's own word for the state where nobody knows what it means; the state is then ``running``.
        seconds: within how many the clip has to arrive; None: as long as a download may take.
    """

    state: JobState
    reason: str = ""
    asset: str = ""
    cost: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    again: bool = True
    strange: str = ""
    seconds: float | None = None


class JobTeacher(Protocol):
    """A black-box video generator that works on jobs. Called from several threads at once."""

    @property
    def name(self) -> str:
        """Stable identity including version; part of every record's key."""
        ...

    @property
    def terms(self) -> str | Terms:
        """See `Teacher.terms`."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether sending a request again, under the same key, is sure to make no second job."""
        ...

    @property
    def local(self) -> bool:
        """Whether jobs live in this process and cost nothing: then none can be resumed, and none has to be."""
        ...

    @property
    def own_files(self) -> bool:
        """Whether its clips are files that this program has encoded itself, just now: they need no guarded decoder."""
        ...

    @property
    def currency(self) -> str:
        """What `price` counts in."""
        ...

    def price(self, params: ClipParams) -> float | None:
        """Return what one clip is expected to cost; 0 for nothing, None when nobody knows."""
        ...

    def submit(self, request: ClipRequest) -> str:
        """Hand in a job and return its handle, all that is needed to ask for it later, also after a restart.

        Raises:
            PromptRejected: the teacher says in a structured way that it will not draw this prompt (permanent).
            TransientError: asking again may help; its ``unsure`` says whether the job may exist nevertheless.
            TeacherStopped: no job can be handed in, and this one was not.
            TeacherError: this job failed.
        """
        ...

    def poll(self, handle: str) -> JobStatus:
        """Return how a job is doing.

        Raises:
            JobForgotten: the teacher does not know it.
            TransientError, TeacherStopped, TeacherError: as `submit`.
        """
        ...

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """Write the finished clip of a job that `poll` called done to the file ``path``.

        Raises:
            AssetGone: the clip is no longer there.
            ClipRefused: the clip is not taken, however often it is fetched.
            ClipError: what came is no clip.
            PromptRejected, TransientError, TeacherStopped, TeacherError: as `submit`.
        """
        ...


@runtime_checkable
class ListsJobs(Protocol):
    """A `JobTeacher` whose service may keep a list of its jobs."""

    @property
    def lists(self) -> bool:
        """Whether it does."""
        ...

    def find(self, request: ClipRequest, begun: float, known: Callable[[str], bool]) -> str | None:
        """Return the handle of a job in that list which ``request``, sent ``begun`` seconds after 1970, has made, or None.

        Args:
            request: whose answer was lost.
            begun: when.
            known: says of a handle whether it is known to belong to another request.

        Raises:
            TransientError, TeacherStopped, TeacherError: as `JobTeacher.submit`.
        """
        ...


@runtime_checkable
class GivesUp(Protocol):
    """A `JobTeacher` whose questions and downloads can be ended from another thread."""

    def give_up(self) -> None:
        """End questions and downloads under way, soon, with TransientError; submissions are left alone."""
        ...


class _Immediate:
    """A `Teacher` as a `JobTeacher`: a job is done when it is handed in, and the clip made on download.

    The handle is the request itself, so a later process can take it up.
    """

    idempotent = local = True
    currency = ""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.name, self.terms = teacher.name, teacher.terms
        self.own_files = bool(getattr(teacher, "own_files", False))

    def price(self, params: ClipParams) -> float | None:
        """Return 0."""
        return 0.0

    def submit(self, request: ClipRequest) -> str:
        """Write the request down."""
        return json.dumps(asdict(request))

    def file(self, handle: str) -> str:
        """Return the name of the finished file that a job stands for; empty where the clip is made when asked for."""
        name = getattr(self._teacher, "file", None)
        request = json.loads(handle)
        return str(name(request["prompt"], request["seed"])) if name is not None else ""

    def poll(self, handle: str) -> JobStatus:
        """Return that the job is done."""
        return JobStatus("done")

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """Make the clip."""
        request = json.loads(handle)
        path.write_bytes(self._teacher.generate(request["prompt"], request["seed"], ClipParams(**request["params"])))


def as_jobs(teacher: Teacher | JobTeacher) -> JobTeacher:
    """Return ``teacher`` in the form that works on jobs."""
    if hasattr(teacher, "generate"):
        return _Immediate(cast(Teacher, teacher))
    return teacher
