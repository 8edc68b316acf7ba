"""The tables in the repository are what the bench makes of the cells in the repository, and the README quotes them."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from understudy.bench import results
from understudy.bench.suite import load_suite
from understudy.recipes import shipped

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results" / "bench"
NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")
SUITES = sorted(path.parent.name for path in PUBLISHED.glob(f"*/{results.CELLS}"))


def compare(made: str, shown: str) -> None:
    """Assert that two pages say the same, but for the last digit of a number, which may round otherwise elsewhere."""
    assert NUMBER.sub("#", made) == NUMBER.sub("#", shown)
    numbers = [[float(text) for text in NUMBER.findall(page)] for page in (made, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1.1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_tables_are_made_of_the_cells(name: str, tmp_path: Path) -> None:
    cells = results.read_cells(PUBLISHED / name)
    published = json.loads((PUBLISHED / name / "source.json").read_text())
    suite = load_suite(shipped.FOLDER / "bench" / f"{name}.yaml")
    assert {cell["row"] for cell in cells} <= set(suite.rows)
    suite = suite.model_copy(update={"out": tmp_path, "seeds": published["seeds"]})
    head = {key: published[key] for key in ("command", "hardware")}
    made = results.write(suite, cells, published["left_out"], head).read_text()
    compare(made, (PUBLISHED / name / "results.md").read_text())


def benchmark(name: str) -> ModuleType:
    """Return a script of the folder benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_controller_is_compared_on_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["controller", "--out", str(tmp_path / "controller.md")])
    benchmark("controller").main()
    compare(*((folder / "controller.md").read_text() for folder in (tmp_path, PUBLISHED.parent)))


def test_cells_of_a_run_are_added_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    publish = benchmark("publish")
    monkeypatch.setattr(publish, "HOME", tmp_path / "home")
    cells = [cell for cell in results.read_cells(PUBLISHED / "small") if cell["row"] in ("start", "afd")]
    for cell in (*cells, {**cells[0], "seed": 7, "error": "it broke"}):
        folder = tmp_path / "run" / cell["setting"] / cell["row"] / f"seed-{cell['seed']}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(cell))
    (tmp_path / "run" / "source.json").write_text(
        '{"command": "the run", "hardware": "its machine", "left_out": ["absent: why"]}'
    )
    suite = "small"

    def call(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["publish.py", suite, *options])
        publish.main()
        return capsys.readouterr().out

    first = call(str(tmp_path / "run"), "--command", "as typed")
    assert first.count("): added") == len(cells)
    assert "it broke" in first
    home = tmp_path / "home" / "small"
    found = json.loads((home / "source.json").read_text())
    assert found["command"] == "as typed"
    assert found["hardware"] == "its machine"
    assert found["seeds"] == sorted({cell["seed"] for cell in cells})
    assert call(str(tmp_path / "run")).count("left as it is") == len(cells)
    call("--drop", "afd")
    assert {cell["row"] for cell in results.read_cells(home)} == {"start"}
    assert json.loads((home / "source.json").read_text()) == {**found, "seeds": [cells[0]["seed"]]}
    assert found["left_out"] == ["absent: why"]
    assert "left out: absent: why" in (home / "results.md").read_text()


ROWS = {
    "start student": "start",
    "random rewards": "random",
    "SFT on the teacher's clips": "sft",
    "SFT, clips drawn again": "sft-informed",
    "direct GAN": "gan",
    "distribution matching": "dmd",
    "discriminator frozen": "frozen",
    "**AFD**": "afd",
    "**AFD, lazy**": "afd-lazy",
}
QUOTED = ("law_error", "motion_distance", "look_error", "sharpness", "permanence")


@pytest.fixture(scope="module")
def whole() -> dict:
    suite = load_suite(shipped.FOLDER / "bench" / "main.yaml")
    suite = suite.model_copy(update={"rows": {name: suite.rows[name] for name in ROWS.values()}, "beside": []})
    cells = [cell for cell in results.read_cells(PUBLISHED / "main") if cell["row"] in suite.rows]
    entries = results.summarise(suite, cells)
    return {entry["row"]: entry["metrics"] for entry in entries if entry["family"] == "all"}


@pytest.mark.parametrize(("page", "rows"), [("README.md", 5), ("docs/results.md", len(ROWS))])
def test_a_page_quotes_the_main_table(page: str, rows: int, whole: dict) -> None:
    lines = (
        (ROOT / page).read_text().split("| `understudy bench main` | law error", 1)[1].split("\n\n", 1)[0].splitlines()
    )
    table = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert len(table) == rows
    seen = set()
    for label, *shown in table:
        name = next(row for start, row in ROWS.items() if label.startswith(start))
        seen.add(name)
        for metric, text in zip(QUOTED, shown, strict=True):
            said = [float(number) for number in NUMBER.findall(text)]
            found = [
                value
                for value in (whole[name][metric]["seeds"][key] for key in ("mean", "low", "high"))
                if value is not None
            ]
            half = 0.51 * 10.0 ** -len(NUMBER.search(text).group().partition(".")[2])
            assert said == pytest.approx(found[: len(said)], abs=half), (label, metric)
    assert len(seen) == rows
