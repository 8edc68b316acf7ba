"""The feed from a run to its trackers: everything recorded, once, in order, whatever a tracker does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.run.log import RunLog
from understudy.tracking.base import Tracking, finite
from understudy.training.loop import record, trim
from understudy.training.state import StepReport
from understudy.video.clips import Clip, write_mp4


class Book:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, arm: str) -> None:
        self.told.append(("begin", arm))

    def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
        self.told.append((arm, step, dict(values)))

    def clip(self, arm: str, step: int, name: str, path: Path, caption: str) -> None:
        self.told.append(("clip", arm, step, name, path.is_file(), caption))

    def close(self) -> None:
        self.told.append(("close",))


def row(arm: str, step: int, **values: float) -> dict[str, Any]:
    return {"arm": arm, "step": step, "phase": "update", **values}


def nobody(line: str) -> None:
    raise AssertionError(line)


def test_steps_are_fed_as_they_are_recorded(tmp_path: Path) -> None:
    book, metrics = Book(), tmp_path / "metrics.jsonl"
    tracking = Tracking(tmp_path, {"book": book}, nobody)
    record(metrics, {"event": "note", "text": "hello"})
    for step, loss in enumerate((1.0, float("nan"), 0.5)):
        record(metrics, row("afd", step, loss=loss, seconds=2.0))
        record(metrics, row("sft", step, loss=9.0))
        tracking.step("afd")
    tracking.close()
    assert book.told == [
        ("begin", "afd"),
        ("afd", 0, {"loss": 1.0, "seconds": 2.0}),
        ("afd", 1, {"seconds": 2.0}),
        ("afd", 2, {"loss": 0.5, "seconds": 2.0}),
        ("close",),
    ]


def test_a_sitting_that_resumes_feeds_what_was_recorded_before(tmp_path: Path) -> None:
    metrics, book = tmp_path / "metrics.jsonl", Book()
    for step in range(4):
        record(metrics, row("afd", step, loss=float(step)))
    with metrics.open("a") as file:
        file.write('{"arm": "afd", "st')  # torn by a kill
    trim(metrics, "afd", 2)  # as training does when it goes on from the checkpoint of step 2
    tracking = Tracking(tmp_path, {"book": book}, nobody)
    record(metrics, row("afd", 2, loss=2.0))
    tracking.step("afd")
    record(metrics, row("afd", 3, loss=3.0))
    tracking.step("afd")
    tracking.step("afd")
    assert book.told == [("begin", "afd"), *(("afd", step, {"loss": float(step)}) for step in range(4))]


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    book = Book()
    tracking = Tracking(tmp_path, {"book": book}, nobody)
    line = json.dumps(row("afd", 0, loss=1.0)) + "\n"
    for part in (line[:10], line[10:]):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(part)
        tracking.step("afd")
    assert book.told == [("begin", "afd"), ("afd", 0, {"loss": 1.0})]


def test_evaluations_come_with_their_clips(tmp_path: Path) -> None:
    book = Book()
    (tmp_path / "clips" / "afd").mkdir(parents=True)
    write_mp4(tmp_path / "clips" / "afd" / "abc-0.mp4", Clip(np.zeros((2, 8, 8, 3), np.uint8), 8))
    (tmp_path / "clips" / "prompts.json").write_text('{"abc": "a ball"}')
    record(tmp_path / "metrics.jsonl", row("afd", 7, loss=1.0))
    metrics = {"law": {"mean": 3.5, "low": 3.0, "high": 4.0}, "odd": {"mean": None}, "plain": 2}
    Tracking(tmp_path, {"book": book}, nobody).evaluation("afd", metrics)
    assert book.told[2:] == [
        ("afd", 7, {"evaluation/law": 3.5, "evaluation/plain": 2.0}),
        ("clip", "afd", 7, "abc-0", True, "a ball"),
    ]


def test_a_tracker_that_fails_is_left_out_and_said(tmp_path: Path) -> None:
    class Broken(Book):
        def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
            raise OSError("no\nnetwork")

    book, said = Book(), list[str]()
    tracking = Tracking(tmp_path, {"broken": Broken(), "book": book}, said.append)
    for step in range(2):
        record(tmp_path / "metrics.jsonl", row("afd", step, loss=1.0))
        tracking.step("afd")
    assert said == [
        "tracker broken failed and is left out from here on (OSError: no network); the run's own files have it all"
    ]
    assert len(book.told) == 3


def test_only_finite_numbers_are_figures() -> None:
    values = {"a": 1, "b": 2.5, "c": float("inf"), "d": None, "e": True, "f": "x"}
    assert finite(values) == {"a": 1.0, "b": 2.5}


@pytest.mark.parametrize("terminal", [True, False])
def test_the_run_log_feeds_its_trackers(tmp_path: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    log, book = RunLog(tmp_path), Book()
    if terminal:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        monkeypatch.setattr(type(log._console), "is_terminal", property(lambda self: True))
    log.tracking = Tracking(tmp_path, {"book": book}, log.say)
    with log.steps("afd") as on_step:
        record(log.metrics, row("afd", 0, loss=1.0))
        on_step(StepReport(0, "update", {"loss": 1.0}), 1)
    log.once("afd", lambda: {"law": {"mean": 1.0}})
    log.once("afd", lambda: {"law": {"mean": 1.0}})
    assert book.told == [("begin", "afd"), ("afd", 0, {"loss": 1.0}), ("afd", 0, {"evaluation/law": 1.0})]
