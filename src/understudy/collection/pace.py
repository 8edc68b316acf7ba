"""How fast a teacher is asked: a limit on the rate, pauses that it asks for, waits between attempts."""

import random
import threading
import time
from collections import deque


class Stopped(Exception):
    """The collection was told to stop."""


class Pace:
    """Shared by all threads that ask one teacher; every wait ends at once when `stop` is called."""

    def __init__(self, per_minute: float | None = None, first: float = 1.0, ceiling: float = 60.0) -> None:
        """Set the limits.

        Args:
            per_minute: submissions per minute at most; None: no limit.
            first: the longest first wait after a failure, in seconds; it doubles with each further failure.
            ceiling: the longest wait between two attempts, in seconds, also when the teacher asks for more.
        """
        self._spacing = 60.0 / per_minute if per_minute else 0.0
        self._first, self._ceiling = first, ceiling
        self._lock = threading.Lock()
        self._next = self._held = 0.0
        self._stop = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End every wait, now and from now on, with `Stopped`."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: the collection was told to stop.
        """
        if self._stop.wait(max(seconds, 0.0)):
            raise Stopped

    def before_request(self) -> None:
        """Wait while the teacher wants no requests at all."""
        while (left := self._held - time.monotonic()) > 0:
            self.wait(left)
        self.wait(0)

    def before_submission(self) -> None:
        """Wait for this submission's turn."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._spacing
        self.wait(turn - time.monotonic())

    def after_failure(self, failures: int, retry_after: float | None = None) -> None:
        """Wait after the ``failures``-th failure in a row: what the teacher asks for, or a random, growing time.

        The whole range from zero is drawn from ("full jitter"), so that many clients do not come back together.
        """
        limit = min(self._first * 2.0 ** min(failures - 1, 32), self._ceiling)
        if retry_after is None:
            self.wait(random.uniform(0, limit))
            return
        wanted = min(retry_after, self._ceiling)
        with self._lock:  # it asks every client of this key to wait, not one request
            self._held = max(self._held, time.monotonic() + wanted)
        self.wait(wanted + random.uniform(0, min(self._first, self._ceiling)))


class Durations:
    """How long the teacher's last jobs took: a job is asked about when it may be done, and seldom otherwise.

    Jobs of one model and size take about equally long. After the first ones the questions about a job come when one
    more of the last jobs was done, so that their number does not grow with the duration, while the time between a job's
    end and its discovery shrinks to a share of the spread.
    """

    def __init__(self, longest: float) -> None:
        """Wait ``longest`` seconds between two questions as long as nothing is known; later no longer, or 1 %."""
        self._longest = longest
        self._last: deque[float] = deque(maxlen=64)
        self._lock = threading.Lock()

    def add(self, low: float, high: float) -> None:
        """Note that a job was not done after ``low`` seconds (0: not asked before) and was after ``high``."""
        with self._lock:
            self._last.append((low + high) / 2 if low else 0.9 * high)

    def until_first(self) -> float:
        """Return the seconds before which no job may be done yet, going by the last; 0 when nothing is known."""
        with self._lock:
            return 0.95 * min(self._last, default=0.0)

    def until_next(self, waited: float) -> float:
        """Return the seconds to wait after a job was found undone after ``waited`` seconds."""
        finest = max(0.05, 0.003 * waited)
        with self._lock:
            later = min((one - waited for one in self._last if one - waited >= finest), default=None)
            longest = max(self._last, default=None)
        if longest is None:
            return self._longest
        if later is None:  # it takes longer than any lately
            later = max(finest, 0.5 * (waited - longest))
        return min(later, max(self._longest, 0.01 * waited))
