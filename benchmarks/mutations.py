"""Do the tests notice when one line of the source goes wrong? Break one line after the other and see.

    python benchmarks/mutations.py                    # all of mutations.yaml, written to results/mutations.md
    python benchmarks/mutations.py --only paired      # those whose name holds the word; nothing is written
    python benchmarks/mutations.py --list

The source is copied to a temporary folder, where each mutation in its turn replaces one line and the tests that it names
have to fail. Exit status 1: at least one was not noticed.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".yaml")
RESULTS = ROOT / "benchmarks" / "results" / "mutations.md"
COPIED = ("src", "tests", "benchmarks", "pyproject.toml", "README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "results")
PLUGINS = ("-p", "no:cacheprovider", "-p", "pytest_timeout")
FAILED = 1  # pytest's exit status when tests ran and some failed; others mean that they could not run


@dataclass(frozen=True)
class Mutation:
    """One line that goes wrong.

    Attributes:
        name: what goes wrong, in a few words.
        file: below the root. old: its text, there exactly once. new: what takes its place.
        tests: node ids of the quick tests that have to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def mutated(self, text: str) -> str:
        """Return the file's text with the line gone wrong.

        Raises:
            ValueError: the old text is not there exactly once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has {self.old!r} {count} times, not once; mend {LIST.name}")
        return text.replace(self.old, self.new)


def mutations() -> list[Mutation]:
    """Return the list, in its order."""
    groups = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [
        Mutation(line["name"], line["file"], line["old"], line["new"], tuple(line["tests"]))
        for lines in groups.values()
        for line in lines
    ]


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a temporary folder with a copy of the source and its tests."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name).resolve()
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=LEFT_OUT)
            else:
                shutil.copy2(ROOT / part, folder / part)
        yield folder


def preload() -> None:
    """Import what takes seconds and is not under test, so that forks have it for nothing."""
    for name in ("hypothesis", "matplotlib.pyplot", "pydantic", "pytest", "torch", "torch._dynamo"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run the quick ones of ``tests`` in the copy, up to the first that fails; return pytest's status and what it said.

    In a fork of this process, which has imported what takes long: half a minute becomes a few seconds.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = multiprocessing.get_context("fork").Process(target=_tested, args=(folder, tests, said.fileno()))
        process.start()
        process.join()
        said.seek(0)
        return process.exitcode or 0, said.read()


def _tested(folder: Path, tests: Sequence[str], said: int) -> None:
    for stream in (1, 2):
        os.dup2(said, stream)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "src"))
    os.environ |= {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    pytest, understudy = importlib.import_module("pytest"), importlib.import_module("understudy")
    if not str(understudy.__file__).startswith(str(folder)):
        print(f"{understudy.__file__} would be tested instead of the copy")
        os._exit(3)
    os._exit(int(pytest.main(["-x", "-q", "-m", "not slow", *PLUGINS, *tests])))


def check(folder: Path, chosen: Sequence[Mutation]) -> None:
    """Exit unless every mutation fits, and the tests pass as long as nothing is broken."""
    for mutation in chosen:
        mutation.mutated((folder / mutation.file).read_text(encoding="utf-8"))
    status, said = run_tests(folder, sorted({test for mutation in chosen for test in mutation.tests}))
    if status:
        sys.exit(f"error: the tests do not pass before anything is broken:\n{said[-3000:]}")


def caught(folder: Path, mutation: Mutation) -> bool:
    """Break the line, run its tests, mend it; return whether a test failed."""
    path = folder / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutation.mutated(whole), encoding="utf-8")
    try:
        status, said = run_tests(folder, mutation.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    if status not in (0, FAILED):
        sys.exit(f"error: {mutation.name}: the tests could not run:\n{said[-3000:]}")
    return status == FAILED


def table(outcomes: Sequence[tuple[Mutation, bool]]) -> str:
    """Return the outcomes as Markdown."""
    total = sum(found for _, found in outcomes)
    lines = [
        "# Mutations: lines that went wrong, and whether a quick test noticed",
        "",
        f"{total} of {len(outcomes)} caught. Made by `python benchmarks/mutations.py`; the lines are in "
        "`benchmarks/mutations.yaml`.",
        "",
        "| what goes wrong | file | caught |",
        "|---|---|---|",
    ]
    lines += [
        f"| {m.name} | `{m.file.removeprefix('src/understudy/')}` | {'yes' if f else '**no**'} |" for m, f in outcomes
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Break the chosen lines; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word in the names of the mutations to try")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    options = parser.parse_args()
    chosen = [mutation for mutation in mutations() if options.only in mutation.name]
    if not chosen:
        parser.error(f"no mutation's name holds {options.only!r}; see --list")
    if options.list:
        print("\n".join(f"{mutation.name}  ({mutation.file})" for mutation in chosen))
        return 0
    preload()
    outcomes = []
    with copied() as folder:
        check(folder, chosen)
        for mutation in chosen:
            began = time.monotonic()
            outcomes.append((mutation, caught(folder, mutation)))
            said = "caught" if outcomes[-1][1] else "NOT CAUGHT"
            print(f"{said:10}  {mutation.name}  ({time.monotonic() - began:.0f} s)", flush=True)
    missed = [mutation.name for mutation, found in outcomes if not found]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    if not options.only:
        RESULTS.write_text(table(outcomes), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
