"""Requests run in one thread of their own: each has a total time, and most can be given up at any moment.

A limit on the wait for the next byte is none on the whole: one byte a second would hold a thread for ever.
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
Extend = Callable[[float], None]
"""Gives the request that calls it so many seconds from now on."""

_starting = threading.Lock()
_running: asyncio.AbstractEventLoop | None = None


class GivenUp(Exception):
    """The request was given up from outside."""


class Requests:
    """The requests of one server; used by several threads."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    def run(self, work: Callable[[Extend], Awaitable[_T]], seconds: float, holds: bool = False) -> _T:
        """Return what ``work`` returns.

        Args:
            work: does the request.
            seconds: it may take, all in all.
            holds: `give_up` leaves it alone.

        Raises:
            TimeoutError: it took longer.
            GivenUp: somebody called `give_up`.
        """

        async def bounded() -> _T:
            task = asyncio.current_task()
            if task is not None and not holds:
                self._under_way.add(task)
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await work(lambda more: limit.reschedule(asyncio.get_running_loop().time() + more))
            finally:
                if task is not None:
                    self._under_way.discard(task)

        if seconds <= 0:
            raise TimeoutError
        try:
            return asyncio.run_coroutine_threadsafe(bounded(), _loop()).result()
        except concurrent.futures.CancelledError:
            raise GivenUp from None

    def give_up(self) -> None:
        """End every request under way that does not hold, soon."""
        _loop().call_soon_threadsafe(lambda: [task.cancel() for task in tuple(self._under_way)])


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop in which all requests run; its thread ends with the process."""
    global _running
    with _starting:
        if _running is None:
            _running = asyncio.new_event_loop()
            threading.Thread(target=_running.run_forever, name="requests", daemon=True).start()
        return _running


def _forget() -> None:
    """Start anew in a forked process, which has none of the threads."""
    global _starting, _running
    _starting, _running = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
