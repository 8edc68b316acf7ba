"""The curves of healthy runs, and a run held against them."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from understudy.objectives.build import build_objective
from understudy.objectives.reference import BUCKETS, curves, departures, load_reference, reference
from understudy.recipes.files import load_recipe
from understudy.run.clips import training_clips
from understudy.run.start import load_start
from understudy.training.data import teacher_clips

Row = dict[str, Any]


def _run(accuracy: list[float]) -> list[Row]:
    return [{"phase": "update", "pair_accuracy": value, "drift": 0.1} for value in accuracy]


def test_curves_are_means_of_whole_buckets() -> None:
    size = BUCKETS["update"]
    found = curves(_run([0.5] * size + [0.9] * size + [0.1]))
    assert found["update"]["pair_accuracy"] == pytest.approx([0.5, 0.9])
    assert found["warm-up"] == {}


def test_a_gauge_that_steps_lack_has_no_curve() -> None:
    rows = _run([0.5] * 10)
    del rows[3]["drift"]
    assert "drift" not in curves(rows)["update"]


def test_a_run_is_as_healthy_as_its_like_and_departs_where_it_does() -> None:
    healthy = reference([_run([0.80] * 10), _run([0.84] * 10)])
    assert departures(_run([0.87] * 10), healthy) == []  # one tolerance past the greatest
    assert departures(_run([0.80] * 5), healthy) == []  # unfinished
    (line,) = departures(_run([0.82] * 5 + [0.5] * 5), healthy)
    assert line.startswith("pair_accuracy is 0.5 in update steps 5 to 9")


def test_the_reference_that_ships_names_an_uninformed_run() -> None:
    healthy = load_reference()
    assert healthy["runs"] >= 3
    blind = [{"phase": phase, "pair_accuracy": 0.5} for phase in BUCKETS for _ in range(60)]
    assert any("pair_accuracy" in line for line in departures(blind, healthy))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_warm_up_and_first_updates_are_those_of_healthy_runs(tmp_path: Path) -> None:
    """Another seed than those of the reference, as the quickstart trains: its gauges stay within the tolerance."""
    config = load_recipe("bench/rows/afd", [("seed", "11"), ("clips.store", json.dumps(str(tmp_path / "store")))])
    bundle = load_start(config)
    data = teacher_clips(training_clips(config, bundle.form), bundle.form, bundle.codec)
    objective = build_objective(config.objective, config.train, config, data, bundle)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    rows: list[Row] = []
    for _ in islice(range(objective.steps), objective.warmup + BUCKETS["update"]):
        report = objective.step(state)
        state.step += 1
        rows.append({"phase": report.phase, **report.values})
    assert len(curves(rows)["update"]["pair_accuracy"]) == 1
    assert departures(rows, load_reference()) == []
