"""The list of lines to break stays true to the source: benchmarks/mutations.py does the breaking."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "mutations.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_mutation_still_fits_the_source_and_is_one_other_line_that_can_be_read(script) -> None:
    found = script.mutations()
    assert len(found) >= 40
    assert len({mutation.name for mutation in found}) == len(found)
    for mutation in found:
        text = (ROOT / mutation.file).read_text(encoding="utf-8")
        compile(broken := mutation.mutated(text), mutation.file, "exec")
        assert broken != text
        assert "\n" not in mutation.old.strip("\n") + mutation.new.strip("\n")


def test_every_mutation_names_tests_that_are_there(script) -> None:
    for mutation in script.mutations():
        assert mutation.tests
        for test in mutation.tests:
            path, *names = test.split("::")
            text = (ROOT / path).read_text(encoding="utf-8")
            for name in names:
                assert f"def {name.split('[')[0]}(" in text or f"class {name}" in text, test


def test_parts_that_decide_what_is_learnt_and_said_are_all_broken(script) -> None:
    files = " ".join(mutation.file for mutation in script.mutations())
    parts = (
        "flow",
        "losses",
        "training/",
        "rollout",
        "discriminators",
        "canonical",
        "metrics",
        "law",
        "bench",
        "ledger",
    )
    assert [part for part in parts if part not in files] == []


def test_a_mutation_that_no_longer_fits_is_an_error_that_says_which(script) -> None:
    mutation = script.Mutation("a sign", "src/x.py", "a - b", "a + b", ("tests/test_x.py",))
    assert mutation.mutated("c = a - b\n") == "c = a + b\n"
    for text in ("c = a\n", "c = a - b\nd = a - b\n"):
        with pytest.raises(ValueError, match=r"a sign: src/x.py has 'a - b' \d times, not once"):
            mutation.mutated(text)


def test_the_list_is_shown_without_breaking_anything() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--list"], capture_output=True, text=True, check=True)
    assert "AFD's reward is negated  (src/understudy/objectives/afd/update.py)" in done.stdout
    done = subprocess.run([sys.executable, str(SCRIPT), "--only", "xyz"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no mutation's name holds 'xyz'" in done.stderr


@pytest.mark.slow
def test_a_line_that_is_broken_is_noticed() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "leak runs"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 caught" in done.stdout
