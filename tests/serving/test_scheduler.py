from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from understudy.errors import ConfigError
from understudy.serving.scheduler import Limits, Refused, Scheduler, Session


@dataclass(frozen=True)
class Drawn:
    frames: np.ndarray
    cache_bytes: int = 0


class Stream:
    def __init__(self, blocks: int = 10**9, error: Exception | None = None) -> None:
        self.left, self.error, self.prompts = blocks, error, []

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Drawn:
        if self.error is not None:
            raise self.error
        if not self.left:
            raise StopIteration
        self.left -= 1
        return Drawn(np.zeros((2, 4, 4, 3), np.uint8))

    def switch(self, prompt: str) -> None:
        self.prompts.append(prompt)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(**limits: float) -> tuple[Scheduler, Clock]:
    clock = Clock()
    return Scheduler(Limits(**{"ahead": 10**6, "lead": 1e9, **limits}), clock), clock  # type: ignore[arg-type]


def join(scheduler: Scheduler, stream: Stream | None = None) -> Session:
    return scheduler.join(lambda: stream or Stream(), 12.0, lambda: None)


def test_turns_are_fair() -> None:
    scheduler, _ = make()
    sessions = [join(scheduler) for _ in range(8)]
    for _ in range(80):
        scheduler.turn()
    assert Counter(session.blocks for session in sessions) == {10: 8}


def test_a_slow_viewer_waits_and_harms_no_other() -> None:
    scheduler, _ = make(ahead=4)
    slow, quick = join(scheduler), join(scheduler)
    for _ in range(40):
        scheduler.turn()
        quick.take()
        scheduler.heard(quick, acked=quick.blocks)
    assert (slow.blocks, quick.blocks) == (4, 36)


def test_a_paced_viewer_gets_no_more_than_the_lead() -> None:
    scheduler, clock = make(lead=1.0)
    session = join(scheduler)
    for _ in range(40):
        scheduler.turn()
    assert session.frames == 14  # the block at 1 s is due as well
    clock.now = 1.0
    for _ in range(40):
        scheduler.turn()
    assert session.frames == 26


def test_a_crash_ends_its_own_session_only() -> None:
    scheduler, _ = make()
    bad, wrong, good = (
        join(scheduler, Stream(error=e)) for e in (ZeroDivisionError("secret"), ConfigError("why"), None)
    )
    for _ in range(6):
        scheduler.turn()
    assert bad.ended == ("failed", "this session failed; the server's log says why")
    assert wrong.ended == ("failed", "why")
    assert good.ended is None
    assert good.blocks == 4


def test_places_and_queue_are_bounded_and_the_queue_moves_on() -> None:
    scheduler, _ = make(sessions=1, queue=1)
    first, second = join(scheduler), join(scheduler)
    with pytest.raises(Refused, match="queue are taken"):
        join(scheduler)
    assert (first.position, second.position) == (0, 1)
    scheduler.leave(first)
    assert second.position == 0
    assert scheduler.sizes == (1, 0)


def test_a_viewer_that_leaves_blocks_unacknowledged_is_freed() -> None:
    scheduler, clock = make(idle_seconds=10)
    silent, alive = join(scheduler), join(scheduler)
    for _ in range(4):
        scheduler.turn()
    clock.now = 11
    scheduler.heard(silent, prompt="asking for more is no acknowledgement")
    scheduler.heard(alive, acked=1)
    scheduler.turn()
    assert silent.ended is not None
    assert silent.ended[0] == "idle"
    assert (silent.stream, len(silent.outbox)) == (None, 0)
    assert alive.ended is None


def test_who_waits_for_us_is_not_idle() -> None:
    scheduler, clock = make(idle_seconds=10, sessions=1)
    playing, waiting = join(scheduler), join(scheduler)
    scheduler.turn()
    assert playing.take() is not None
    scheduler.heard(playing, acked=1)
    playing.stream, clock.now = None, 100  # nothing was drawn for it in all that time
    scheduler.turn()
    assert (playing.ended, waiting.ended) == (None, None)


def test_blocks_that_do_not_go_out_stop_the_drawing_even_when_acknowledged() -> None:
    scheduler, clock = make(ahead=4, idle_seconds=10)
    session = join(scheduler)
    for _ in range(20):
        scheduler.turn()
        scheduler.heard(session, acked=10**9)
    assert (session.blocks, len(session.outbox)) == (4, 4)
    clock.now = 11
    scheduler.turn()
    assert session.ended is not None
    assert session.ended[0] == "idle"


def test_a_job_is_not_paced_and_what_it_drew_outlives_its_end() -> None:
    scheduler, _ = make(lead=0.0, ahead=4)
    job = scheduler.join(lambda: Stream(blocks=6), 12.0, lambda: None, watched=False)
    taken = []
    for _ in range(10):
        scheduler.turn()
        if part := (job.take() if job.ended is None and job.blocks < 6 else None):
            taken.append(part.number)
            scheduler.heard(job, acked=part.number)
    assert job.ended == ("finished", "")
    while part := job.take():
        taken.append(part.number)
    assert taken == [1, 2, 3, 4, 5, 6]


def test_prompt_switch_end_and_close() -> None:
    scheduler, _ = make()
    stream = Stream(blocks=2)
    session, other = join(scheduler, stream), join(scheduler)
    scheduler.heard(session, prompt="blue")
    for _ in range(6):
        scheduler.turn()
    assert stream.prompts == ["blue"]
    assert [part.prompt for part in session.outbox] == [1, 1]
    assert session.ended == ("finished", "")
    scheduler.close()
    assert other.ended is not None
    assert other.ended[0] == "shutdown"
    with pytest.raises(Refused, match="stopping"):
        join(scheduler)
