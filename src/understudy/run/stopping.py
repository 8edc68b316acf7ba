"""SIGTERM means what Ctrl-C means: what is under way ends in order, and what is done is kept."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever takes care of Ctrl-C takes care of this."""

    signal = signal.SIGTERM


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise `Terminated` where SIGTERM arrives inside the block, as Python raises KeyboardInterrupt for Ctrl-C.

    Yields the signals that came. A process that was told to ignore SIGTERM goes on ignoring it, and a block outside the
    main thread changes nothing.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before == signal.SIG_IGN:
        yield came
        return
    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller owns the signals
        yield came
        return
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
