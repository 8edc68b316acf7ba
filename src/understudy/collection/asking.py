"""Asking a teacher again and again: which failures pass, and when it is enough."""

import threading
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from understudy.collection.pace import Pace
from understudy.collection.policy import Policy
from understudy.errors import TeacherError, TransientError
from understudy.teachers.base import JobState

_T = TypeVar("_T")
_STRANGE_POLLS = 8  # a word that nobody knows may still pass


class Unreachable(Exception):
    """Every try failed; the job is as it was."""


class Unusable(Exception):
    """The teacher hands out finished files, and this one cannot be read."""


class LeftOpen(Exception):
    """The teacher has the job, so that it is not asked for again, but it came to no end this time."""


class Lost(TeacherError):
    """This submission came to nothing; another one may do better, if ``again``."""

    def __init__(self, state: JobState, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.state, self.reason, self.again = state, reason, again


class Unsure(Exception):
    """The teacher may or may not have the job."""


class Asker:
    """Asks one teacher; used by several threads."""

    def __init__(self, pace: Pace, policy: Policy, local: bool) -> None:
        """Take how patient to be; a ``local`` teacher may take as long as it likes."""
        self._pace, self._policy, self._local = pace, policy, local
        self._not_before: dict[
            bool, tuple[float, str]
        ] = {}  # until when a teacher wants no submissions, or no questions
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def retry(
        self,
        call: Callable[[], _T],
        until: float | None = None,
        on_unsure: Callable[[TransientError], None] | None = None,
    ) -> _T:
        """Return what ``call`` returns, trying again after failures that pass.

        Args:
            call: asks.
            until: the time at which to stop asking about a job.
            on_unsure: given, it is a submission; told of answers after which the job may exist.

        Raises:
            Unreachable: every try failed, or the teacher asks for a longer wait than there is.
            LeftOpen: ``until`` is past.
            Stopped: the collection was told to stop.
        """
        submits, failures = on_unsure is not None, 0
        while True:
            since, why = self._not_before.get(submits, (0.0, ""))
            if since > time.monotonic():
                raise Unreachable(why)
            self._pace.before_request()
            try:
                return call()
            except TransientError as error:
                if on_unsure is not None and error.unsure:
                    on_unsure(error)
                failures += 1
                wait = error.retry_after
                if wait is not None and wait > self._policy.longest_wait:
                    why = f"{error}; it asks to wait {wait:.0f} seconds, run it again then"
                    self._not_before[submits] = (time.monotonic() + wait, why)
                    raise Unreachable(why) from None
                if failures >= self._policy.tries:
                    raise Unreachable(f"{error} ({failures} tries)") from None
                if until is not None and time.monotonic() > until and not self._local:
                    raise LeftOpen(f"{error}; not done after {self._policy.timeout:g} seconds") from None
                self._pace.after_failure(failures, wait)

    def wonder(self, word: str, times: int) -> None:
        """Say once that nobody knows what ``word`` means, the state of a job for the ``times``-th time in a row.

        Raises:
            LeftOpen: it stays so.
        """
        said = f"the teacher says {word!r} of a job, which is no state that is known; name it in teacher.wire.states"
        with self._lock:
            new = word not in self._said
            self._said.add(word)
        if new:
            warnings.warn(said, stacklevel=2)
        if times >= _STRANGE_POLLS:
            raise LeftOpen(said)
