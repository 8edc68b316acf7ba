"""Handing the jobs of a collection out to threads, and stopping: whatever the way out, the threads end first."""

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from understudy.collection.interrupts import Interrupts
from understudy.collection.pace import Pace, Stopped
from understudy.collection.policy import Outcome, Policy
from understudy.collection.worker import Worker
from understudy.errors import TeacherStopped

_AGAIN_SECONDS = 0.5  # before a job that another collector has, or that is unsure, is looked at again
_LOOK_SECONDS = 0.2  # between two looks at whether a signal came
_SHOW_SECONDS = 1.0
_OF_ANY_KIND = 3  # so many times the failures of one kind in a row stop the collection whatever their kinds


class Crew:
    """The threads of one collection.

    When the teacher takes no more jobs, those that it has are still waited for and fetched. When it cannot be reached, or
    somebody wants the collection to stop, only submissions under way are waited for.
    """

    def __init__(self, worker: Worker, pace: Pace, policy: Policy, interrupts: Interrupts) -> None:
        """Take who settles a job, what ends every wait, and what says that the user wants an end."""
        self._worker, self._pace, self._policy, self._interrupts = worker, pace, policy, interrupts
        self._row: list[str] = []  # kinds of what came to nothing since a clip came
        self._useless, self._useful = 0, False  # clips that came so far, of no use or not
        self._looked: set[str] = set()  # unsure jobs for which the service's list is looked at once more
        self._problem: BaseException | None = None
        self._deciding = threading.Lock()

    def results(self, keys: Sequence[str]) -> Iterator[Outcome | None]:
        """Yield how each job ended, in the order of their ends; None now and then while nothing ends.

        Raises:
            TeacherStopped: the teacher takes no more, or too many jobs in a row came to nothing.
            KeyboardInterrupt: a signal came.
            UnderstudyError: the collection cannot go on.
        """
        waiting = deque(keys)
        # While a service draws the next clips, the last ones are fetched and checked: its places are never empty for that.
        threads = min(self._policy.concurrency * (1 if self._worker.local else 2), len(keys))
        alone = threads == 1 and self._worker.local
        shown = time.monotonic()
        with closing(self._alone(waiting) if alone else self._together(waiting, threads)) as source:
            for result in source:
                outcomes = self._told(result)
                yield from outcomes
                if outcomes:
                    shown = time.monotonic()
                elif time.monotonic() - shown >= _SHOW_SECONDS:
                    shown = time.monotonic()
                    yield None
        if self._interrupts.received:
            raise self._interrupts.error("stopped")
        if self._problem is not None:
            raise self._problem
        self._worker.refusals.end()
        yield from self._worker.refusals.take()

    # --- drawing consequences -----------------------------------------------------------------------------------

    def _told(self, outcome: Outcome | None) -> list[Outcome]:
        """Return what is to be told of, now that a job ended as ``outcome``."""
        told = self._worker.refusals.take()
        if outcome is not None and outcome.error is None and outcome.ending not in ("held", "looked"):
            told.append(outcome)
        return told

    def _decide(self, result: Outcome | BaseException) -> None:
        """Draw the consequences of ``result``, before the thread that it comes from takes another job."""
        with self._deciding:
            if isinstance(result, BaseException):
                self._end(result, drain=False)
            elif result.error is not None:
                # Of jobs that the teacher has, the first one may have its own reason to stop; a second one speaks for all.
                self._end(result.error, drain=self._problem is None or not result.made)
            else:
                self._count(result)

    def _count(self, outcome: Outcome) -> None:
        """Stop the collection when too many jobs in a row came to nothing."""
        if outcome.ending == "done":
            self._row.clear()
            self._look_at_use(outcome)
        if outcome.earlier or outcome.ending not in ("failed", "expired", "left", "unsure", "looked"):
            return
        self._row.append(outcome.kind)
        most = self._policy.failures
        alike = len(self._row) >= most and len(set(self._row[-most:])) == 1
        if self._problem is None and (alike or len(self._row) >= _OF_ANY_KIND * most):
            count = most if alike else len(self._row)
            said = f"{count} jobs in a row came to nothing, the last because: {outcome.reason}; what came is kept"
            self._end(TeacherStopped(said), drain=not (outcome.ending == "left" and outcome.made))

    def _look_at_use(self, outcome: Outcome) -> None:
        """Stop the collection when the first clips, which may be paid for, are all of no use."""
        if not outcome.reason:
            self._useful = True
            return
        self._useless += 1
        if self._useless >= self._policy.failures and not (self._useful or self._worker.local or self._problem):
            said = f"none of the first {self._useless} clips can be trained on, the last because: {outcome.reason}"
            self._end(TeacherStopped(f"{said}; nothing more is asked, what came is kept"), drain=True)

    def _end(self, problem: BaseException, drain: bool) -> None:
        """Come to an end because of ``problem``; ``drain``: jobs that the teacher has are still waited for."""
        if self._problem is None and drain and not self._worker.local:
            self._say(f"{problem}; nothing more is asked for, jobs that the teacher has are waited for")
        if not isinstance(self._problem, BaseException) or not isinstance(problem, TeacherStopped):
            self._problem = problem
        self._worker.close()
        if not drain:
            self._pace.stop()
            self._worker.give_up()

    def _say(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)

    # --- settling -----------------------------------------------------------------------------------------------

    def _alone(self, waiting: deque[str]) -> Generator[Outcome | None]:
        """Settle the jobs one after the other, in this thread."""
        while waiting and not self._pace.stopped:
            yield self._settle(waiting)

    def _settle(self, waiting: deque[str]) -> Outcome | None:
        """Settle the next job; None when another collector has it, which may be killed yet, or the end has come."""
        try:
            key = waiting.popleft()
        except IndexError:
            return None
        try:
            if key in self._looked:
                self._pace.wait(_AGAIN_SECONDS)
            result = self._worker.settle(key)
            if result.ending == "elsewhere":
                waiting.append(key)
                self._pace.wait(_AGAIN_SECONDS)
                return None
        except Stopped:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._decide(error)
            return None
        if result.ending == "unsure" and key in self._looked:
            result = replace(result, earlier=True)
        elif result.ending == "unsure" and self._worker.lists and not result.earlier:
            self._looked.add(key)
            waiting.append(key)
            result = replace(result, ending="looked")
        self._decide(result)
        return result

    def _together(self, waiting: deque[str], threads: int) -> Generator[Outcome | None]:
        """Settle the jobs in ``threads`` threads, which have ended when this ends, unless a second signal came."""
        results: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while waiting and not self._pace.stopped:
                    results.put(self._settle(waiting))
            except BaseException as error:
                self._decide(error)
            finally:
                results.put(None)

        # Daemons: a second signal does not wait for them, and the ledger knows how to go on.
        running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        told = False
        self._interrupts.wake = lambda: results.put(None)  # which a signal may do at any moment
        try:
            while any(thread.is_alive() for thread in running) or not results.empty():
                if self._interrupts.received and not told:
                    told = True
                    self._say("stopping: submissions under way are waited for; once more ends it at once")
                    self._pace.stop()
                if self._pace.stopped:
                    self._worker.give_up()
                try:
                    yield results.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    yield None
        finally:
            self._pace.stop()
            while not self._interrupts.forced and any(thread.is_alive() for thread in running):
                self._worker.give_up()
                for thread in running:
                    thread.join(_LOOK_SECONDS / threads)
