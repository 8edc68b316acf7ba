"""What a user brings along: named in a recipe or given, and every error says whose it is."""

import functools
import sys
from pathlib import Path

import pytest

from understudy.errors import ConfigError, PluginError, TeacherError
from understudy.plugins import guarded, load, name_of, named


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, text: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    return write


def test_a_name_leads_into_the_working_directory(module) -> None:
    module("plug_one", "class A:\n    class B:\n        x = 3\n")
    assert load("plug_one:A.B", "reward").x == 3


@pytest.mark.parametrize(
    ("name", "text", "call", "said"),
    [
        ("plug_a", "x = 1\n", "plug_a:y", r"reward plug_a:y: plug_a has no 'y'; it has x"),
        ("plug_b", "import nowhere_at_all\n", "plug_b:y", r"its module needs 'nowhere_at_all', which is not installed"),
        ("plug_c", "1 / 0\n", "plug_c:y", r"its module fails: ZeroDivisionError: division by zero"),
        ("plug_d", "def broken(:\n", "plug_d:y", r"its module fails: SyntaxError: .*line 1"),
        ("plug_e", "import sys\nsys.exit(3)\n", "plug_e:y", r"its module fails: SystemExit: 3"),
        ("plug_f", "import plug\n", "plug_f:y", r"its module needs 'plug', which is not installed"),
        ("plug_g", "", "plug_none:y", r"there is no module 'plug_none' here or among the packages"),
        ("plug_h", "", "plug_h.inner:y", r"there is no module 'plug_h.inner'|no module 'plug_h'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(module, name: str, text: str, call: str, said: str) -> None:
    module(name, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load(call, "reward")
    assert "\n" not in str(caught.value)


def test_what_came_from_a_session_is_told_from_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="was given from a Python session"):
        load("__main__:nothing_like_it", "reward")


def test_names_say_where_things_come_from() -> None:
    class Inner:
        def __call__(self) -> None: ...

    def function() -> None: ...

    here = __name__
    assert name_of(Inner) == name_of(Inner()) == f"{here}:test_names_say_where_things_come_from.Inner"
    assert name_of(functools.partial(function)) == f"{here}:test_names_say_where_things_come_from.function"
    assert name_of(lambda: 1).endswith(".lambda")
    assert name_of(len) == "builtins:len"


def test_errors_of_a_call_name_the_plug_in_and_ours_pass() -> None:
    def fails() -> None:
        raise KeyError("a\nb")

    def refuses() -> None:
        raise TeacherError("not today")

    with pytest.raises(PluginError, match=r"^reward 'x' failed: KeyError: .* \(test_plugins.py line \d+\)") as caught:
        guarded("reward 'x'", fails)
    assert "\n" not in str(caught.value)
    with pytest.raises(TeacherError, match=r"^not today$"):
        guarded("teacher", refuses)


def test_the_innermost_line_of_the_users_says_which_plug_in_failed(module) -> None:
    module("plug_many", "class Net:\n    def run(self):\n        return [][1]\n\ndef step():\n    return Net().run()\n")
    parts = {"plug_many:step": "objective", "plug_many:Net": "discriminator"}
    step = load("plug_many:step", "objective")
    with (
        pytest.raises(PluginError, match=r"^discriminator plug_many:Net failed: IndexError.*\(plug_many.py line 3\)"),
        named(parts),
    ):
        step()
    with pytest.raises(ZeroDivisionError), named(parts):  # no line of theirs in it: not their fault
        _ = 1 / 0
