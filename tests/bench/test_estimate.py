"""What a grid is said to take beforehand."""

import pytest

from understudy.bench import estimate
from understudy.bench.suite import cells, load_suite
from understudy.recipes import shipped

MAIN = shipped.FOLDER / "bench" / "main.yaml"
UNIT = estimate.Unit(rollout=0.01, forward=0.004, backward=0.012)


def test_the_shortest_of_several_runs_counts_in_processor_time(monkeypatch) -> None:
    clock = iter([0.0, 8.0, 10.0, 11.6, 20.0, 24.0])
    monkeypatch.setattr(estimate.time, "process_time", lambda: next(clock))
    assert estimate._timed(lambda: None) == pytest.approx(1.6 / 8)


def test_rows_are_said_once_with_their_seeds() -> None:
    found = cells(load_suite(MAIN), MAIN)[0]
    said = estimate.lines(found, UNIT)
    assert len(said) == len({(cell.setting, cell.row) for cell in found})
    assert said[0].startswith("all / start: seed 0; about ")
    afd = next(line for line in said if line.startswith("all / afd: "))
    assert afd.startswith("all / afd: seeds 0, 1, 2, 3, 4; about ")
    assert afd.endswith(" s each")


def test_training_costs_more_than_measuring_and_two_workers_take_half() -> None:
    found = {cell.row: cell for cell in cells(load_suite(MAIN), MAIN)[0]}
    times = {row: estimate.seconds(cell, UNIT) for row, cell in found.items()}
    assert times["start"] < times["sft"] < times["afd"] < times["dmd"]
    some = [found["afd"]] * 4
    assert estimate.wall(some, UNIT, 2) == pytest.approx(2 * times["afd"])
    assert estimate.wall([found["dmd"]], UNIT, 2) == pytest.approx(times["dmd"])
