import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.collection.pace import Durations, Pace, Stopped


def ask(durations: Durations, true: float) -> tuple[int, float]:
    """Return how many questions a job of ``true`` seconds takes, and how late its end is seen."""
    waited, undone, questions = durations.until_first(), 0.0, 1
    while waited < true:
        undone = waited
        waited += durations.until_next(waited)
        questions += 1
    durations.add(undone, waited)
    return questions, waited - true


@settings(max_examples=25, deadline=None)
@given(true=st.floats(3, 600), poll=st.floats(0.5, 4))
def test_jobs_of_one_duration_are_soon_seen_at_their_end(true: float, poll: float) -> None:
    durations = Durations(poll)
    seen = [ask(durations, true) for _ in range(100)]
    assert all(0 <= late <= poll for _, late in seen[:1])
    last = seen[-32:]
    assert sum(late for _, late in last) / len(last) < 0.05 + 0.005 * true
    assert max(questions for questions, _ in last) < 72  # one for each of the last jobs, and a few


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 20), spread=st.floats(0, 0.5))
def test_questions_do_not_grow_with_the_duration(seed: int, spread: float) -> None:
    drawn, durations = random.Random(seed), Durations(2.0)
    seen = [ask(durations, 300 * (1 + drawn.uniform(-spread, spread))) for _ in range(120)]
    assert sum(late for _, late in seen[60:]) / 60 < 1.8  # 0.6 %
    assert sum(questions for questions, _ in seen[60:]) / 60 < 100


def test_before_anything_is_known_the_recipe_decides() -> None:
    durations = Durations(3.0)
    assert (durations.until_first(), durations.until_next(0.0), durations.until_next(100.0)) == (0.0, 3.0, 3.0)


def test_the_rate_limit_spaces_submissions() -> None:
    pace, begun = Pace(per_minute=1200), time.monotonic()
    for _ in range(5):
        pace.before_submission()
    assert time.monotonic() - begun >= 4 * 0.05


def test_what_the_teacher_asks_for_holds_for_all_but_not_for_ever() -> None:
    pace, begun = Pace(first=0.01, ceiling=0.1), time.monotonic()
    pace.after_failure(1, retry_after=3600.0)  # the ceiling
    assert 0.1 <= time.monotonic() - begun < 3600
    pace._held = time.monotonic() + 0.05
    begun = time.monotonic()
    pace.before_request()
    assert time.monotonic() - begun >= 0.04


def test_a_stop_ends_every_wait() -> None:
    pace = Pace()
    pace.stop()
    for wait in (lambda: pace.wait(60), pace.before_request, pace.before_submission, lambda: pace.after_failure(9)):
        with pytest.raises(Stopped):
            wait()
