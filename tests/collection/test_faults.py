"""Collections from a server over real sockets that fails in every way it can."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.collection.collect import CollectReport, Estimate, Policy, collect, plan_jobs
from understudy.collection.ledger import Budget, Ledger
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, TeacherError, TrainingForbidden
from understudy.teachers.base import ClipParams, Terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.teachers.world import grammar
from understudy.teachers.world.server import Job, World, serve
from understudy.teachers.world.teacher import WorldTeacher
from understudy.video.ingest import c2pa

pytest.importorskip("httpx")

TINY = ClipParams(frames=4, fps=8.0, width=16, height=16)
PROMPTS = grammar.prompts(list(grammar.scenes(("drop",), ("red", "blue"), ("small", "large"))), 2, 0)
FAST = {"poll": 0.01, "first_wait": 0.01, "longest_wait": 0.05, "tries": 20, "downloads": 8, "attempts": 6}
FREE = Terms("yes", "embedded world")


@pytest.fixture
def world() -> Iterator[World]:
    world = World(WorldTeacher(size=16, frames=4))
    server = serve(world)
    world.port = server.server_port  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield world
    server.shutdown()
    server.server_close()


def teacher(world: World, idempotent: bool = True, price: float = 0.0, terms: Terms = FREE) -> WireTeacher:
    web = Web(f"http://127.0.0.1:{world.port}")  # type: ignore[attr-defined]
    return WireTeacher(load_shape("openai-videos", {}, {}), web, "world", "w", terms, price, idempotent=idempotent)


def ignore(report: CollectReport) -> None:
    """Show nothing."""


def live(world: World) -> Counter[tuple[str, int]]:
    """Jobs that the server made and still stands by, by prompt and seed."""
    return Counter((job.request["prompt"], job.request["seed"]) for job in world.jobs.values() if job.good)


def test_every_clip_arrives_once_whatever_goes_wrong(world: World, tmp_path: Path) -> None:
    world.faults, world.seed = 0.4, 1
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs(PROMPTS, 6, 0)
    report = collect(teacher(world), jobs, store, TINY, ignore, Policy(concurrency=8, **FAST))
    assert report.done == report.total == len(jobs)
    assert store.verify() == []
    assert sum(world.injected.values()) > len(jobs)
    numbers = Counter((job.request["prompt"], job.request["seed"], job.key) for job in world.jobs.values())
    assert set(numbers.values()) == {1}
    with Ledger(store.path) as ledger:
        assert {row.state for row in ledger.jobs()} == {"done"}
    record = store.records()[0]
    assert (record.received["frames"], record.received["width"]) == (4, 16)
    assert record.provenance["job"] in world.jobs


def always(world: World, stage: str, fault: str) -> None:
    """Have every request at ``stage`` meet ``fault``; no other request meets any."""
    world.fault = lambda at, kinds: fault if at == stage else ""  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", ["gone", "truncated", "empty", "html", "corrupt", "private-redirect"])
def test_a_good_job_is_never_asked_for_again_but_taken_up_by_its_id(world: World, tmp_path: Path, fault: str) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:3], 1, 0)
    always(world, "content", fault)
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"3 are left of 3.*\(3 tries\)"):
            collect(teacher(world), jobs, store, TINY, ignore, Policy(**{**FAST, "downloads": 3, "tries": 3}))
    assert (len(world.jobs), len(store)) == (3, 0)
    with Ledger(store.path) as ledger:
        assert {(row.state, row.handle in world.jobs) for row in ledger.jobs()} == {("running", True)}
    always(world, "", "")
    assert collect(teacher(world), jobs, store, TINY, ignore, Policy(**FAST)).done == 3
    assert len(world.jobs) == 3


def test_a_job_that_takes_too_long_is_left_and_taken_up(world: World, tmp_path: Path) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:2], 1, 0)
    world.delay = 0.4
    with pytest.raises(TeacherError, match=r"2 are left of 2.*not done after 0\.05 seconds"):
        collect(teacher(world), jobs, store, TINY, ignore, Policy(timeout=0.05, **FAST))
    assert collect(teacher(world), jobs, store, TINY, ignore, Policy(**FAST)).done == 2
    assert len(world.jobs) == 2


def test_the_user_may_ask_again_for_a_job_that_was_left(world: World, tmp_path: Path) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:2], 1, 0)
    always(world, "content", "gone")
    with pytest.raises(TeacherError, match="--retry-unsure"):
        collect(teacher(world, price=0.5), jobs, store, TINY, ignore, Policy(**FAST), approve=lambda estimate: None)
    always(world, "", "")
    policy = Policy(retry_unsure=True, **FAST)
    report = collect(teacher(world, price=0.5), jobs, store, TINY, ignore, policy, approve=lambda estimate: None)
    assert (report.done, len(world.jobs)) == (2, 4)
    assert report.spent == pytest.approx(2.0)  # the jobs that were left may be charged for as well


@pytest.mark.parametrize("fault", ["fail", "expire", "forget"])
def test_a_job_that_the_teacher_lost_is_asked_for_again(world: World, tmp_path: Path, fault: str) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:2], 1, 0)
    hit: set[str] = set()

    def once(stage: str, kinds: tuple[str, ...]) -> str:
        new = stage == "poll" and len(hit) < 2
        hit.update([f"{len(hit)}"] if new else [])
        return fault if new else ""

    world.fault = once  # type: ignore[method-assign]
    assert collect(teacher(world), jobs, store, TINY, ignore, Policy(**FAST)).done == 2
    assert (len(world.jobs), len(live(world))) == (4, 2)
    with Ledger(store.path) as ledger:
        assert sum(row.number for row in ledger.jobs()) == 4


@pytest.mark.parametrize("status", [400, 403, 418])
def test_an_odd_answer_about_a_job_says_nothing_of_the_prompt(world: World, tmp_path: Path, status: int) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:1], 1, 0)
    always(world, "poll", str(status))
    with pytest.raises(TeacherError, match="1 are left of 1"):
        collect(teacher(world), jobs, store, TINY, ignore, Policy(**{**FAST, "tries": 3}))
    always(world, "", "")
    assert collect(teacher(world), jobs, store, TINY, ignore, Policy(**FAST)).done == 1
    assert len(world.jobs) == 1


def test_a_lost_answer_is_never_asked_for_twice_without_idempotence(world: World, tmp_path: Path) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:2], 1, 0)
    always(world, "submit", "accepted-drop")
    for _ in range(2):
        with pytest.raises(TeacherError, match=r"2 jobs failed.*retry-unsure"):
            collect(teacher(world, idempotent=False), jobs, store, TINY, ignore, Policy(**FAST))
        assert (len(world.jobs), len(store)) == (2, 0)
        always(world, "", "")
    policy = Policy(retry_unsure=True, **FAST)
    assert collect(teacher(world, idempotent=False), jobs, store, TINY, ignore, policy).done == 2
    assert len(world.jobs) == 4


def test_a_refused_prompt_is_recorded_and_not_asked_again(world: World, tmp_path: Path) -> None:
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs(["a forbidden thing", PROMPTS[0]], 1, 0)
    report = collect(teacher(world), jobs, store, TINY, ignore, Policy(**FAST))
    assert (report.done, report.rejected) == (1, 1)
    assert collect(teacher(world), jobs, store, TINY, ignore).skipped == 2


def test_the_budget_holds_over_collections(world: World, tmp_path: Path) -> None:
    store, jobs, seen = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS, 1, 0), list[Estimate]()
    for _ in range(2):
        policy = Policy(concurrency=4, budget=Budget(money=1.0), **FAST)
        report = collect(teacher(world, price=0.3), jobs, store, TINY, ignore, policy, approve=seen.append)
        assert (len(store), report.unfunded) == (3, len(jobs) - 3)
        assert report.spent == pytest.approx(0.9)
    assert [estimate.clips for estimate in seen] == [len(jobs)]  # the second time nothing could be asked for
    policy = Policy(budget=Budget(clips=5), **FAST)
    collect(teacher(world, price=0.3), jobs, store, TINY, ignore, policy, approve=seen.append)
    assert len(store) == 5
    # Nothing is left to approve, so training, which asks nobody, goes on with what the budget has bought.
    report = collect(teacher(world, price=0.3), jobs, store, TINY, ignore, policy)
    assert (report.settled, report.unfunded) == (5, len(jobs) - 5)


def test_nothing_is_asked_without_permission_or_approval(world: World, tmp_path: Path) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:1], 1, 0)
    with pytest.raises(ConfigError, match="permission"):
        collect(teacher(world, terms=Terms("unknown", "nobody read them")), jobs, store, TINY, ignore)
    with pytest.raises(ConfigError, match=r"sentence \('my own' is too short\)"):
        collect(teacher(world, terms=Terms("no", "they say no")), jobs, store, TINY, ignore, permission="my own")
    with pytest.raises(ConfigError, match="may charge"):
        collect(teacher(world, price=0.3), jobs, store, TINY, ignore)
    assert world.jobs == {}
    said = "written consent of the maker"
    collect(teacher(world, terms=Terms("no", "they say no")), jobs, store, TINY, ignore, permission=said)
    assert said in store.records()[0].terms


def test_a_do_not_train_assertion_stops_the_collection(world: World, tmp_path: Path) -> None:
    body = b"uuid" + c2pa._UUID + b"c2pa.training-mining notAllowed"
    drawn, draw = list[str](), world.draw

    def marked(job: Job) -> bytes:
        drawn.append(job.id)
        return draw(job) + ((len(body) + 4).to_bytes(4, "big") + body if len(drawn) == 3 else b"")

    world.draw = marked  # type: ignore[method-assign]
    store = ClipStore(tmp_path / "store", create=True)
    with pytest.raises(TrainingForbidden, match="collection stops"):
        collect(teacher(world), plan_jobs(PROMPTS, 2, 0), store, TINY, ignore, Policy(**FAST))
    assert 2 <= len(store) < len(drawn) < 2 * len(PROMPTS)  # what came before is kept, nothing is asked after it
    assert not any(body in store.clip_path(record).read_bytes() for record in store)
    assert store.verify() == []
    assert list((store.path / "collectors").glob("*/*.part")) == []


def test_a_server_that_restarts_and_knows_no_job_any_more(tmp_path: Path) -> None:
    old = World(WorldTeacher(size=16, frames=4), delay=60)
    server = serve(old)
    old.port = port = server.server_port  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    new = World(WorldTeacher(size=16, frames=4))

    def restart() -> None:
        while len(old.jobs) < 3:
            time.sleep(0.01)
        old.fault = lambda stage, kinds: "drop"  # type: ignore[method-assign]  # open connections end as well
        server.shutdown()
        server.server_close()
        time.sleep(0.3)  # nobody answers
        second = serve(new, port=port)
        threading.Thread(target=second.serve_forever, args=(0.02,), daemon=True).start()

    threading.Thread(target=restart, daemon=True).start()
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:3], 1, 0)
    report = collect(teacher(old), jobs, store, TINY, ignore, Policy(concurrency=4, **{**FAST, "tries": 60}))
    assert (report.done, len(old.jobs), len(new.jobs)) == (3, 3, 3)


def test_two_collectors_at_once_make_no_job_twice(world: World, tmp_path: Path) -> None:
    world.delay, jobs, ends = 0.05, plan_jobs(PROMPTS, 4, 0), list[CollectReport]()

    def work() -> None:
        store = ClipStore(tmp_path / "store", create=True)
        ends.append(collect(teacher(world), jobs, store, TINY, ignore, Policy(concurrency=4, **FAST)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.jobs) == len(ClipStore(tmp_path / "store")) == len(jobs)
    assert [end.settled for end in ends] == [len(jobs)] * 2


def test_hearing_twice_of_a_job_s_end_changes_nothing(world: World, tmp_path: Path) -> None:
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS[:1], 1, 0)
    paid = teacher(world, price=0.3)
    collect(paid, jobs, store, TINY, ignore, Policy(**FAST), approve=lambda estimate: None)
    with Ledger(store.path) as ledger:
        (row,) = ledger.jobs()
        for state, cost in (("done", 5.0), ("failed", 7.0), ("done", None)):
            ledger.settle(row.key, row.number, state, "", cost)  # type: ignore[arg-type]
        assert ledger.spent(paid.name) == (pytest.approx(0.3), 1)
    assert collect(paid, jobs, store, TINY, ignore, Policy(**FAST)).skipped == 1
    assert len(world.jobs) == 1
