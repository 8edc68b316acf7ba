"""The examples and notebooks run as they are written, at their tiny size."""

import contextlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SAID = {
    "draw_and_stream": "turned.mp4",
    "own_teacher": "motion distance to the teacher",
    "own_reward": "mean pixel",
    "own_objective": "law error",
}
TINY = {"steps": 2, "discriminator__warmup": 2, "pool": 8, "train__prompts": 2, "group": 4}


def test_there_are_four_examples_and_two_notebooks_without_outputs() -> None:
    assert {path.stem for path in EXAMPLES} == SAID.keys()
    assert [path.stem for path in NOTEBOOKS] == ["quick_tour", "reading_a_run"]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(path), "--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr
    assert SAID[path.stem] in done.stdout
    assert {item.name for item in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel where there is one, else its cells one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (tmp_path / "small.yaml").write_text((ROOT / "examples" / "small.yaml").read_text(encoding="utf-8"))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parameters = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(parameters) == 1
    parameters[0]["source"] = [*parameters[0]["source"], f"\nfields = {TINY!r}\n"]
    if find_spec("nbclient") and find_spec("ipykernel"):
        import nbclient
        import nbformat

        nbclient.NotebookClient(nbformat.from_dict(notebook), timeout=280, kernel_name="python3").execute()
        return
    scope: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), path.name, "exec"), scope)
