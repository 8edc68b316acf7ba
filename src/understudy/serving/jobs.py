"""Clips to order: jobs that wait, are drawn through the same scheduler as viewers' sessions, and are kept for a while.

Everything lives in memory and is bounded; a restart forgets all jobs. No sockets here.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from understudy.errors import ConfigError, UnderstudyError
from understudy.serving.catalogue import Plan
from understudy.serving.scheduler import Refused, Scheduler, Session, waker
from understudy.video.mp4 import Frames, Mp4Encoder

_LOG = logging.getLogger(__name__)

State = Literal["queued", "in_progress", "completed", "failed"]


@dataclass(eq=False)
class Job:
    """One clip to order.

    Attributes:
        id: unguessable.
        model: name of the student.
        plan, given: what to draw, and the frames [T, H, W, 3] to start from.
        asked: a fingerprint of the request; key: the client's own name for it, or nothing.
        ignored: fields of the request that mean nothing here.
        progress: 0 to 100. video: the finished mp4. fetched: somebody has it.
        created, completed: Unix seconds.
    """

    model: str
    plan: Plan
    given: Frames | None = None
    asked: str = ""
    key: str = ""
    ignored: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"video_{secrets.token_hex(16)}")
    state: State = "queued"
    progress: int = 0
    video: bytes = b""
    error: str = ""
    fetched: bool = False
    created: float = 0.0
    completed: float | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("completed", "failed")


class Jobs:
    """All jobs of a server; used from its event loop alone.

    Args:
        scheduler: who draws. At most half of its places go to jobs.
        clock: Unix seconds.
    """

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float] = time.time) -> None:
        self._scheduler, self._limits, self._clock = scheduler, scheduler.limits, clock
        self._jobs: dict[str, Job] = {}  # oldest first
        self._running: dict[str, Session] = {}
        self._news = asyncio.Condition()

    @property
    def workers(self) -> int:
        """How many jobs are drawn at once."""
        return max(1, self._limits.sessions // 2)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Jobs not finished, jobs kept, and the bytes of these."""
        done = [job for job in self._jobs.values() if job.finished]
        return len(self._jobs) - len(done), len(done), sum(len(job.video) for job in done)

    async def add(self, job: Job) -> Job:
        """Take a job, or return the one that the same key made before.

        Raises:
            Refused: as many wait as may wait.
            ConfigError: the key was used for another request.
        """
        self._drop()
        for known in self._jobs.values() if job.key else ():
            if known.key == job.key:
                if known.asked != job.asked:
                    raise ConfigError("this Idempotency-Key was used for another request: use a new one")
                return known
        if self.sizes[0] >= self._limits.jobs:
            raise Refused(f"{self._limits.jobs} jobs are waiting already: try again later")
        job.created = self._clock()
        self._jobs[job.id] = job
        async with self._news:
            self._news.notify()
        return job

    def find(self, name: str) -> Job | None:
        """Return the job of that id, if it is still known."""
        self._drop()
        return self._jobs.get(name)

    def newest_first(self) -> list[Job]:
        """Return all jobs."""
        self._drop()
        return list(self._jobs.values())[::-1]

    def remove(self, job: Job) -> None:
        """Forget a job; one that is being drawn is stopped."""
        self._jobs.pop(job.id, None)
        if (session := self._running.get(job.id)) is not None:
            self._scheduler.leave(session)

    async def work(self) -> None:
        """Draw one job after another until cancelled; ``workers`` of these run side by side."""
        while True:
            async with self._news:
                await self._news.wait_for(lambda: self._next() is not None)
                job = self._next()
                assert job is not None
                job.state = "in_progress"
            try:
                job.video = await self._draw(job)
                job.state, job.progress = "completed", 100
            except UnderstudyError as error:
                job.state, job.error = "failed", str(error)
            except Exception:
                _LOG.exception("a job failed")
                job.state, job.error = "failed", "this job failed; the server's log says why"
            job.completed, job.given = self._clock(), None
            self._drop()

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    async def _draw(self, job: Job) -> bytes:
        plan, news = job.plan, asyncio.Event()
        encoder = Mp4Encoder(plan.height, plan.width, plan.fps, playable=True)
        session = await self._join(job, waker(news))
        self._running[job.id] = session
        drawn = 0
        try:
            while True:
                ended = session.ended  # read first: what was drawn before the end is taken below
                while part := session.take():
                    frames = part.drawn.frames[: plan.frames - drawn]
                    await asyncio.to_thread(encoder.push, frames)
                    drawn += len(frames)
                    job.progress = min(99, 100 * drawn // plan.frames)
                    self._scheduler.heard(session, acked=part.number)
                    if encoder.size > self._limits.kept_bytes:
                        raise Refused(f"the clip is larger than {self._limits.kept_bytes} bytes: ask for a shorter one")
                if ended is not None:
                    break
                await news.wait()
                news.clear()
        finally:
            self._running.pop(job.id, None)
            self._scheduler.leave(session)
        if ended[0] != "finished":
            raise Refused(ended[1] or "the job was stopped")
        return await asyncio.to_thread(encoder.finish)

    async def _join(self, job: Job, wake: Callable[[], None]) -> Session:
        """Return a place in the scheduler; while its queue is full, ask again."""
        while job.id in self._jobs and not self._scheduler.closed:
            try:
                return self._scheduler.join(job.plan.opener(job.given), job.plan.fps, wake, watched=False)
            except Refused:
                await asyncio.sleep(0.5)
        raise Refused("the job was stopped")

    def _drop(self) -> None:
        """Forget finished jobs that are too old or too many: those that somebody has fetched first, then the oldest."""
        now, limits = self._clock(), self._limits
        for job in list(self._jobs.values()):
            if job.completed is not None and now - job.completed > limits.kept_seconds:
                del self._jobs[job.id]
        kept = sorted((job for job in self._jobs.values() if job.finished), key=lambda job: not job.fetched)
        size = sum(len(job.video) for job in kept)
        while len(kept) > 1 and (len(kept) > limits.kept or size > limits.kept_bytes):
            job = kept.pop(0)
            size -= len(job.video)
            del self._jobs[job.id]
