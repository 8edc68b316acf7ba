"""Kinds of students: folders of the package, classes that were imported, entry points of installed packages."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from understudy.errors import CheckpointError, ConfigError
from understudy.students.base import StudentModule
from understudy.students.bundle import load_bundle
from understudy.students.kinds import GROUP, shipped_kinds, student_kind
from understudy.students.transformer.model import CausalVideoTransformer

PACKAGE = """
from understudy.students.transformer.model import CausalVideoTransformer

class Far(CausalVideoTransformer):
    kind = "far-away"

nothing = 3
"""


def test_each_family_is_a_folder() -> None:
    assert shipped_kinds().keys() == {"causal-video-transformer", "anyflow-far", "wan"}
    assert student_kind("causal-video-transformer") is CausalVideoTransformer


def test_a_class_that_was_imported_counts_and_the_latest_wins() -> None:
    class First(CausalVideoTransformer):
        kind = "twice"

    class Second(CausalVideoTransformer):
        kind = "twice"

    assert First.kind == "twice"
    assert student_kind("twice") is Second


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an entry point, as pip leaves it."""
    (tmp_path / "far_students.py").write_text(PACKAGE)
    head = tmp_path / "far_students-1.0.dist-info"
    head.mkdir()
    (head / "METADATA").write_text("Metadata-Version: 2.1\nName: far-students\nVersion: 1.0\n")
    (head / "entry_points.txt").write_text(
        f"[{GROUP}]\nfar-away = far_students:Far\nfar-wrong = far_students:nothing\nfar-gone = far_students:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "far_students", raising=False)
    importlib.invalidate_caches()
    return tmp_path


def test_an_installed_package_adds_a_kind(installed: Path, start: Path) -> None:
    found = student_kind("far-away")
    assert issubclass(found, StudentModule)
    assert found.__module__ == "far_students"
    config = json.loads((start / "config.json").read_text(encoding="utf-8"))
    (start / "config.json").write_text(json.dumps({**config, "kind": "far-away"}), encoding="utf-8")
    assert load_bundle(start).student.kind == "far-away"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("far-wrong", "come from far_students:nothing, which is no StudentModule"),
        ("far-gone", "come from far_students:Gone, which fails: AttributeError"),
        ("far-off", "there are no students of kind 'far-off' among anyflow-far, causal-video-transformer, far-away"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(installed: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        student_kind(name)
    assert "\n" not in str(caught.value)


def test_a_bundle_runs_no_code_that_is_not_installed(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a module beside it nor a name that looks like one."""
    monkeypatch.chdir(start)
    (start / "evil.py").write_text("raise SystemExit('run')")
    config = json.loads((start / "config.json").read_text(encoding="utf-8"))
    for kind in ("evil", "evil:Student", "os:system", "understudy.students.transformer", 3, None, ["wan"]):
        (start / "config.json").write_text(json.dumps({**config, "kind": kind}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="does not describe a student"):
            load_bundle(start)
    assert "evil" not in sys.modules
