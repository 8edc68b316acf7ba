"""What a collection does with paid work when the teacher, or the user, does not behave."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.collection.collect import CollectReport, Job, Policy, collect
from understudy.collection.ledger import Budget, Ledger
from understudy.collection.policy import kind_of
from understudy.collection.store import ClipStore
from understudy.errors import (
    ClipRefused,
    CollectionIncomplete,
    JobForgotten,
    PromptRejected,
    TeacherError,
    TeacherStopped,
    TransientError,
)
from understudy.teachers.base import ClipParams, ClipRequest, JobStatus, Terms
from understudy.video.clips import Clip, encode_mp4

CLIP = encode_mp4(Clip(np.full((2, 8, 8, 3), 90, np.uint8), 8))
FAST = {"poll": 0.01, "first_wait": 0.01, "longest_wait": 0.05, "tries": 3, "downloads": 2}
PARAMS = ClipParams(frames=2, fps=8.0)


@dataclass
class Service:
    """A service that makes a job of every request, unless told otherwise; every job is billed."""

    name: str = "service-1"
    terms: Terms = field(default_factory=lambda: Terms("yes", "ours"))
    idempotent: bool = False
    local: bool = False
    own_files: bool = True
    currency: str = "USD"
    on_submit: Callable[[ClipRequest, str], Any] = lambda request, job: None
    on_poll: Callable[[str, str], Any] = lambda prompt, job: None
    on_download: Callable[[str], Any] = lambda prompt: None
    seconds: float = 0.0
    jobs: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def price(self, params: ClipParams) -> float:
        return 1.0

    def make(self, prompt: str) -> str:
        with self.lock:
            job = f"job-{len(self.jobs)}"
            self.jobs[job] = prompt
        return job

    def submit(self, request: ClipRequest) -> str:
        self.asked.append(request.prompt)
        if (early := self.on_submit(request, "")) is not None:
            return str(early)
        job = self.make(request.prompt)
        time.sleep(self.seconds)
        said = self.on_submit(request, job)
        return job if said is None else str(said)

    def poll(self, handle: str) -> JobStatus:
        found = self.on_poll(self.jobs.get(handle, ""), handle)
        return found if isinstance(found, JobStatus) else JobStatus("done")

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        self.on_download(self.jobs[handle])
        path.write_bytes(CLIP)


def run(service: Any, path: Path, jobs: list[Job], **how: Any) -> CollectReport:
    store = ClipStore(path, create=True)
    policy = Policy(**{**FAST, **how})  # type: ignore[arg-type]
    return collect(service, jobs, store, PARAMS, lambda report: None, policy, approve=lambda estimate: None)


def planned(count: int, word: str = "ball") -> list[Job]:
    return [Job(f"{word} {chr(97 + place)}", place) for place in range(count)]


def rows(path: Path) -> dict[str, Any]:
    with Ledger(path) as ledger:
        return {row.prompt: row for row in ledger.jobs()}


def raises(error: Exception, *prompts: str, late: bool = True) -> Callable[[ClipRequest, str], None]:
    """Have requests of ``prompts`` end in ``error``, after the job was made when ``late``."""

    def check(request: ClipRequest, job: str) -> None:
        if (not prompts or request.prompt in prompts) and bool(job) == late:
            raise error

    return check


LOST = TransientError("no answer", unsure=True)


# --- unsure jobs ------------------------------------------------------------------------------------------------


def test_unsure_jobs_of_earlier_runs_come_last_and_stop_nothing(tmp_path: Path) -> None:
    jobs = planned(14)
    lost = [job.prompt for job in jobs[:6]]
    service = Service(on_submit=raises(LOST, *lost))
    with pytest.raises(TeacherError, match="in a row came to nothing"):
        run(service, tmp_path, jobs, failures=6)
    assert sum(row.unsure for row in rows(tmp_path).values()) == 6
    service.asked.clear()
    with pytest.raises(CollectionIncomplete, match=r"6 jobs failed.*of 6 nobody knows whether.*--retry-unsure"):
        run(service, tmp_path, jobs)
    assert set(service.asked) <= {job.prompt for job in jobs[6:]}
    assert len(ClipStore(tmp_path)) == 8
    service.on_submit = lambda request, job: None
    assert run(service, tmp_path, jobs, retry_unsure=True).done == 6
    assert len(service.jobs) == 14 + 6


def test_jobs_with_an_id_come_first(tmp_path: Path) -> None:
    jobs = planned(4)
    service = Service(on_poll=lambda prompt, job: JobStatus("running"))
    with pytest.raises(TeacherError):
        run(service, tmp_path, jobs[2:], timeout=0.05)
    with Ledger(tmp_path) as ledger:  # as after a kill
        for row in ledger.jobs():
            ledger.submitted(row.key, row.number, row.handle or "")
    service.on_poll, seen = (lambda prompt, job: seen.append(prompt)), list[str]()
    run(service, tmp_path, jobs)
    assert set(seen[:2]) == {jobs[2].prompt, jobs[3].prompt}
    assert len(service.jobs) == 4


@pytest.mark.parametrize("error", [LOST, RuntimeError("boom"), TransientError("answered 503", unsure=True)])
def test_a_request_that_may_have_made_a_job_is_not_sent_again_and_counts(tmp_path: Path, error: Exception) -> None:
    service = Service(on_submit=raises(error))
    for _ in range(3):
        with pytest.raises(CollectionIncomplete, match="nobody knows"):
            run(service, tmp_path, planned(1))
    assert len(service.asked) == 1
    with Ledger(tmp_path) as ledger:
        assert ledger.spent(service.name) == (1.0, 1)
    assert run(service, tmp_path, planned(1), retry_unsure=True, budget=Budget(money=1.5)).unfunded == 1
    assert len(service.asked) == 1


def test_an_idempotent_teacher_is_asked_again(tmp_path: Path) -> None:
    service = Service(idempotent=True)
    tries = []

    def twice(request: ClipRequest, job: str) -> str | None:
        tries.append(request.key)
        if len(tries) < 3:
            raise LOST
        return "job-0" if service.jobs else None

    service.on_submit = twice
    assert run(service, tmp_path, planned(1)).done == 1
    assert len(set(tries)) == 1


def test_the_service_s_own_list_is_looked_at_before_anybody_pays_again(tmp_path: Path) -> None:
    @dataclass
    class Listing(Service):
        lists: bool = True
        found: bool = False

        def find(self, request: ClipRequest, begun: float, known: Callable[[str], bool]) -> str | None:
            assert abs(begun - time.time()) < 60
            own = (job for job, prompt in self.jobs.items() if prompt == request.prompt and not known(job))
            return next(own, None) if self.found else None

    service = Listing(on_submit=raises(LOST, "ball a", "ball b"))
    with pytest.raises(CollectionIncomplete, match="not in the service's list"):
        run(service, tmp_path, planned(3))
    service.found = True
    assert run(service, tmp_path, planned(3)).done == 2
    assert len(service.jobs) == 3
    assert all(row.state == "done" and not row.unsure for row in rows(tmp_path).values())


def test_one_id_for_two_jobs_is_the_service_s_error(tmp_path: Path) -> None:
    service = Service(on_submit=lambda request, job: "job-0" if job else None)
    with pytest.raises(CollectionIncomplete, match="the id of another job, job-0"):
        run(service, tmp_path, planned(3))
    assert Counter(row.state for row in rows(tmp_path).values()) == {"done": 1, "failed": 2}
    assert sum(row.unsure for row in rows(tmp_path).values()) == 2


def test_an_id_that_the_service_never_knew_is_unsure_rather_than_lost(tmp_path: Path) -> None:
    def unknown(prompt: str, job: str) -> None:
        raise JobForgotten("no such job")

    service = Service(on_poll=unknown)
    for _ in range(2):
        with pytest.raises(CollectionIncomplete, match="nobody knows"):
            run(service, tmp_path, planned(1))
    assert len(service.jobs) == 1
    service.on_poll = lambda prompt, job: None  # its list was behind
    assert run(service, tmp_path, planned(1)).done == 1


def test_an_id_that_was_never_known_stays_unsure_after_a_stop(tmp_path: Path) -> None:
    def away(prompt: str, job: str) -> None:
        raise TransientError("answered 503")

    def unknown(prompt: str, job: str) -> None:
        raise JobForgotten("no such job")

    service = Service(on_poll=away)
    with pytest.raises(CollectionIncomplete, match="1 are left"):
        run(service, tmp_path, planned(1))
    service.on_poll = unknown
    with pytest.raises(CollectionIncomplete, match="nobody knows"):
        run(service, tmp_path, planned(1))
    assert len(service.jobs) == 1


def test_a_job_that_was_known_and_is_forgotten_is_asked_for_again(tmp_path: Path) -> None:
    service = Service(on_poll=lambda prompt, job: JobStatus("running"))
    with pytest.raises(CollectionIncomplete, match="1 are left"):
        run(service, tmp_path, planned(1), timeout=0.05)

    def forgot(prompt: str, job: str) -> None:
        if job == "job-0":
            raise JobForgotten("no such job")

    service.on_poll = forgot
    assert run(service, tmp_path, planned(1)).done == 1
    assert len(service.jobs) == 2


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C is heard, even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_submissions_under_way(tmp_path: Path, number: signal.Signals) -> None:
    service, jobs = Service(seconds=0.4), planned(12)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    with pytest.raises(KeyboardInterrupt, match=r"stopped: \d+ of 12 jobs are settled") as caught:
        run(service, tmp_path, jobs, concurrency=6)
    assert caught.value.signal == number  # type: ignore[attr-defined]
    made = len(service.jobs)
    assert 0 < made < 12
    assert sum(row.handle is not None for row in rows(tmp_path).values()) == made
    service.seconds = 0.0
    assert run(service, tmp_path, jobs).settled == 12
    assert len(service.jobs) == 12


@pytest.mark.usefixtures("listening")
def test_a_second_signal_ends_at_once_and_an_answer_that_comes_later_is_noted(tmp_path: Path) -> None:
    service, answer = Service(), threading.Event()

    def wait(request: ClipRequest, job: str) -> None:
        if job:
            answer.wait(20)

    service.on_submit = wait
    for after in (0.3, 0.7):
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(service, tmp_path, planned(2))
    assert not answer.is_set()
    answer.set()
    time.sleep(0.5)
    assert [row.handle for row in rows(tmp_path).values()] == ["job-0", None]


def test_when_a_collection_stops_itself_the_threads_end_first(tmp_path: Path) -> None:
    service, jobs = Service(), planned(12)

    def fail(request: ClipRequest, job: str) -> None:
        if not job and request.prompt < "ball f":
            raise TeacherError("the worker crashed")
        if job:
            time.sleep(0.3)

    service.on_submit = fail
    with pytest.raises(TeacherStopped, match=r"5 jobs in a row came to nothing.*the worker crashed"):
        run(service, tmp_path, jobs, concurrency=6)
    assert len(service.jobs) > 0
    assert {row.handle for row in rows(tmp_path).values() if row.handle} == set(service.jobs)
    assert len(ClipStore(tmp_path)) == len(service.jobs)  # what the service had was waited for


def test_an_error_elsewhere_waits_for_submissions_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.collection.worker._PATIENCE", 0.0)  # else no clip is kept before all are handed in
    service = Service(on_submit=lambda request, job: time.sleep(0.4) if job and request.prompt != "ball a" else None)

    def full(report: CollectReport) -> None:
        if report.done:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        collect(
            service,
            planned(4),
            ClipStore(tmp_path, create=True),
            PARAMS,
            full,
            Policy(concurrency=4, **FAST),  # type: ignore[arg-type]
            approve=lambda estimate: None,
        )
    assert {row.handle for row in rows(tmp_path).values() if row.handle} == set(service.jobs)


def test_what_the_teacher_has_is_fetched_when_it_takes_no_more(tmp_path: Path) -> None:
    service, jobs = Service(), planned(8)
    until = time.monotonic() + 0.5
    service.on_poll = lambda prompt, job: JobStatus("done" if time.monotonic() > until else "running")
    service.on_submit = raises(TeacherStopped("the credit is used up"), *(job.prompt for job in jobs[3:]), late=False)
    with pytest.raises(
        TeacherStopped, match=r"credit is used up; \d of 8 are settled and kept; \d stay queued"
    ) as caught:
        run(service, tmp_path, jobs, concurrency=4)
    assert caught.value.exit_status == 3
    made = len(service.jobs)
    assert 0 < made <= 3
    assert Counter(row.state for row in rows(tmp_path).values()) == {"done": made, "queued": 8 - made}
    with Ledger(tmp_path) as ledger:
        assert ledger.spent(service.name) == (made, made)


def test_a_stop_at_every_job_ends_it(tmp_path: Path) -> None:
    def locked(prompt: str, job: str) -> None:
        raise TeacherStopped("refuses the key")

    service = Service(on_poll=locked)
    begun = time.monotonic()
    with pytest.raises(TeacherStopped, match="refuses the key"):
        run(service, tmp_path, planned(9), concurrency=4)
    assert time.monotonic() - begun < 20
    assert all(row.handle is None or row.state == "running" for row in rows(tmp_path).values())
    service.on_poll = lambda prompt, job: None
    assert run(service, tmp_path, planned(9)).settled == 9
    assert len(service.jobs) == 9


# --- refusals ---------------------------------------------------------------------------------------------------


def refuse(*letters: str) -> Callable[[ClipRequest, str], None]:
    def check(request: ClipRequest, job: str) -> None:
        if request.prompt[-1] in letters:
            raise PromptRejected(f"{request.prompt!r} was flagged (request {hash(request.prompt) % 1000:04d})")

    return check


def test_a_refusal_is_recorded_once_another_prompt_is_taken(tmp_path: Path) -> None:
    service = Service(on_submit=refuse("b", "d", "h"))
    report = run(service, tmp_path, planned(8))
    assert (report.done, report.rejected) == (5, 3)
    assert run(service, tmp_path, planned(8)).skipped == 8


def test_equal_refusals_of_different_prompts_in_a_row_stop_it_and_none_is_recorded(tmp_path: Path) -> None:
    service = Service(on_submit=refuse(*"cdefghij"))
    for _ in range(2):
        with pytest.raises(TeacherStopped, match=r"[56] different prompts in a row were refused.*--keep-refusals"):
            run(service, tmp_path, planned(10))
        assert [record.status for record in ClipStore(tmp_path)] == ["done"] * 2
    with Ledger(tmp_path) as ledger:
        assert ledger.spent(service.name) == (2.0, 2)
    service.on_submit = refuse("c")
    report = run(service, tmp_path, planned(10))
    assert (report.done, report.rejected) == (7, 1)


def test_refusals_in_the_job_wait_as_well_and_their_jobs_keep_their_ids(tmp_path: Path) -> None:
    service = Service(on_poll=lambda prompt, job: JobStatus("rejected", "moderated"))
    with pytest.raises(TeacherStopped, match=r"[56] different prompts"):
        run(service, tmp_path, planned(7))
    assert len(ClipStore(tmp_path)) == 0
    made = len(service.jobs)
    service.on_poll = lambda prompt, job: None
    run(service, tmp_path, planned(7))
    assert (len(ClipStore(tmp_path)), len(service.jobs)) == (7, 7)
    assert made <= 7


def test_the_user_may_keep_refusals_and_take_them_back(tmp_path: Path) -> None:
    service = Service(on_submit=refuse(*"abcdefgh"))
    assert run(service, tmp_path, planned(8), keep_refusals=True).rejected == 8
    store = ClipStore(tmp_path, create=True)
    store.requeue([record.key for record in store if record.prompt < "ball e"])
    assert len(store) == len(ClipStore(tmp_path)) == 4
    service.on_submit = lambda request, job: None
    assert run(service, tmp_path, planned(8)).done == 4
    assert Counter(record.status for record in ClipStore(tmp_path)) == {"done": 4, "rejected": 4}


def test_many_takes_of_one_prompt_are_one_prompt(tmp_path: Path) -> None:
    service = Service(on_submit=refuse("x"))
    report = run(service, tmp_path, [Job("ball x", seed) for seed in range(9)] + planned(1))
    assert (report.done, report.rejected) == (1, 9)


# --- failures ---------------------------------------------------------------------------------------------------


def test_one_job_s_exception_leaves_that_job_alone(tmp_path: Path) -> None:
    def odd(prompt: str, job: str) -> None:
        if prompt == "ball b":
            raise RecursionError("maximum recursion depth exceeded")

    service = Service(on_poll=odd)
    with pytest.raises(CollectionIncomplete, match=r"1 are left of 4.*unexpected RecursionError") as caught:
        run(service, tmp_path, planned(4))
    assert caught.value.exit_status == 4
    assert len(ClipStore(tmp_path)) == 3
    service.on_poll = lambda prompt, job: None
    assert run(service, tmp_path, planned(4)).done == 1
    assert len(service.jobs) == 4


def test_failures_of_earlier_runs_go_to_the_back(tmp_path: Path) -> None:
    bad = ("ball a", "ball b", "ball c")
    service = Service(on_poll=lambda prompt, job: JobStatus("failed", "the worker crashed") if prompt in bad else None)
    with pytest.raises(TeacherError):
        run(service, tmp_path, planned(8), failures=3, attempts=1)
    early = len(ClipStore(tmp_path))
    assert early < 5
    service.asked.clear()
    with pytest.raises(TeacherError):
        run(service, tmp_path, planned(8), failures=3, attempts=1)
    assert len(ClipStore(tmp_path)) == 5
    assert set(service.asked[: 5 - early]).isdisjoint(bad)


def test_the_stop_compares_reasons(tmp_path: Path) -> None:
    jobs = planned(7)
    service = Service(on_poll=lambda prompt, job: JobStatus("failed", f"its own reason, {prompt[-1] * 5}"))
    with pytest.raises(CollectionIncomplete, match="7 jobs failed"):
        run(service, tmp_path, jobs, attempts=1)
    assert kind_of("prompt 'a ball' (seed 71): request 3f2a-11 failed", "a ball") == kind_of(
        "prompt 'a cone' (seed 8): request 99e-b1 failed", "a cone"
    )
    assert kind_of("no credit left", "a") != kind_of("no worker left", "a")


def test_a_longer_wait_than_there_is_leaves_the_job_for_later(tmp_path: Path) -> None:
    busy = TransientError("answered 429", retry_after=3600.0)
    service = Service(on_submit=raises(busy, late=False))
    with pytest.raises(TeacherError, match="asks to wait 3600 seconds"):
        run(service, tmp_path, planned(4), tries=8)
    assert len(service.asked) == 1
    assert {row.state for row in rows(tmp_path).values()} == {"queued"}


def test_a_word_that_nobody_knows_is_said_once_and_the_job_left(tmp_path: Path) -> None:
    service = Service(on_poll=lambda prompt, job: JobStatus("running", strange="transmogrified"))
    left = pytest.raises(CollectionIncomplete, match="2 are left")
    with pytest.warns(UserWarning, match=r"'transmogrified'.*teacher\.wire\.states") as said, left:
        run(service, tmp_path, planned(2))
    assert len([one for one in said if "transmogrified" in str(one.message)]) == 1


def test_the_timeout_counts_downloads(tmp_path: Path) -> None:
    given: list[float | None] = []

    class Slow(Service):
        def download(self, handle: str, status: JobStatus, path: Path) -> None:
            given.append(status.seconds)
            time.sleep(0.15)
            raise TransientError("the download broke off")

    with pytest.raises(CollectionIncomplete, match=r"not done after 0\.1 seconds"):
        run(Slow(), tmp_path, planned(1), timeout=0.1, tries=50)
    assert len(given) == 1
    assert 0 < (given[0] or 9) <= 0.1


def test_a_clip_beyond_a_limit_is_not_fetched_again(tmp_path: Path) -> None:
    fetched: list[str] = []

    def large(prompt: str) -> None:
        fetched.append(prompt)
        raise ClipRefused("the clip is larger than 1 MiB")

    with pytest.raises(CollectionIncomplete, match=r"1 are left.*larger than 1 MiB"):
        run(Service(on_download=large), tmp_path, planned(1), downloads=6)
    assert len(fetched) == 1


def test_a_failed_job_that_seems_moderated_is_not_paid_again(tmp_path: Path) -> None:
    service = Service(on_poll=lambda prompt, job: JobStatus("failed", "violates a policy", again=False))
    with pytest.raises(CollectionIncomplete, match="1 jobs failed"):
        run(service, tmp_path, planned(1), attempts=4)
    assert (len(service.jobs), len(ClipStore(tmp_path))) == (1, 0)
