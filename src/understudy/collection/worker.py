"""The life of one job: submit, note its id, poll, download, check, keep. Every step can be the last before a kill."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from understudy.clips import read_file
from understudy.collection.ledger import Budget, JobRow, Ledger
from understudy.collection.pace import Durations, Pace, Stopped
from understudy.collection.store import ClipStore, Origin
from understudy.decoding import Limits
from understudy.errors import (
    AssetGone,
    ClipError,
    JobForgotten,
    PromptRejected,
    TeacherError,
    TeacherStopped,
    TransientError,
)
from understudy.ingest.c2pa import check_training_allowed
from understudy.ingest.facts import measure
from understudy.ingest.guard import probe
from understudy.teachers.base import ClipParams, ClipRequest, JobState, JobStatus, JobTeacher

Ending = Literal["done", "rejected", "failed", "expired", "unusable", "skipped", "elsewhere", "left", "unfunded"]
"""What came of a job in this collection. ``unusable``: a finished file that cannot be read, now or later.
``elsewhere``: another collector has it; ``left``: under way or queued, for the
next collection to go on with; ``unfunded``: the budget does not allow to ask for it."""

Check = Callable[[Path], dict[str, object]]
"""Says what arrived in a file, or raises ClipError when it is no clip."""

_T = TypeVar("_T")
_PATIENCE = 1.0  # seconds that a finished clip waits for places at the teacher to be filled
_FORGOTTEN_POLLS = 3  # a job that was just made may not be visible everywhere yet


@dataclass(frozen=True)
class Policy:
    """How a collection behaves.

    Attributes:
        concurrency: jobs that the teacher has at the same time; clips are fetched and checked beside them.
        per_minute: submissions per minute at most; None: no limit.
        poll: most seconds between two questions about one job; see `understudy.collection.pace.Durations`.
        tries: how often a request is sent before the teacher counts as out of reach.
        downloads: how often the clip of a finished job is fetched, each time from a fresh address and after a longer
            wait, before the job is left for the next collection.
        attempts: submissions per clip and collection: a job that the teacher lost or failed is asked for again.
        timeout: seconds after which a job is left for the next collection.
        first_wait, longest_wait: limits of the waits between tries, in seconds.
        failures: jobs that may fail one after the other, with none done, before the collection stops.
        budget: see `Budget`.
        retry_unsure: ask again where nobody knows whether the teacher has the job already.
    """

    concurrency: int = 1
    per_minute: float | None = None
    poll: float = 2.0
    tries: int = 8
    downloads: int = 6
    attempts: int = 2
    timeout: float = 3600.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    failures: int = 5
    budget: Budget = field(default_factory=Budget)
    retry_unsure: bool = False


class _Lost(TeacherError):
    """This submission came to nothing; another one may do better."""

    def __init__(self, state: JobState, reason: str) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


class _Unreachable(Exception):
    """Every try failed; the job is as it was."""


class _LeftOpen(Exception):
    """The teacher has the job, so that it is not asked for again, but it came to no end this time."""


class _Unusable(Exception):
    """The teacher hands out finished files, and this one cannot be read."""


class _Unsure(Exception):
    """The teacher may or may not have the job."""


Objection = Callable[[dict[str, object]], str | None]
"""Says why a clip that was looked at is of no use for training, or None."""


def check_video(path: Path, name: str = "the clip that arrived") -> dict[str, object]:
    """Return what is in the video file ``path``, looked at in the guarded process.

    Raises:
        ClipError: it does not decode.
        TrainingForbidden: its content credentials say that it must not be trained on.
    """
    received = probe(path, name).to_json()
    credentials = check_training_allowed(path)
    return {**received, "c2pa": credentials} if credentials else received


def check_own_file(path: Path) -> dict[str, object]:
    """Return what is in a file that this program has just encoded, looked at in this process, which is cheaper."""
    with open(path, "rb") as file:
        return measure(file, "the clip that was drawn", Limits()).to_json()


class Worker:
    """Settles jobs, each on its own; used by all threads of a collection."""

    def __init__(
        self,
        teacher: JobTeacher,
        store: ClipStore,
        ledger: Ledger,
        pace: Pace,
        policy: Policy,
        params: ClipParams,
        terms: str,
        check: Check | None = None,
        objection: Objection | None = None,
    ) -> None:
        """Take what every job needs; ``terms`` goes into every record. ``check``: None for what the teacher needs."""
        self._objection = objection
        self._teacher, self._store, self._ledger, self._pace = teacher, store, ledger, pace
        self._policy, self._params, self._terms = policy, params, terms
        self._check = check or (check_own_file if teacher.own_files else check_video)
        self._durations = Durations(policy.poll)
        self._slots = threading.BoundedSemaphore(policy.concurrency)
        self._keeping = threading.Lock()  # clips are in memory one at a time
        self._handing_in = 0  # threads that have a place at the teacher and no job in it yet
        self._lock = threading.Lock()

    @property
    def local(self) -> bool:
        """Whether the teacher is `understudy.teachers.base.JobTeacher.local`."""
        return self._teacher.local

    def settle(self, key: str) -> tuple[Ending, str]:
        """Bring job ``key`` to an end; return which, and why.

        Raises:
            Stopped: the collection was told to stop; the job is given back as it is.
            TeacherStopped: no job can succeed; the job is given back as it is.
        """
        job = self._ledger.claim(key)
        if job is None:
            return "elsewhere", ""
        if job.state in ("done", "rejected"):  # by another collector
            return "skipped", job.reason
        ending: Ending
        try:
            if job.state in ("failed", "expired"):  # nobody knows whether the teacher has it, or as above
                ending, reason = job.state, job.reason
            else:
                ending, reason = self._run(job)
        except _Unreachable as error:
            ending, reason = "left", str(error)
        except _Unusable as error:
            ending, reason = "unusable", str(error)
            self._ledger.leave(key, reason)
        except _LeftOpen as error:
            ending, reason = "left", f"{error}; the next collection asks for it by its id, --retry-unsure for a new one"
            self._ledger.leave(key, reason)
        finally:
            self._ledger.release(key)
        if reason and ending in ("done", "unusable"):  # which name their file
            return ending, f"{reason} (prompt {job.prompt!r})"
        return ending, f"prompt {job.prompt!r} (seed {job.seed}): {reason}" if reason else ""

    def _run(self, job: JobRow) -> tuple[Ending, str]:
        number, handle, attempts = job.number, job.handle, 0
        unsure = job.unsure  # the answer to the latest submission was never written down
        while True:
            fresh = handle is None
            try:
                with self._slot(), self._first(handle is None) as handed_in:
                    if handle is None:
                        attempts += 1
                        if not unsure:
                            begun = self._ledger.begin(job.key, self._teacher.price(self._params), self._policy.budget)
                            if begun is None:
                                return "unfunded", "the budget is used up"
                            number = begun
                        handle, unsure = self._submit(job, number, unsure), False
                        handed_in()
                    status = self._await(handle, fresh)
                return self._finish(job, number, handle, status)
            except PromptRejected as error:
                return self._reject(job, number, str(error), made=handle is not None)
            except _Unsure as error:
                reason = f"nobody knows whether the teacher has it ({error}); --retry-unsure asks again"
                self._ledger.doubt(job.key, reason)
                return "failed", reason
            except TeacherStopped:
                raise
            except TeacherError as error:
                lost = error if isinstance(error, _Lost) else _Lost("failed", str(error))
                if handle is None:  # the same request would be refused again
                    self._ledger.refused(job.key, number, "failed", lost.reason)
                    return "failed", lost.reason
                if attempts >= self._policy.attempts:
                    self._ledger.settle(job.key, number, lost.state, lost.reason)
                    return ("expired" if lost.state == "expired" else "failed"), lost.reason
                self._ledger.lost(job.key, number, lost.state, lost.reason)
                handle = None

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Have one of the places at the teacher; it is free again as soon as the teacher is done."""
        while not self._slots.acquire(timeout=0.2):
            self._pace.wait(0)
        try:
            yield
        finally:
            self._slots.release()

    @contextmanager
    def _first(self, waiting: bool) -> Iterator[Callable[[], None]]:
        """Yield what says that the job is handed in: until then, fetching and checking of other jobs' clips waits."""
        count = int(waiting)
        with self._lock:
            self._handing_in += count

        def done() -> None:
            nonlocal count
            with self._lock:
                self._handing_in, count = self._handing_in - count, 0

        try:
            yield done
        finally:
            done()

    # --- the steps ----------------------------------------------------------------------------------------------

    def _submit(self, job: JobRow, number: int, unsure: bool) -> str:
        """Hand in submission ``number`` and return its handle; ``unsure``: it may have been handed in before."""

        def doubt(error: TransientError) -> None:
            nonlocal unsure
            unsure = True
            if not self._teacher.idempotent:
                raise _Unsure(str(error))

        if unsure and not self._teacher.idempotent:
            raise _Unsure("the collector was stopped while it asked")
        request = ClipRequest(job.prompt, job.seed, self._params, f"{job.key[:48]}-{number}")
        try:
            self._pace.before_submission()
            handle = self._retry(lambda: self._teacher.submit(request), doubt)
        except (TeacherStopped, _Unreachable, Stopped) as error:
            if not unsure:
                self._ledger.refused(job.key, number, "queued", str(error))
            raise
        self._ledger.submitted(job.key, number, handle)
        return handle

    def _await(self, handle: str, fresh: bool) -> JobStatus:
        """Return the status of a job that is done."""
        begun, undone, unknown = time.monotonic(), 0.0, 0
        fresh = fresh and not self._teacher.local
        if fresh:
            self._pace.wait(self._durations.until_first())
        while True:
            asked = time.monotonic() - begun
            try:
                status = self._retry(lambda: self._teacher.poll(handle))
                unknown = 0
            except JobForgotten as error:
                unknown += 1
                if unknown >= _FORGOTTEN_POLLS:
                    raise _Lost("expired", str(error)) from None
                status = JobStatus("running")
            waited = time.monotonic() - begun
            if status.state == "done":
                if fresh:
                    self._durations.add(undone, waited)
                return status
            if status.state == "rejected":
                raise PromptRejected(status.reason or "rejected by the teacher")
            if status.state in ("failed", "expired"):
                raise _Lost(status.state, status.reason or f"the teacher says {status.state}")
            if waited > self._policy.timeout:
                raise _LeftOpen(f"not done after {self._policy.timeout:g} seconds")
            undone = asked
            self._pace.wait(self._durations.until_next(waited) if fresh and not unknown else self._policy.poll)

    def _finish(self, job: JobRow, number: int, handle: str, status: JobStatus) -> tuple[Ending, str]:
        """Fetch the clip of a done job, keep it, and note it."""
        until = time.monotonic() + _PATIENCE
        while self._handing_in and time.monotonic() < until and not self._teacher.local:
            self._pace.wait(0.02)
        part = self._ledger.incoming / f"{job.key}.part"
        try:
            received, status = self._fetch(handle, status, part)
            self._keep(job, number, handle, status, received, part)
        finally:
            part.unlink(missing_ok=True)
        self._ledger.settle(job.key, number, "done", cost=status.cost)
        why = self._objection(received) if self._objection is not None else None
        return "done", f"{self._file(handle) or 'its clip'} {why}" if why else ""

    def _fetch(self, handle: str, status: JobStatus, part: Path) -> tuple[dict[str, object], JobStatus]:
        """Download into ``part`` until something arrives that decodes; return what it is."""
        failures, name = 0, self._file(handle)
        while True:
            try:
                self._retry(lambda status=status: self._teacher.download(handle, status, part))  # type: ignore[misc]
                return (check_video(part, name) if name and self._check is check_video else self._check(part)), status
            except (AssetGone, ClipError) as error:
                if name:  # it lies there as it is: another try finds the same
                    raise _Unusable(str(error)) from None
                failures += 1
                said = f"no usable clip: {error} ({failures} tries)"
                if failures >= self._policy.downloads:
                    raise (_Lost("failed", said) if self._teacher.local else _LeftOpen(said)) from None
                if self._teacher.local:
                    continue
                if failures > 1 or isinstance(error, ClipError):
                    self._pace.after_failure(failures)
                status = self._await(handle, fresh=False)  # which brings a fresh address, or says that the job is lost

    def _keep(
        self, job: JobRow, number: int, handle: str, status: JobStatus, received: dict[str, object], part: Path
    ) -> None:
        provenance: dict[str, object] = {"file": file} if (file := self._file(handle)) else {}
        if not self._teacher.local:
            provenance = {"job": handle, "submission": number, **status.notes}
            if (cost := self._teacher.price(self._params) if status.cost is None else status.cost) is not None:
                provenance["cost"] = f"{cost:g} {self._teacher.currency}"
        with self._keeping:
            self._store.add(self._origin(job), read_file(part), received, provenance)

    def _file(self, handle: str) -> str:
        """Return the name of the finished file that a job stands for; empty where there is none."""
        file = getattr(self._teacher, "file", None)
        return "" if file is None else str(file(handle))

    def _origin(self, job: JobRow) -> Origin:
        return Origin(job.teacher, job.prompt, asdict(self._params), job.seed, self._terms)

    def _reject(self, job: JobRow, number: int, reason: str, made: bool) -> tuple[Ending, str]:
        """Record that the prompt is refused for good; ``made``: the teacher had taken the job, and may charge for it."""
        self._store.reject(self._origin(job), reason)
        end = self._ledger.settle if made else self._ledger.refused
        end(job.key, number, "rejected", reason)
        return "rejected", reason

    def _retry(self, call: Callable[[], _T], on_unsure: Callable[[TransientError], None] | None = None) -> _T:
        """Return what ``call`` returns, trying again after failures that pass."""
        failures = 0
        while True:
            self._pace.before_request()
            try:
                return call()
            except TransientError as error:
                if on_unsure is not None and error.unsure:
                    on_unsure(error)
                failures += 1
                if failures >= self._policy.tries:
                    raise _Unreachable(f"{error} ({failures} tries)") from None
                self._pace.after_failure(failures, error.retry_after)
