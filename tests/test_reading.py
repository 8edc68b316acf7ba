"""What a path leads to is looked at before it is read, and what comes from outside cannot steer a terminal."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy import cli, files
from understudy.errors import UnderstudyError, shown
from understudy.reading import Unreadable, json_rows, parse_json, read_json, read_limited

NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(Unreadable) as caught:
        read_limited(tmp_path / "x", 100)
    assert "\n" not in str(caught.value)


def test_a_size_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match=r"too large: 1099511627776 bytes, limit 10"):
        read_limited(tmp_path / "x", 10)


def test_a_file_that_tells_no_size_is_bounded_all_the_same() -> None:
    assert len(read_limited("/proc/self/status", 1 << 20)) > 100
    with pytest.raises(Unreadable, match="too large"):
        read_limited("/proc/self/status", 10)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", '{"a": Infinity}', b"\xff", "9" * 5000])
def test_json_that_is_none_is_one_line(text: str | bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "x")


def test_a_torn_line_never_swallows_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": ')
    files.append_line(path, '{"c": 3}')
    files.append_line(path, '{"d": 4}')
    assert json_rows(path) == ([{"a": 1}, {"c": 3}, {"d": 4}], 1)


def test_a_full_disk_leaves_the_lines_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    files.append_line(path, '{"a": 1}')
    write, calls = os.write, []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:4])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(UnderstudyError, match="no space left"):
        files.append_line(path, '{"b": 2}')
    assert path.read_text() == '{"a": 1}\n'


def test_nothing_is_appended_to_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UnderstudyError):
        files.append_line(tmp_path / "x", "a")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain é 日本 👍🏽", "plain é 日本 👍🏽"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\rc\td", "a\\nb\\rc d"),
        ("\x00\x7f\x85\x9b", "\\x00\\x7f\\x85\\x9b"),
        ("a\u202eb\u2066c\u200fd", "a\\u202eb\\u2066c\\u200fd"),
        ("a\ud800b\u2028c", "a\\ud800b\\u2028c"),
    ],
)
def test_control_characters_are_spelled_out(text: str, seen: str) -> None:
    assert shown(text) == seen


def test_errors_and_lists_show_no_control_characters(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;title\x07\x1b[2J"
    assert cli.main(["train", str(tmp_path / name)]) == 1
    record = {
        "key": "ab" * 32,
        "status": "rejected",
        "prompt": f"a {name}",
        "teacher": "t",
        "asked": {},
        "received": {},
    }
    record |= {"seed": 0, "clip": None, "time": "now", "terms": "", "reason": name, "provenance": {}}
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "records.jsonl").write_text(json.dumps(record) + "\n")
    assert cli.main(["store", "list", str(tmp_path / "store")]) == 0
    assert cli.main(["store", "show", str(tmp_path / "store"), "ab"]) == 0
    told = capfd.readouterr()
    assert "\x1b" not in told.err + told.out
    assert "\\x1b]0;title\\x07" in told.err
    assert "\\x1b]0;title" in told.out


def test_a_name_that_the_output_cannot_hold_is_no_reason_to_fail(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(tmp_path / "a\udcffb.yaml")]) == 1
    assert "a\\udcffb.yaml does not exist" in capfd.readouterr().err


def test_a_chain_of_bases_has_an_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    (tmp_path / "40.yaml").write_text("name: x\n")
    assert cli.main(["train", str(tmp_path / "0.yaml"), "--print-config"]) == 1
    assert "more than 32 bases follow one another" in capfd.readouterr().err
    assert cli.main(["train", str(tmp_path / "20.yaml"), "--print-config"]) == 0


def test_a_recipe_has_a_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("name: x\n#" + "x" * 300_000)
    assert cli.main(["train", str(tmp_path / "a.yaml"), "--print-config"]) == 1
    assert "too large" in capfd.readouterr().err
