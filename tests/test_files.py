import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from understudy import files
from understudy.errors import UnderstudyError


def test_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    files.write_bytes_atomic(target, b"old and long")
    files.write_bytes_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.write_text_atomic(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_text_and_json_are_utf8(tmp_path: Path) -> None:
    files.write_text_atomic(tmp_path / "a.txt", "grün\n")
    assert (tmp_path / "a.txt").read_bytes() == "grün\n".encode()
    files.write_json_atomic(tmp_path / "a.json", {"colour": "grün", "sizes": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"colour": "grün", "sizes": [1, 2.5, None]}
    assert "grün" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_value_without_json_form_is_one_clear_line(tmp_path: Path, value: object) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(UnderstudyError, match="no JSON form") as caught:
        files.write_json_atomic(target, {"x": value})
    assert "\n" not in str(caught.value)
    assert target.read_text() == "old"


def test_full_disk_keeps_the_old_file_and_removes_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnderstudyError) as caught:
        files.write_bytes_atomic(target, b"new")
    assert str(caught.value) == f"cannot write {target}: no space left on device"
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_interrupt_while_writing_removes_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes_atomic(tmp_path / "a.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_and_folder_as_target_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"cannot write .*a\.bin: no such file or directory$"):
        files.write_bytes_atomic(tmp_path / "missing" / "a.bin", b"x")
    with pytest.raises(UnderstudyError, match="is a directory"):
        files.write_bytes_atomic(tmp_path, b"x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnderstudyError, match="permission denied"):
        files.write_bytes_atomic(tmp_path / "a.bin", b"x")
    with pytest.raises(UnderstudyError, match="permission denied"):
        files.ensure_folder(tmp_path)


def test_ensure_folder_makes_parents_and_accepts_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert files.ensure_folder(folder) == folder
    assert files.ensure_folder(str(folder)).is_dir()


@pytest.mark.parametrize("below", [".", "sub"])
def test_ensure_folder_on_a_file_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnderstudyError, match="is a file"):
        files.ensure_folder(tmp_path / "file" / below)


def test_sha256_hex() -> None:
    assert files.sha256_hex(b"abc") == hashlib.sha256(b"abc").hexdigest()
