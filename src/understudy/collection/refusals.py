"""Refusals of prompts wait before they are recorded for good: a service that is out of order refuses every prompt alike.

A refusal at submission is the prompt's own once the teacher has taken another job after it, one in the job once another
job has been done after it; or when the collection ends in order. Where so many different prompts in a row are refused in
the same words as there may be failures, the collection stops and none of them is recorded.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from understudy.collection.policy import Outcome
from understudy.errors import TeacherStopped


@dataclass(frozen=True)
class Refusal:
    """A refusal of a prompt: by submission ``number`` of job ``key``; ``made``: the teacher had taken the job."""

    key: str
    number: int
    prompt: str
    reason: str
    kind: str
    made: bool


class Refusals:
    """Those of one collection; used by several threads."""

    def __init__(self, most: int, record: Callable[[Refusal], Outcome]) -> None:
        """Let ``record`` note each for good, returning what came of its job; ``most`` 0: each at once."""
        self._most, self._record = most, record
        self._lock = threading.Lock()
        self._held: list[tuple[int, Refusal]] = []
        self._count = 0
        self._recorded: list[Outcome] = []

    def ticket(self) -> int:
        """Return what a request takes with it that is about to leave: refusals from before it have a smaller number."""
        return self._count

    def add(self, refusal: Refusal) -> None:
        """Take in a refusal.

        Raises:
            TeacherStopped: too many in a row are alike.
        """
        with self._lock:
            self._count += 1
            self._held.append((self._count, refusal))
            if not self._most:
                self._let_go(lambda number, held: True)
                return
            alike: set[str] = set()
            for _, held in reversed([item for item in self._held if item[1].made == refusal.made]):
                if held.kind != refusal.kind:
                    break
                alike.add(held.prompt)
        if len(alike) >= self._most:
            raise TeacherStopped(
                f"{len(alike)} different prompts in a row were refused in the same words, which no prompt is recorded for: "
                f"{refusal.reason}; if it is the prompts, --keep-refusals records them"
            )

    def accepted(self, ticket: int) -> None:
        """Note that the teacher has taken a job that was handed in with ``ticket``."""
        with self._lock:
            self._let_go(lambda number, held: number <= ticket and not held.made)

    def delivered(self, ticket: int) -> None:
        """Note that the teacher has called a job done, asked with ``ticket``."""
        with self._lock:
            self._let_go(lambda number, held: number <= ticket)

    def end(self) -> None:
        """Record what is held: the collection ends in order."""
        with self._lock:
            self._let_go(lambda number, held: True)

    def take(self) -> list[Outcome]:
        """Return what was recorded since the last time."""
        with self._lock:
            recorded, self._recorded = self._recorded, []
        return recorded

    def _let_go(self, chosen: Callable[[int, Refusal], bool]) -> None:
        due = [item for item in self._held if chosen(*item)]
        self._held = [item for item in self._held if not chosen(*item)]
        self._recorded += [self._record(refusal) for _, refusal in due]
