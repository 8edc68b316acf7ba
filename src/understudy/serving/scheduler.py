"""Who may draw next: bounded sessions take turns at the one model. Pure Python: no sockets, no torch.

Turns rather than batches, because batched rows of a network are not bit-identical to single ones: so a session's frames
depend on its own seed and prompts only, whoever else is watching. Shape legend: T pixel frames, H/W pixels.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from understudy.errors import UnderstudyError
from understudy.video.mp4 import Frames

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
    """What anybody may take up.

    Attributes:
        sessions, queue: sessions that play at once, and that wait.
        connections: open WebSockets, with or without a session.
        ahead: blocks drawn that the viewer has not acknowledged.
        lead: seconds that a block is drawn before it is due.
        idle_seconds: how long a viewer may leave blocks unacknowledged.
        prompt_chars, message_bytes: of a prompt, whatever a student reads of it, and of a text message or request.
        given_bytes: of a picture or clip to start from.
        bodies: requests that are read into memory at once.
        steps: sampling steps a block.
        seconds: of video per session.
        clip_seconds: of video per job of ``/v1/videos``.
        jobs: jobs waiting or being drawn; kept, kept_bytes, kept_seconds: finished clips, their bytes, and for how long.
    """

    sessions: int = 8
    queue: int = 32
    connections: int = 256
    ahead: int = 8
    lead: float = 0.75
    idle_seconds: float = 60.0
    prompt_chars: int = 10_000
    message_bytes: int = 65536
    given_bytes: int = 4 * 2**20
    bodies: int = 64
    steps: int = 16
    seconds: float = 3600.0
    clip_seconds: float = 60.0
    jobs: int = 64
    kept: int = 256
    kept_bytes: int = 256 * 2**20
    kept_seconds: float = 3600.0


@dataclass(frozen=True)
class Part:
    """One block on its way: its number from 1, what was drawn in how many seconds, and the number of its prompt from 0."""

    number: int
    drawn: Drawn
    seconds: float
    prompt: int


class Session:
    """One place: waiting, playing or ended. Made by ``Scheduler.join`` alone.

    Attributes:
        watched: somebody watches as it is drawn, so it is paced, and freed when nothing is heard; else it is a job.
        position: in the queue, from 1; 0: playing.
        ended: why and in what words; None until then.
    """

    def __init__(
        self, open_stream: Callable[[], Stream], fps: float, wake: Callable[[], None], now: float, watched: bool
    ) -> None:
        self.open_stream, self.fps, self.wake, self.watched = open_stream, fps, wake, watched
        self.stream: Stream | None = None
        self.outbox: deque[Part] = deque()
        self.blocks = self.frames = self.acked = 0
        self.heard, self.began = now, 0.0
        self.position = 0
        self.prompts = self.prompt = 0  # prompts asked for after the first, and the one that is drawn
        self.turned: str | None = None
        self.ended: tuple[Reason, str] | None = None

    def take(self) -> Part | None:
        """Return the next block that has not been taken."""
        try:
            return self.outbox.popleft()
        except IndexError:
            return None

    def may_draw(self, now: float, limits: Limits) -> bool:
        """Say whether the next block is due and the viewer keeps up: what has not gone out counts as well."""
        if max(self.blocks - self.acked, len(self.outbox)) >= limits.ahead:
            return False
        due = self.began + self.frames / self.fps - limits.lead
        return not (self.watched and self.blocks) or now >= due

    def is_idle(self, now: float, limits: Limits) -> bool:
        """Say whether blocks lie unacknowledged for too long; who waits for us is not idle."""
        owes = self.blocks > self.acked or bool(self.outbox)
        return self.watched and owes and now - self.heard > limits.idle_seconds


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
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    @property
    def sizes(self) -> tuple[int, int]:
        """Sessions playing and waiting."""
        return len(self._playing), len(self._waiting)

    def join(
        self, open_stream: Callable[[], Stream], fps: float, wake: Callable[[], None], watched: bool = True
    ) -> Session:
        """Take a place; ``wake`` is called, from any thread, whenever the session has news. See ``Session``.

        Raises:
            Refused: all places and the queue are full, or the server is stopping.
        """
        with self._lock:
            if self._closed or len(self._playing) + len(self._waiting) >= self.limits.sessions + self.limits.queue:
                self.counts["refused"] += 1
                why = "the server is stopping" if self._closed else "all places and the queue are taken"
                raise Refused(f"{why}: try again later")
            session = Session(open_stream, fps, wake, self._clock(), watched)
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
            if reason != "finished":
                session.outbox.clear()
            (self._playing if session in self._playing else self._waiting).remove(session)
            self._promote()
        session.wake()

    def heard(self, session: Session, acked: int | None = None, prompt: str | None = None) -> None:
        """Note that the viewer has block number ``acked``, or wants another prompt."""
        with self._lock:
            before, session.acked = session.acked, min(max(session.acked, acked or 0), session.blocks)
            if session.acked > before:
                session.heard = self._clock()
            if prompt is not None:
                session.prompts += 1
                session.turned = prompt
        self._changed.set()

    def turn(self) -> float:
        """Draw one block for whoever is next; return the seconds until there can be something to do (0: at once)."""
        now = self._clock()
        with self._lock:
            for session in list(self._playing):
                if session.is_idle(now, self.limits):
                    self.leave(session, "idle", f"no block was acknowledged for {self.limits.idle_seconds:g} s")
            chosen = self._next(now)
            if chosen is None:
                return 0.02 if self._playing else 1.0
            prompt, chosen.turned, chosen.prompt = chosen.turned, None, chosen.prompts
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
            if session.may_draw(now, self.limits):
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
            after = self._clock()
            session.began = session.began if session.blocks else after
            if session.acked == session.blocks:  # from now on the viewer owes a word
                session.heard = after
            session.blocks += 1
            session.frames += len(drawn.frames)
            session.outbox.append(Part(session.blocks, drawn, after - now, session.prompt))
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


def waker(news: asyncio.Event) -> Callable[[], None]:
    """Return a function that sets ``news`` from any thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(news.set)

    return wake
