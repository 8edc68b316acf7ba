"""Recipes come with the package and are found by name from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from understudy.bench.suite import cells, load_suite
from understudy.cli import main
from understudy.doctor import diagnose
from understudy.errors import ConfigError
from understudy.pretraining.make import main as make_start
from understudy.recipes.files import load_recipe
from understudy.recipes.shipped import FOLDER, shipped


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_file_is_listed_with_a_line() -> None:
    found = shipped()
    assert len(found) == len(list(FOLDER.rglob("*.yaml")))
    for item in found:
        assert 8 <= len(item.about) <= 220, item
        assert "\n" not in item.about
        assert not item.about.endswith((".", ":"))
    kinds = {item.name: item.kind for item in found}
    assert kinds["quickstart"] == "recipe"
    assert kinds["main"] == "suite"
    assert kinds["bench/rows/afd"] == kinds["bench/base"] == "row"
    assert kinds["start"] == "start"


@pytest.mark.parametrize(
    "item", [item for item in shipped() if item.kind in ("recipe", "row")], ids=lambda item: item.name
)
def test_a_shipped_recipe_loads_by_its_name(item: object) -> None:
    assert load_recipe(item.name) == load_recipe(item.path)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "spelled", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml", "recipes/quickstart", Path("quickstart")]
)
def test_a_recipe_goes_by_several_spellings(spelled: str) -> None:
    assert load_recipe(spelled).name == "quickstart"


@pytest.mark.parametrize("spelled", ["small", "bench/small", "recipes/bench/small.yaml"])
def test_a_suite_goes_by_several_spellings(spelled: str) -> None:
    assert len(cells(load_suite(Path(spelled)), Path(spelled))[0]) > 6


def test_a_file_goes_before_a_name_and_a_folder_holds_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: mine\n")
    assert load_recipe("quickstart.yaml").name == "mine"
    assert load_recipe("quickstart").name == "quickstart"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.yaml").write_text("base: quickstart\nname: own\n")
    assert load_recipe("own").name == "own"
    assert load_recipe("own").compare == load_recipe("quickstart").compare
    (tmp_path / "block").mkdir()  # a folder that happens to have the name
    assert load_recipe("block").name == "block"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quikstart", "recipe quikstart does not exist; did you mean quickstart?"),
        ("qqq.yaml", "recipe qqq.yaml does not exist; `understudy recipes` lists those that ship"),
        ("../recipe_files/quickstart.yaml", "does not exist"),
        ("bench/../quickstart", "does not exist"),
        ("", "cannot read recipe"),
        ("a\x00b", "does not exist|null"),
    ],
)
def test_what_does_not_ship_is_one_clear_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        load_recipe(name)


def test_verbs_take_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quickstart", "--print-config"]) == 0
    assert "name: quickstart" in capsys.readouterr().out
    assert main(["train", "quickstart", "--dry-run"]) == 0
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "  selfforcing_1.3b  " in out
    assert "  main  " in out.replace("main             ", "main  ")
    assert "bench/rows" not in out
    assert main(["recipes", "--rows"]) == 0
    assert "bench/rows/afd" in capsys.readouterr().out
    assert str(diagnose("quickstart")[0]).endswith("is valid: quickstart")
    assert make_start(["nothing"]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_the_wheel_brings_them(tmp_path: Path) -> None:
    """Built from a copy, unpacked, and asked from an empty folder."""
    root = Path(__file__).resolve().parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", "wheel"]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    ask = [sys.executable, "-m", "understudy", "train", "block", "--dry-run"]
    told = subprocess.run(
        ask,
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "run folder: runs/block" in told.stdout
    assert len(list((tmp_path / "site" / "understudy" / "recipe_files").rglob("*.yaml"))) == len(shipped())
