"""SIGINT and SIGTERM while a teacher is asked: the first waits for submissions under way, a second ends it at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Takes both signals while it is entered; where they belong to somebody else, it never hears of any."""

    def __init__(self, at_once: bool) -> None:
        """Take ``at_once`` for whether the first one raises KeyboardInterrupt already: where nothing can be lost."""
        self._at_once = at_once
        self.wake: Callable[[], None] = lambda: None  # called by the first signal: whoever waits should look
        self._received: list[int] = []
        self._before: dict[signal.Signals, object] = {}

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return bool(self._received)

    @property
    def forced(self) -> bool:
        """Whether a second one came."""
        return len(self._received) > 1

    def error(self, message: str) -> KeyboardInterrupt:
        """Return what to raise; ``signal`` in it is the number of the signal."""
        stopped = KeyboardInterrupt(message)
        stopped.signal = self._received[0] if self._received else signal.SIGINT  # type: ignore[attr-defined]
        return stopped

    def __enter__(self) -> Self:
        """Take the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or set by no Python
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if self._at_once or self.forced:
            raise self.error("stopped")
        self.wake()
