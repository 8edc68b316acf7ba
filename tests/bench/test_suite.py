"""Suites read into cells, and the table of what cells have left."""

import json
from pathlib import Path

import pytest

from understudy.bench.grid import Grid
from understudy.bench.long import TEACHER
from understudy.bench.plots import _span, draw
from understudy.bench.results import by_words, read_cells, summarise, write
from understudy.bench.suite import cells, load_suite
from understudy.commands.base import UsageError
from understudy.commands.bench import Bench
from understudy.errors import ConfigError
from understudy.recipes import shipped

SUITES = sorted((shipped.FOLDER / "bench").glob("*.yaml"))
SUITES = [path for path in SUITES if path.name != "base.yaml"]


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_every_suite_that_ships_reads(path) -> None:
    suite = load_suite(path)
    found, _ = cells(suite, path)
    assert len({cell.folder for cell in found}) == len(found)
    assert any(cell.row == "start" for cell in found)


@pytest.fixture
def small(tmp_path) -> tuple[Path, Path]:
    (tmp_path / "row.yaml").write_text("name: row\nobjective: {kind: sft}\n")
    path = tmp_path / "suite.yaml"
    path.write_text(
        "kind: bench\nname: s\nabout: a\nout: " + str(tmp_path / "out") + "\nseeds: [3, 4]\nsettings:\n"
        "  few: {clips.limit: 5}\nrows:\n  start: {recipe: row.yaml, train: false}\n"
        "  sft: {recipe: row.yaml, set: {train.lr: 5e-4}}\n  twice: {recipe: row.yaml, after: sft}\n"
        "  absent: {recipe: row.yaml, start: nowhere}\n"
    )
    return path, tmp_path / "out"


def test_cells_take_fields_seeds_and_students_from_their_place(small) -> None:
    path, out = small
    found, left_out = cells(load_suite(path), path)
    by_name = {cell.name: cell for cell in found}
    assert set(by_name) == {
        "few / start / seed 3", "few / sft / seed 3", "few / twice / seed 3", "few / sft / seed 4", "few / twice / seed 4",
    }  # fmt: skip
    sft, twice = by_name["few / sft / seed 4"], by_name["few / twice / seed 4"]
    assert (sft.config.train.lr, sft.config.clips.limit, sft.config.seed) == (5e-4, 5, 4)
    assert twice.config.student.start == str(out / "few" / "sft" / "seed-4")
    assert twice.origin == "builtin:frame"
    assert left_out == [left_out[0]]
    assert left_out[0].startswith("absent")
    assert [cell.seed for cell in found] == sorted(cell.seed for cell in found)


def test_other_seeds_train_again_but_an_untrained_student_stays_one(small) -> None:
    path, _ = small
    found, _ = cells(load_suite(path), path, (7,))
    assert [cell.name for cell in found] == ["few / start / seed 3", "few / sft / seed 7", "few / twice / seed 7"]


def test_a_row_begins_with_another_suites_students_seed_by_seed(small) -> None:
    path, out = small
    text = path.read_text() + '  given: {recipe: row.yaml, train: false, start: "' + str(out) + '/{seed}/student"}\n'
    path.write_text(text)
    assert any(line.startswith("given (few): there is no bundle") for line in cells(load_suite(path), path)[1])
    for seed in (3, 4):
        (out / str(seed) / "student").mkdir(parents=True)
        (out / str(seed) / "student" / "config.json").write_text("{}")
    found = [cell for cell in cells(load_suite(path), path)[0] if cell.row == "given"]
    assert [cell.config.student.start for cell in found] == [f"{out}/{seed}/student" for seed in (3, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rows:\n  a: {recipe: row.yaml, after: b}\n", "leads to 'b'"),
        ("rows:\n  a: {recipe: row.yaml, wrong: 1}\n", "wrong"),
        ("rows: {}\n", "rows"),
        ("beside: [b]\nrows:\n  a: {recipe: row.yaml}\n", "beside has 'b', which is no row; there are: a"),
        ("settings:\n  a, b: {}\nrows:\n  a: {recipe: row.yaml}\n", "'a, b' has a comma"),
    ],
)
def test_a_wrong_suite_is_one_clear_line(tmp_path, change, message) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("kind: bench\nname: s\nout: x\nseeds: [0]\n" + change)
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_no_suite(tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("name: run\n")
    with pytest.raises(ConfigError, match="understudy train"):
        load_suite(tmp_path / "r.yaml")


def result(row: str, seed: int, law: float, error: str | None = None) -> dict:
    head = {"setting": "few", "row": row, "seed": seed, "error": error}
    if error:
        return head
    metric = {"mean": law, "low": law - 1, "high": law + 1, "n": 4}
    prompts = {"p": {"law_error": law - 0.5}, "q": {"law_error": law + 0.5}}
    return {
        **head, "metrics": {"all": {"law_error": metric}, "drop": {"law_error": metric}}, "prompts": prompts, "leak": None,
        "seconds": {"train": 2.0}, "teacher_clips": 5, "updates": int(row != "start"), "regime": ["informative", "because"],
    }  # fmt: skip


def test_the_table_pairs_by_seed_and_keeps_failures(small) -> None:
    path, out = small
    suite = load_suite(path)
    found = [result("start", 3, 6.0), result("sft", 3, 4.0), result("sft", 4, 4.4), result("twice", 3, 0, "diverged")]
    entries = {(e["row"], e["family"]): e for e in summarise(suite, found)}
    gap = entries["sft", "all"]["metrics"]["law_error"]["vs_start"]
    assert gap["seeds"]["mean"] == pytest.approx(-1.8)
    assert gap["prompts"]["mean"] == pytest.approx(-1.8)
    assert gap["seeds"]["n"] == 2  # the untrained start stands for both seeds
    assert entries["twice", "all"]["errors"] == ["seed 3: diverged"]
    out.mkdir()
    text = write(suite, found, ["absent: why"], {"command": "c", "hardware": "h"}).read_text()
    assert "twice failed: seed 3: diverged" in text
    assert "left out: absent: why" in text
    assert "drop" in text
    assert json.loads((out / "results.json").read_text())["suite"] == "s"
    assert (out / "results.csv").read_text().count("\n") > 3
    kept = read_cells(out)
    assert [cell["row"] for cell in kept] == ["start", "sft", "sft", "twice"]
    assert kept[2]["prompts"]["q"]["law_error"] == pytest.approx(4.9)


def test_one_seed_shows_its_prompts_and_long_clips_their_parts(small) -> None:
    path, out = small
    out.mkdir()
    part = {name: {"mean": 1.5} for name in ("motion_distance", "magnitude", "look_error", "sharpness", "permanence")}
    drifting = {**result("sft", 3, 4.0), "long": {"window 8": [part, part, {"magnitude": {"mean": None}}]}}
    given = {**result("start", 3, 6.0), "long": {TEACHER: [{"magnitude": {"mean": 2.5}}] * 2}}
    text = write(load_suite(path), [given, drifting], [], {}).read_text()
    assert f"| - | {TEACHER} | 1 | 2 | nan | 2.500 |" in text
    assert [picture.name for picture in draw(out)][-1] == "drift.png"
    assert "4.000 (3.500, 4.500)" in text
    assert "| sft | window 8 | 1 | 2 | 1.500 |" in text
    assert "| sft | window 8 | 1 | 3 | nan |" in text


def test_an_axis_shows_all_means_and_no_interval_of_two_seeds() -> None:
    def entry(mean: float, half: float | None, seeds: int) -> dict:
        interval = {"mean": mean, "low": None, "high": None, "n": seeds}
        if half is not None:
            interval |= {"low": mean - half, "high": mean + half}
        return {"metrics": {"law_error": {"seeds": interval}}}

    low, high = _span([entry(4.0, 1.0, 5), entry(5.0, 90.0, 2), entry(6.0, None, 1)], "law_error")
    assert 2.5 < low < 3.0
    assert 6.0 < high < 6.5
    assert _span([], "law_error")[0] < _span([], "law_error")[1]


def test_one_seed_of_a_trained_row_stands_for_no_other(small) -> None:
    path, _ = small
    found = [result("afd", 3, 5.0), result("sft", 3, 4.0), result("sft", 4, 9.0)]
    text = path.read_text() + "  afd: {recipe: row.yaml}\n"
    path.write_text(text)
    entries = {(e["row"], e["family"]): e for e in summarise(load_suite(path), found)}
    gap = entries["sft", "all"]["metrics"]["law_error"]["vs_afd"]["seeds"]
    assert (gap["n"], gap["mean"]) == (1, pytest.approx(-1.0))


def test_rows_are_compared_with_those_the_suite_names_and_an_untrained_one_with_all_their_seeds(small) -> None:
    path, out = small
    path.write_text(path.read_text() + "beside: [sft, twice]\n")
    suite = load_suite(path)
    found = [result("start", 3, 6.0), result("sft", 3, 4.0), result("sft", 4, 4.4), result("twice", 3, 3.0)]
    entries = {(e["row"], e["family"]): e["metrics"]["law_error"] for e in summarise(suite, found)}
    gap = entries["start", "all"]["vs_sft"]["seeds"]
    assert (gap["n"], gap["mean"]) == (2, pytest.approx(1.8))
    assert entries["sft", "all"]["vs_twice"]["seeds"]["n"] == 1
    out.mkdir()
    text = write(suite, found, [], {}).read_text()
    assert "Difference to sft:" in text
    assert "Difference to twice:" in text
    assert "vs_twice_mean" in (out / "results.csv").read_text()


def test_errors_are_shown_by_the_suites_words_on_prompts_that_have_them(small) -> None:
    path, out = small
    path.write_text(path.read_text() + "words: [moon, mo]\n")
    suite = load_suite(path)

    def told(row: str, seed: int, far: float, near: float, other: float | None) -> dict:
        places = {"on the moon": {"law_error": far}, "a moon": {"law_error": near}, "on earth": {"law_error": other}}
        return {**result(row, seed, 9.0), "prompts": places}

    found = [told("start", 3, 6.0, 4.0, 1.0), told("sft", 3, 3.0, 5.0, 1.0), told("sft", 4, 2.0, None, 1.0)]
    entries = {entry["row"]: entry for entry in by_words(suite, found)}
    assert {entry["word"] for entry in entries.values()} == {"moon"}  # whole words
    metric = entries["sft"]["metrics"]["law_error"]
    assert metric["measured"] == [2, 1]
    assert metric["seeds"]["mean"] == pytest.approx((4.0 + 2.0) / 2)
    assert metric["vs_start"]["seeds"]["mean"] == pytest.approx((-1.0 - 4.0) / 2)  # on what both have
    assert "vs_start" not in entries["start"]["metrics"]["law_error"]
    out.mkdir()
    text = write(suite, found, [], {}).read_text()
    assert "| sft | moon | 3.000 [" in text
    assert json.loads((out / "results.json").read_text())["words"][0]["word"] == "moon"


def test_finished_cells_are_known_and_others_settings_refused(small) -> None:
    path, _ = small
    suite = load_suite(path)
    found, left_out = cells(suite, path)
    grid, cell = Grid(suite, found, left_out, "c"), found[0]
    assert not grid.done(cell)
    cell.folder.mkdir(parents=True)
    (cell.folder / "result.json").write_text(json.dumps({"digest": cell.digest}))
    assert grid.done(cell)
    (cell.folder / "result.json").write_text(json.dumps({"digest": "other"}))
    with pytest.raises(ConfigError, match="other settings"):
        grid.done(cell)


def test_a_call_names_only_what_is_there_and_can_be_typed_again(small, monkeypatch) -> None:
    path, _ = small
    for option, wrong in (("rows", "sft,frozn"), ("settings", "few,many")):
        with pytest.raises(UsageError, match=f"--{option} has '{wrong.split(',')[1]}'.* has: "):
            Bench(path, dry_run=True, **{option: wrong}).do()
    stopped = []
    monkeypatch.setattr(Grid, "run", lambda grid, *_: stopped.append(grid.command))
    Bench(path, rows="start,sft", settings="few", seeds="3").do()
    assert stopped == [f"understudy bench {path} --rows start,sft --settings few --seeds 3"]
