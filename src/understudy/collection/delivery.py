"""From a job that the teacher has to a file that decodes: questions about it, and its download."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from understudy.collection.asking import Asker, LeftOpen, Lost, Unsure, Unusable
from understudy.collection.checks import Check, check_video
from understudy.collection.pace import Durations, Pace
from understudy.collection.policy import Policy
from understudy.collection.refusals import Refusals
from understudy.errors import AssetGone, ClipError, ClipRefused, JobForgotten, PromptRejected
from understudy.teachers.base import JobStatus, JobTeacher

_FORGOTTEN_POLLS = 3  # a job that was just made may not be visible everywhere yet


class Delivery:
    """Waits for jobs and fetches their clips; used by several threads."""

    def __init__(
        self,
        teacher: JobTeacher,
        pace: Pace,
        policy: Policy,
        asker: Asker,
        refusals: Refusals,
        check: Check,
        on_seen: Callable[[str], None],
    ) -> None:
        """Take whom to ask and how; ``check`` says what arrived, ``on_seen`` is told of jobs that the teacher knows."""
        self._teacher, self._pace, self._policy = teacher, pace, policy
        self._asker, self._refusals, self._check, self._on_seen = asker, refusals, check, on_seen
        self._durations = Durations(policy.poll)

    def wait(self, handle: str, fresh: bool, until: float, new: str | None = None) -> JobStatus:
        """Return the status of a job that is done.

        ``fresh``: it was handed in just now; ``new``: its key, if the teacher has not yet known it
        under this handle.
        """
        begun, undone, unknown, strange = time.monotonic(), 0.0, 0, 0
        fresh = fresh and not self._teacher.local
        if fresh:
            self._pace.wait(min(self._durations.until_first(), until - begun))
        while True:
            asked, ticket = time.monotonic() - begun, self._refusals.ticket()
            try:
                status = self._asker.retry(lambda: self._teacher.poll(handle), until)
                unknown = 0
                if new is not None:
                    self._on_seen(new)
                    new = None
            except JobForgotten as error:
                unknown += 1
                if unknown >= _FORGOTTEN_POLLS:
                    if new is not None:  # it may be known under another id than the one that was answered
                        raise Unsure(f"{error}; it was handed in as {handle[:60]}") from None
                    raise Lost("expired", str(error)) from None
                status = JobStatus("running")
            now = time.monotonic()
            waited = now - begun
            if status.state == "done":
                self._refusals.delivered(ticket)
                if fresh:
                    self._durations.add(undone, waited)
                return status
            if status.state == "rejected":
                raise PromptRejected(status.reason or "rejected by the teacher")
            if status.state in ("failed", "expired"):
                raise Lost(status.state, status.reason or f"the teacher says {status.state}", status.again)
            strange = strange + 1 if status.strange else 0
            if status.strange:
                self._asker.wonder(status.strange, strange)
            if now > until:
                raise LeftOpen(f"not done after {self._policy.timeout:g} seconds")
            undone = asked
            pause = self._durations.until_next(waited) if fresh and not unknown else self._policy.poll
            self._pace.wait(min(pause, max(until - now, 0.0) + 0.01))

    def fetch(self, handle: str, status: JobStatus, part: Path, until: float) -> tuple[dict[str, object], JobStatus]:
        """Download into ``part`` until something arrives that decodes; return what it is."""
        failures, name = 0, file_of(self._teacher, handle)

        def fetch() -> None:
            left = None if self._teacher.local else max(until - time.monotonic(), 0.01)
            self._teacher.download(handle, replace(status, seconds=left), part)

        while True:
            try:
                self._asker.retry(fetch, until)
                return (check_video(part, name) if name and self._check is check_video else self._check(part)), status
            except ClipRefused as error:
                raise LeftOpen(f"no usable clip: {error}") from None
            except (AssetGone, ClipError) as error:
                if name:  # it lies there as it is: another try finds the same
                    raise Unusable(str(error)) from None
                failures += 1
                said = f"no usable clip: {error} ({failures} tries)"
                if failures >= self._policy.downloads or (time.monotonic() > until and not self._teacher.local):
                    raise (Lost("failed", said) if self._teacher.local else LeftOpen(said)) from None
                if self._teacher.local:
                    continue
                if failures > 1 or isinstance(error, ClipError):
                    self._pace.after_failure(failures)
                # Which brings a fresh address, or says that the job is lost.
                status = self.wait(handle, fresh=False, until=until)


def file_of(teacher: JobTeacher, handle: str) -> str:
    """Return the name of the finished file that a job stands for; empty where there is none."""
    file = getattr(teacher, "file", None)
    return "" if file is None else str(file(handle))
