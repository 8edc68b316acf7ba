"""What the ledger says of a job after a kill at any step of its life: nobody pays twice without wanting to."""

from pathlib import Path

import pytest

from understudy.collection.ledger import Budget, JobRow, Ledger

JOB = JobRow("key", "teacher", "a prompt", {}, 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path)
    found.plan([JOB], {})
    return found


def killed(ledger: Ledger) -> Ledger:
    """Return the ledger as another process finds it, whose plan is made again."""
    ledger.close()
    found = Ledger(ledger.path.parent)
    found.plan([JOB], {})
    return found


def begun(ledger: Ledger, price: float | None = 0.3, budget: Budget | None = None) -> int | None:
    assert ledger.claim("key") is not None
    return ledger.begin("key", price, budget or Budget())


def test_a_job_begun_and_not_answered_is_unsure_until_its_handle_is_noted(ledger: Ledger) -> None:
    assert begun(ledger) == 1
    after = killed(ledger)
    job = after.claim("key")
    assert job is not None
    assert (job.state, job.unsure, job.handle, job.number) == ("running", True, None, 1)
    after.submitted("key", 1, "handle")
    job = killed(after).claim("key")
    assert job is not None
    assert (job.state, job.unsure, job.handle, job.number) == ("running", False, "handle", 1)


def test_a_doubtful_job_is_not_queued_again_unless_the_user_says_so(ledger: Ledger) -> None:
    begun(ledger)
    ledger.doubt("key", "no answer")
    after = killed(ledger)
    job = after.get("key")
    assert job is not None
    assert (job.state, job.unsure) == ("failed", True)
    after.retry_unsure(["key"])
    job = after.get("key")
    assert job is not None
    assert (job.state, job.unsure) == ("queued", False)


def test_a_job_that_failed_for_sure_is_queued_again(ledger: Ledger) -> None:
    assert begun(ledger) == 1
    ledger.submitted("key", 1, "handle")
    ledger.settle("key", 1, "failed", "broken")
    after = killed(ledger)
    job = after.get("key")
    assert job is not None
    assert (job.state, job.handle, job.unsure) == ("queued", None, False)
    assert begun(after) == 2


def test_what_is_under_way_counts_as_spent_and_a_refusal_costs_nothing(ledger: Ledger) -> None:
    number = begun(ledger, 0.3)
    assert number == 1
    assert ledger.spent("teacher") == (pytest.approx(0.3), 1)
    assert begun(ledger, 0.3, Budget(money=0.5)) is None
    assert begun(ledger, 0.3, Budget(clips=1)) is None
    assert ledger.affords("teacher", 0.2, Budget(money=0.5))
    ledger.refused("key", number, "queued", "no")
    assert ledger.spent("teacher") == (0.0, 0)


def test_what_a_job_came_to_takes_the_place_of_its_price(ledger: Ledger) -> None:
    assert begun(ledger, 0.3) == 1
    ledger.submitted("key", 1, "handle")
    ledger.settle("key", 1, "done", cost=0.7)
    assert ledger.spent("teacher") == (pytest.approx(0.7), 1)


def test_a_job_that_a_living_collector_has_is_not_taken(ledger: Ledger) -> None:
    assert ledger.claim("key") is not None
    other = Ledger(ledger.path.parent)
    assert other.claim("key") is None
    ledger.release("key")
    assert other.claim("key") is not None
