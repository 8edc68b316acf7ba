"""The repository and the package stay light: nothing twice, and no figure that follows from another file."""

import hashlib
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPOSITORY, PACKAGED, TWICE = 20_000_000, 3_400_000, 2_000  # bytes


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Return the files that git keeps."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_kept_twice(tracked: list[Path]) -> None:
    same = defaultdict(list)
    for path in tracked:
        if path.stat().st_size > TWICE:
            same[hashlib.sha256(path.read_bytes()).digest()].append(str(path.relative_to(ROOT)))
    assert [names for names in same.values() if len(names) > 1] == []


def test_the_repository_stays_light(tracked: list[Path]) -> None:
    assert sum(path.stat().st_size for path in tracked) < REPOSITORY
    names = {path.name for path in tracked if "bench" in path.parts and "results" in path.parts}
    assert not names & {"cells.jsonl", "results.json", "results.csv"}  # benchmarks/publish.py makes them again


def test_what_the_wheel_takes_stays_light(tracked: list[Path]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "src" / "understudy"
    left_out = {path for pattern in settings["exclude-package-data"]["understudy"] for path in package.glob(pattern)}
    taken = [path for path in tracked if path.is_relative_to(package / "assets") and path not in left_out]
    assert package / "assets" / "frame" / "student.safetensors.xz" in taken
    assert sum(path.stat().st_size for path in taken) < PACKAGED  # a wheel of less than 4 MB, code and recipes included
