import io
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import understudy
from understudy.collection.collect import CollectReport, Job, collect, describe, plan_jobs
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, PromptRejected, TeacherError
from understudy.files import sha256_hex
from understudy.teachers.base import ClipParams
from understudy.video.clips import Clip, encode_mp4


@dataclass
class Painter:
    """Draws a flat clip whose grey depends on prompt and seed; refuses, fails or stops as told."""

    name: str = "painter-1"
    terms: str = "free to use"
    refuse: str = "forbidden"
    junk: int = 0  # how many unusable clips to send first
    stop_after: int | None = None
    asked: list[Job] = field(default_factory=list)

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(Job(prompt, seed))
        if self.refuse in prompt:
            raise PromptRejected(f"will not draw {prompt!r}")
        if self.junk:
            self.junk -= 1
            return b"<html>busy</html>"
        grey = int(sha256_hex(f"{prompt}{seed}".encode())[:2], 16)
        return encode_mp4(Clip(np.full((params.frames or 2, 8, 8, 3), grey, np.uint8), 8))


PROMPTS = ["a red ball", "a blue cube", "a green cone"]


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return ClipStore(tmp_path / "store", create=True)


def ignore(report: CollectReport) -> None:
    """Show nothing."""


@given(
    prompts=st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1),
    per_prompt=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_a_job_depends_on_its_prompt_and_index_alone(prompts: list[str], per_prompt: int, seed: int) -> None:
    jobs = plan_jobs(prompts, per_prompt, seed)
    unique = {" ".join(prompt.split()) for prompt in prompts}
    assert len(jobs) == len(set(jobs)) == len(unique) * per_prompt
    assert set(plan_jobs(prompts[::-1] * 2, per_prompt, seed)) == set(jobs)
    assert set(jobs) <= set(plan_jobs([*prompts, "new"], per_prompt + 1, seed))
    assert all(0 <= job.seed < 2**31 for job in jobs)
    assert {job.prompt for job in jobs[: len(unique)]} == unique  # first takes first
    assert set(plan_jobs(prompts, per_prompt, seed + 1)).isdisjoint(jobs)


def test_seeds_stay_what_they_were_in_earlier_versions() -> None:
    assert plan_jobs(["a red ball"], 2, 0) == [
        Job("a red ball", 1260692018),
        Job("a red ball", 1260692019),
    ]


def test_plan_needs_prompts_and_a_count() -> None:
    with pytest.raises(ConfigError, match="no prompts"):
        plan_jobs([], 1, 0)
    with pytest.raises(ConfigError, match="got 0"):
        plan_jobs(PROMPTS, 0, 0)


def test_every_job_is_asked_once_and_recorded(store: ClipStore) -> None:
    painter, jobs = Painter(), plan_jobs(PROMPTS, 2, 0)
    seen: list[CollectReport] = []
    report = collect(painter, jobs, store, ClipParams(frames=3, fps=8.0), seen.append)
    assert report == CollectReport(total=6, done=6)
    assert painter.asked == jobs
    assert [(record.prompt, record.seed) for record in store.records()] == [(j.prompt, j.seed) for j in jobs]
    record = store.records()[0]
    assert record.asked == {"frames": 3, "fps": 8.0}
    assert (record.received["frames"], record.received["width"]) == (3, 8)
    assert (record.teacher, record.terms) == ("painter-1", "free to use")
    assert [one.settled for one in seen] == list(range(7))
    assert store.verify() == []


def test_second_run_asks_only_for_what_is_new(store: ClipStore) -> None:
    collect(Painter(), plan_jobs(PROMPTS[:2], 1, 0), store, on_progress=ignore)
    painter = Painter()
    report = collect(painter, plan_jobs(PROMPTS, 2, 0), store, on_progress=ignore)
    assert report == CollectReport(total=6, done=4, skipped=2)
    assert len(painter.asked) == 4


def test_other_parameters_or_teacher_are_other_requests(store: ClipStore) -> None:
    jobs = plan_jobs(PROMPTS, 1, 0)
    for params, name in (({}, "a"), ({"frames": 3}, "a"), ({}, "b")):
        assert collect(Painter(name=name), jobs, store, ClipParams(**params), ignore).done == 3
    assert len(store) == 9


def test_job_given_twice_is_asked_once(store: ClipStore) -> None:
    painter = Painter()
    report = collect(painter, [Job("a ball", 1), Job(" a  ball", 1)], store, on_progress=ignore)
    assert report == CollectReport(total=2, done=1, skipped=1)


def test_rejection_is_recorded_and_not_asked_again(store: ClipStore) -> None:
    jobs = plan_jobs(["a ball", "forbidden fruit", "a cube"], 1, 0)
    assert collect(Painter(), jobs, store, on_progress=ignore) == CollectReport(total=3, done=2, rejected=1)
    (refused,) = (record for record in store.records() if record.status == "rejected")
    assert (refused.prompt, refused.reason) == ("forbidden fruit", "will not draw 'forbidden fruit'")
    painter = Painter()
    assert collect(painter, jobs, store, on_progress=ignore) == CollectReport(total=3, skipped=3)
    assert painter.asked == []


def test_unusable_clip_is_asked_for_again(store: ClipStore) -> None:
    assert collect(Painter(junk=1), [Job("a ball", 1)], store, on_progress=ignore).done == 1
    with pytest.raises(TeacherError, match=r"prompt 'a cube'.*no usable clip.*not a video file.*6 tries") as caught:
        collect(Painter(junk=99), [Job("a cube", 1)], store, on_progress=ignore)
    assert "\n" not in str(caught.value)
    assert len(store) == 1
    assert store.verify() == []


def test_interrupt_keeps_what_is_done_and_says_how_much(store: ClipStore) -> None:
    jobs = plan_jobs(PROMPTS, 2, 0)
    with pytest.raises(KeyboardInterrupt, match="stopped: 4 of 6 jobs are settled"):
        collect(Painter(stop_after=4), jobs, store, on_progress=ignore)
    assert ClipStore(store.path).verify() == []
    assert collect(Painter(), jobs, store, on_progress=ignore) == CollectReport(total=6, done=2, skipped=4)


def test_plain_lines_when_there_is_no_terminal(store: ClipStore, capsys: pytest.CaptureFixture[str]) -> None:
    collect(Painter(), plan_jobs([*PROMPTS, "forbidden"], 1, 0), store)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "collect: 0 of 4"
    assert lines[-1].startswith("collect: 4 of 4, 1 rejected, ")
    assert len(lines) == 2


def test_bar_on_a_terminal(store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", screen)
    collect(Painter(), plan_jobs([*PROMPTS, "forbidden"], 1, 0), store)
    assert "4/4" in screen.getvalue()
    assert "1 rejected" in screen.getvalue()


@pytest.mark.parametrize(
    ("report", "seconds", "line"),
    [
        (CollectReport(total=9), 0, "collect: 0 of 9"),
        (
            CollectReport(total=9, done=2, skipped=3, rejected=1),
            60,
            "collect: 6 of 9, 3 on record already, 1 rejected, 2.0 clips/min, about 0:01:00 left",
        ),
        (CollectReport(total=9, done=9), 3, "collect: 9 of 9, 3.0 clips/s"),
        (CollectReport(total=9, skipped=9), 3, "collect: 9 of 9, 9 on record already"),
    ],
)
def test_describe(report: CollectReport, seconds: float, line: str) -> None:
    assert describe(report, seconds) == line


CHILD = """
import os, sys, time
import numpy as np
from understudy.video.clips import Clip, encode_mp4
from understudy.collection.collect import collect, plan_jobs
from understudy.collection.store import ClipStore

# Slow syncing makes a kill fall between the steps of a write as often as between jobs.
sync = os.fsync
def slow(descriptor):
    time.sleep(0.004)
    sync(descriptor)
os.fsync = slow

class Painter:
    name, terms = "painter-1", "free to use"
    def generate(self, prompt, seed, params):
        grey = hash((len(prompt), seed)) % 256
        return encode_mp4(Clip(np.full((2, 8, 8, 3), grey, np.uint8), 8))

store = ClipStore(sys.argv[1], create=True)
jobs = plan_jobs([f"a ball number {i}" for i in range(20)], 3, 0)
collect(Painter(), jobs, store, on_progress=lambda report: print(report.settled, flush=True))
"""
JOBS = 60


def start(store: Path) -> "subprocess.Popen[bytes]":
    source = str(Path(understudy.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(store)], stdout=subprocess.PIPE, env=environment)


def check_complete(path: Path) -> None:
    store = ClipStore(path)
    wanted = plan_jobs([f"a ball number {i}" for i in range(20)], 3, 0)
    lines = (path / "records.jsonl").read_bytes().splitlines()
    assert len(lines) == len(store) == len(wanted) == JOBS
    assert {(record.prompt, record.seed) for record in store.records()} == {(j.prompt, j.seed) for j in wanted}
    assert store.verify() == []


def test_killed_many_times_every_job_is_there_once(tmp_path: Path) -> None:
    moment = random.Random(0)
    settled = []
    for _ in range(5):
        child = start(tmp_path / "store")
        assert child.stdout is not None
        settled.append(int(child.stdout.readline()))
        for _ in range(moment.randrange(1, 6)):
            child.stdout.readline()
        time.sleep(moment.uniform(0, 0.02))
        child.kill()
        child.communicate()
    assert settled == sorted(settled)
    assert settled[-1] > 0
    last = start(tmp_path / "store")
    out, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    assert int(out.split()[-1]) == JOBS
    check_complete(tmp_path / "store")


def test_two_collections_at_once_share_the_work_without_harm(tmp_path: Path) -> None:
    children = [start(tmp_path / "store") for _ in range(2)]
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    check_complete(tmp_path / "store")
