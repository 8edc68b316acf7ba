"""Who may draw next: bounded sessions take turns at the one model. Pure Python: no sockets, no torch.

Turns rather than batches, because batched rows of a network are not bit-identical to single ones: so a session's frames
depend on its own seed and prompts only, whoever else is watching. Shape legend: T pixel frames, H/W pixels.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from understudy.errors import UnderstudyError
from understudy.mp4 import Frames

_LOG = logging.getLogger(__name__)

Reason = Literal["finished", "stopped", "idle", "failed", "shutdown"]


class Refused(UnderstudyError):
    """There is no room for another session."""


class Drawn(Protocol):
    """One block: uint8 frames [T, H, W, 3] and the bytes of the cache it was drawn with."""

    @property
    def frames(self) -> Frames:
        """The pixels."""
        ...

    @property
    def cache_bytes(self) -> int:
        """Size of the cache."""
        ...


class Stream(Iterator[Drawn], Protocol):
    """What a session draws from; see ``students.generate.ClipStream``."""

    def switch(self, prompt: str) -> None:
        """Turn to another prompt from the next block on."""


@dataclass(frozen=True)
class Limits:
    """Bounds: playing ``sessions``, waiting ``queue``, ``ahead`` blocks not acknowledged, ``lead`` seconds before due.

    ``idle_seconds`` without a word from the viewer frees a session; ``prompt_chars``, ``message_bytes`` and ``seconds``
    (of video per session) bound what a viewer may ask for.
    """

    sessions: int = 8
    queue: int = 32
    ahead: int = 8
    lead: float = 0.75
    idle_seconds: float = 60.0
    prompt_chars: int = 500
    message_bytes: int = 65536
    seconds: float = 3600.0


class Session:
    """One viewer's place: waiting, playing or ended. Made by ``Scheduler.join`` alone."""

    def __init__(self, open_stream: Callable[[], Stream], fps: float, wake: Callable[[], None], now: float) -> None:
        self.open_stream, self.fps, self.wake = open_stream, fps, wake
        self.stream: Stream | None = None
        self.outbox: deque[tuple[int, Drawn, float]] = deque()  # (number, block, seconds it took)
        self.blocks = self.frames = self.acked = 0
        self.heard, self.began = now, 0.0
        self.position = 0  # 0: playing
        self.turned: str | None = None
        self.ended: tuple[Reason, str] | None = None


class Scheduler:
    """Lets sessions draw one block each in turn; safe to call from any thread, ``turn`` from one alone."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._lock = threading.RLock()
        self._changed = threading.Event()
        self._playing: deque[Session] = deque()
        self._waiting: deque[Session] = deque()
        self._closed = False
        self.counts = {"blocks": 0, "frames": 0, "joined": 0, "refused": 0, "failed": 0}

    @property
    def sizes(self) -> tuple[int, int]:
        """Sessions playing and waiting."""
        return len(self._playing), len(self._waiting)

    def join(self, open_stream: Callable[[], Stream], fps: float, wake: Callable[[], None]) -> Session:
        """Take a place; ``wake`` is called, from any thread, whenever the session has news.

        Raises:
            Refused: all places and the queue are full, or the server is stopping.
        """
        with self._lock:
            if self._closed or len(self._playing) + len(self._waiting) >= self.limits.sessions + self.limits.queue:
                self.counts["refused"] += 1
                why = "the server is stopping" if self._closed else "all places and the queue are taken"
                raise Refused(f"{why}: try again later")
            session = Session(open_stream, fps, wake, self._clock())
            self.counts["joined"] += 1
            self._waiting.append(session)
            self._promote()
        return session

    def leave(self, session: Session, reason: Reason = "stopped", detail: str = "") -> None:
        """End a session and give its place to the next; does nothing to one that has ended."""
        with self._lock:
            if session.ended is not None:
                return
            session.ended, session.stream = (reason, detail), None
            (self._playing if session in self._playing else self._waiting).remove(session)
            self._promote()
        session.wake()

    def heard(self, session: Session, acked: int | None = None, prompt: str | None = None) -> None:
        """Note that the viewer is there, has block number ``acked``, or wants another prompt."""
        with self._lock:
            session.heard = self._clock()
            session.acked = min(max(session.acked, acked or 0), session.blocks)
            session.turned = prompt or session.turned
        self._changed.set()

    def turn(self) -> float:
        """Draw one block for whoever is next; return the seconds until there can be something to do (0: at once)."""
        now = self._clock()
        with self._lock:
            for session in [*self._playing, *self._waiting]:
                if now - session.heard > self.limits.idle_seconds:
                    self.leave(session, "idle", f"nothing was heard for {self.limits.idle_seconds:g} s")
            chosen = self._next(now)
            if chosen is None:
                return 0.02 if self._playing else 1.0
            prompt, chosen.turned = chosen.turned, None
        self._draw(chosen, prompt, now)
        return 0.0

    def run(self) -> None:
        """Take turns until ``close``."""
        while not self._closed:
            self._changed.clear()
            if (wait := self.turn()) > 0:
                self._changed.wait(wait)

    def close(self) -> None:
        """End every session and refuse new ones."""
        with self._lock:
            self._closed = True
            for session in [*self._waiting, *self._playing]:
                self.leave(session, "shutdown", "the server is stopping")
        self._changed.set()

    def _next(self, now: float) -> Session | None:
        for _ in range(len(self._playing)):
            session = self._playing[0]
            self._playing.rotate(-1)
            due = session.began + session.frames / session.fps - self.limits.lead
            if session.blocks - session.acked < self.limits.ahead and (not session.blocks or now >= due):
                return session
        return None

    def _draw(self, session: Session, prompt: str | None, now: float) -> None:
        """Draw one block; whatever goes wrong ends this session only."""
        try:
            stream = session.stream or session.open_stream()
            if prompt is not None:
                stream.switch(prompt)
            drawn = next(stream)
        except StopIteration:
            return self.leave(session, "finished")
        except UnderstudyError as error:
            self.counts["failed"] += 1
            return self.leave(session, "failed", str(error))
        except Exception:
            _LOG.exception("a session failed")
            self.counts["failed"] += 1
            return self.leave(session, "failed", "this session failed; the server's log says why")
        with self._lock:
            if session.ended is not None:  # it left while its block was drawn
                return None
            session.stream = stream
            session.began = session.began if session.blocks else self._clock()
            session.blocks += 1
            session.frames += len(drawn.frames)
            session.outbox.append((session.blocks, drawn, self._clock() - now))
            self.counts["blocks"] += 1
            self.counts["frames"] += len(drawn.frames)
        session.wake()
        return None

    def _promote(self) -> None:
        while self._waiting and len(self._playing) < self.limits.sessions:
            self._playing.append(self._waiting.popleft())
        for position, session in enumerate([*self._playing, *self._waiting], start=1 - len(self._playing)):
            session.position = max(0, position)
            session.wake()
        self._changed.set()
