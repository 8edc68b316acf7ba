"""Small versions of benchmarks/hostile.py, power.py and doors.py."""

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
@pytest.mark.parametrize("part", ["recipes", "lines", "records"])
def test_whatever_is_mutated_is_one_line_or_no_harm(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    hostile, rng = benchmark("hostile"), random.Random(7)
    monkeypatch.chdir(tmp_path)
    start = hostile.make_start(tmp_path)
    if part == "records":
        tally = hostile.records(40, rng, tmp_path, start)
    else:
        tally = hostile.recipes(45, rng, tmp_path, start)
        if part == "lines":
            tally = hostile.lines(60, rng, tmp_path)
    assert tally.figures()["unexpected"] == 0, tally.bad


@pytest.mark.slow
def test_files_that_are_meant_to_do_harm_do_none(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir(), (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    tally = benchmark("hostile_files").harm(60, random.Random(7), tmp_path / "in", tmp_path / "outside")
    assert tally.figures()["unexpected"] == 0, tally.bad


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["training", "collecting"])
def test_a_power_cut_leaves_what_can_go_on(benchmark: Any, tmp_path: Path, what: str) -> None:
    power, rng = benchmark("power"), random.Random(7)
    work, look = {"training": (power.training, power.trained), "collecting": (power.collecting, power.collected)}[what]
    (tmp_path / "disk").mkdir(), (tmp_path / "kept").mkdir()
    with power.Disk(tmp_path / "disk", tmp_path / "kept", 0) as disk:
        work(tmp_path / "disk" / "work")
    whole = look(tmp_path / "disk" / "work")
    for at in rng.sample(range(1, disk.calls + 1), 6):
        assert power.cut(work, look, at, rng, whole) == "whole", at


@pytest.mark.slow
def test_a_viewer_is_served_while_strangers_stand_in_the_door(benchmark: Any) -> None:
    pytest.importorskip("websockets")
    doors = benchmark("doors")
    with doors.serving() as server:  # leaving it fails if the server has complained
        figures = doors.besieged(server, 300, 60, asks=3)
    assert figures["answered"] == 4
    assert figures["half_open_after_12_s"] == 0
