"""The life of one job: submit, note its id, poll, download, check, keep. Every step can be the last before a kill."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from understudy.collection.asking import Asker, LeftOpen, Lost, Unreachable, Unsure, Unusable
from understudy.collection.checks import Check, check_own_file, check_video
from understudy.collection.delivery import Delivery, file_of
from understudy.collection.ledger import JobRow, Ledger
from understudy.collection.pace import Pace, Stopped
from understudy.collection.policy import Ending, Outcome, Policy, kind_of
from understudy.collection.refusals import Refusal, Refusals
from understudy.collection.store import ClipStore, Origin
from understudy.errors import (
    PromptRejected,
    TeacherError,
    TeacherStopped,
    TransientError,
    UnderstudyError,
)
from understudy.teachers.base import ClipParams, ClipRequest, GivesUp, JobStatus, JobTeacher, ListsJobs
from understudy.video.clips import read_file

_PATIENCE = 1.0  # seconds that a finished clip waits for places at the teacher to be filled


class _Closed(Exception):
    """No further job is handed in."""


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
    ) -> None:
        """Take what every job needs; ``terms`` goes into every record. ``check``: None for what the teacher needs."""
        self._teacher, self._store, self._ledger, self._pace = teacher, store, ledger, pace
        self._policy, self._params, self._terms = policy, params, terms
        self._slots = threading.BoundedSemaphore(policy.concurrency)
        self._keeping = threading.Lock()  # clips are in memory one at a time
        self._handing_in = 0  # threads that have a place at the teacher and no job in it yet
        self._lock = threading.Lock()
        at_once = policy.keep_refusals or teacher.local
        self.refusals = Refusals(0 if at_once else policy.failures, self._record)
        self._closed = threading.Event()
        self._asker = Asker(pace, policy, teacher.local)
        check = check or (check_own_file if teacher.own_files else check_video)
        self._delivery = Delivery(teacher, pace, policy, self._asker, self.refusals, check, ledger.seen)

    @property
    def local(self) -> bool:
        """Whether the teacher is `understudy.teachers.base.JobTeacher.local`."""
        return self._teacher.local

    @property
    def lists(self) -> bool:
        """Whether the teacher's service keeps a list of its jobs."""
        return isinstance(self._teacher, ListsJobs) and self._teacher.lists

    def close(self) -> None:
        """Hand in no further job; those that the teacher has go on."""
        self._closed.set()

    def give_up(self) -> None:
        """End questions and downloads under way, where the teacher can."""
        if isinstance(self._teacher, GivesUp):
            self._teacher.give_up()

    def settle(self, key: str) -> Outcome:
        """Bring job ``key`` to an end; return which, and why.

        Raises:
            Stopped: the collection was told to stop; the job is given back as it is.
            UnderstudyError: the collection cannot go on.
        """
        job = self._ledger.claim(key)
        if job is None:
            return Outcome(key, "elsewhere")
        if job.state in ("done", "rejected"):  # by another collector
            return Outcome(key, "skipped")
        earlier = job.unsure and not self._teacher.idempotent
        try:
            ending, reason = self._end(job)
        except TeacherStopped as error:
            self._ledger.leave(key, str(error))  # if the teacher has it
            return Outcome(key, "queued", str(error), made=self._made(key), error=error)
        except (Stopped, UnderstudyError):
            raise
        except Exception as error:  # whatever it is, it is this job's
            ending, reason = "left", f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self._ledger.leave(key, reason)
        finally:
            self._ledger.release(key)
        if not reason:
            return Outcome(key, ending)
        if ending in ("done", "unusable"):  # which name their file
            return Outcome(key, ending, f"{reason} (prompt {job.prompt!r})", made=True)
        said, kind = f"prompt {job.prompt!r} (seed {job.seed}): {reason}", kind_of(reason, job.prompt)
        return Outcome(key, ending, said, kind, self._made(key), earlier)

    def _made(self, key: str) -> bool:
        """Say whether the teacher is known to have job ``key``."""
        job = self._ledger.get(key)
        return job is not None and job.handle is not None

    def _end(self, job: JobRow) -> tuple[Ending, str]:
        if job.state in ("failed", "expired") and not job.unsure:  # by another collector, just now
            return job.state, job.reason
        try:
            return self._run(job)
        except _Closed:
            return "queued", ""
        except Unreachable as error:
            return "left", str(error)
        except Unusable as error:
            self._ledger.leave(job.key, str(error))
            return "unusable", str(error)
        except LeftOpen as error:
            reason = f"{error}; the next collection asks for it by its id, --retry-unsure for a new one"
            self._ledger.leave(job.key, reason)
            return "left", reason
        except Unsure as error:
            if job.state == "failed":  # noted before
                return "unsure", str(error)
            reason = f"nobody knows whether the teacher has it ({error}); --retry-unsure asks again"
            self._ledger.doubt(job.key, reason)
            return "unsure", reason

    def _run(self, job: JobRow) -> tuple[Ending, str]:
        number, handle, attempts = job.number, job.handle, 0
        seen = job.seen or self._teacher.idempotent or self._teacher.local
        unsure = job.unsure and handle is None  # the answer to the latest submission was never written down
        while True:
            fresh = handle is None
            try:
                with self._slot(), self._first(handle is None) as handed_in:
                    if handle is None and unsure and not self._teacher.idempotent:
                        handle, fresh, seen = self._found(job, number), False, True
                    elif handle is None:
                        attempts += 1
                        self._open()
                        if not unsure:
                            begun = self._ledger.begin(job.key, self._teacher.price(self._params), self._policy.budget)
                            if begun is None:
                                return "unfunded", "the budget is used up"
                            number = begun
                        handle, seen = (
                            self._submit(job, number, unsure),
                            self._teacher.idempotent or self._teacher.local,
                        )
                    unsure = False
                    handed_in()
                    until = time.monotonic() + self._policy.timeout
                    status = self._delivery.wait(handle, fresh, until, None if seen else job.key)
                return self._finish(job, number, handle, status, until)
            except PromptRejected as error:
                return self._reject(job, number, str(error), made=handle is not None)
            except TeacherStopped:
                raise
            except TeacherError as error:
                lost = error if isinstance(error, Lost) else Lost("failed", str(error))
                if handle is None:  # the same request would be refused again
                    self._ledger.refused(job.key, number, "failed", lost.reason)
                    return "failed", lost.reason
                if not (isinstance(error, Lost) or self._teacher.local):
                    raise LeftOpen(str(error)) from None
                if attempts >= self._policy.attempts or not lost.again:
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

    def _open(self) -> None:
        if self._closed.is_set():
            raise _Closed

    def _request(self, job: JobRow, number: int) -> ClipRequest:
        return ClipRequest(job.prompt, job.seed, self._params, f"{job.key[:48]}-{number}")

    def _found(self, job: JobRow, number: int) -> str:
        """Return the handle of a job whose answer was lost from the service's own list.

        Raises:
            Unsure: there is no such list, or the job is not in it.
        """
        why = job.reason or "the collector was stopped while it asked"
        if not (isinstance(self._teacher, ListsJobs) and self._teacher.lists):
            raise Unsure(why)
        request, begun = self._request(job, number), self._ledger.begun(job.key, number)
        self._pace.before_request()
        try:
            handle = self._teacher.find(request, begun, lambda found: self._ledger.belongs(job.key, found))
        except TeacherError as error:
            raise Unsure(f"{why}; the service's list of jobs: {error}") from None
        if handle is None or not self._ledger.submitted(job.key, number, handle, seen=True):
            raise Unsure(f"{why}; it is not in the service's list of jobs")
        return handle

    def _submit(self, job: JobRow, number: int, unsure: bool) -> str:
        """Hand in submission ``number`` and return its handle; ``unsure``: it may have been handed in before."""

        def doubt(error: TransientError) -> None:
            nonlocal unsure
            unsure = True
            if not self._teacher.idempotent:
                raise Unsure(str(error))

        def send() -> str:
            self._open()
            return self._teacher.submit(request)

        request, ticket = self._request(job, number), self.refusals.ticket()
        try:
            self._pace.before_submission()
            handle = self._asker.retry(send, on_unsure=doubt)
        except (Unsure, PromptRejected):
            raise
        except (Stopped, _Closed, Unreachable, UnderstudyError) as error:
            if isinstance(error, TeacherError) and not isinstance(error, TeacherStopped):
                raise  # this job's
            if not unsure:
                reason = str(error) if isinstance(error, Unreachable) else ""
                self._ledger.refused(job.key, number, "queued", reason)
            raise
        except Exception as error:  # in the middle of the request
            raise Unsure(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        if not self._ledger.submitted(job.key, number, handle):
            raise Unsure(f"the teacher answered with the id of another job, {handle[:60]}")
        self.refusals.accepted(ticket)
        return handle

    def _finish(self, job: JobRow, number: int, handle: str, status: JobStatus, until: float) -> tuple[Ending, str]:
        """Fetch the clip of a done job, keep it, and note it."""
        patience = time.monotonic() + _PATIENCE
        while self._handing_in and time.monotonic() < patience and not self._teacher.local:
            self._pace.wait(0.02)
        part = self._ledger.incoming / f"{job.key}.part"
        try:
            received, status = self._delivery.fetch(handle, status, part, until)
            self._keep(job, number, handle, status, received, part)
        finally:
            part.unlink(missing_ok=True)
        self._ledger.settle(job.key, number, "done", cost=status.cost)
        why = self._policy.objection(received) if self._policy.objection is not None else None
        return "done", f"{file_of(self._teacher, handle) or 'its clip'} {why}" if why else ""

    def _keep(
        self, job: JobRow, number: int, handle: str, status: JobStatus, received: dict[str, object], part: Path
    ) -> None:
        provenance: dict[str, object] = {"file": file} if (file := file_of(self._teacher, handle)) else {}
        if not self._teacher.local:
            provenance = {"job": handle, "submission": number, **status.notes}
            if (cost := self._teacher.price(self._params) if status.cost is None else status.cost) is not None:
                provenance["cost"] = f"{cost:g} {self._teacher.currency}"
        with self._keeping:
            self._store.add(self._origin(job), read_file(part), received, provenance)

    def _origin(self, job: JobRow) -> Origin:
        return Origin(job.teacher, job.prompt, asdict(self._params), job.seed, self._terms)

    def _reject(self, job: JobRow, number: int, reason: str, made: bool) -> tuple[Ending, str]:
        """Have the refusal of a prompt recorded, in time; ``made``: the teacher had taken the job, and may charge for it."""
        if not made:
            self._ledger.refused(job.key, number, "queued", reason)
        self.refusals.add(Refusal(job.key, number, job.prompt, reason, kind_of(reason, job.prompt), made))
        return "held", ""

    def _record(self, refusal: Refusal) -> Outcome:
        """Record that a prompt is refused for good."""
        job = self._ledger.get(refusal.key)
        if job is not None:
            self._store.reject(self._origin(job), refusal.reason)
            self._ledger.settle(refusal.key, refusal.number, "rejected", refusal.reason)
        return Outcome(refusal.key, "rejected", refusal.reason)
