"""Writing files so that a reader sees the old content or the new content, never half of either."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import UnderstudyError

_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS)  # what file systems say that sync no folders

TEMPORARY_PREFIX = ".tmp-"
"""Every half-written file starts with this; a leftover one belongs to a killed process."""


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def ensure_folder(path: str | Path) -> Path:
    """Create folder ``path`` with its parents when missing and return it.

    Raises:
        UnderstudyError: it is a file, or cannot be created or written to.
    """
    folder = Path(path)
    try:
        _make(folder)
    except (FileExistsError, NotADirectoryError):
        raise UnderstudyError(f"cannot use {folder} as a folder: it, or a parent of it, is a file") from None
    except OSError as error:
        raise UnderstudyError(f"cannot create folder {folder}: {_reason(error)}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnderstudyError(f"cannot write in folder {folder}: permission denied")
    return folder


def _make(folder: Path) -> None:
    """Make ``folder`` with its parents; those that are new survive a power cut, so that what is put there does."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync(path.parent)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Replace file ``path`` by ``data`` in one step, on disk when this returns.

    The folder has to exist.

    Raises:
        UnderstudyError: the disk is full, the folder is missing or read-only, or ``path`` is a folder.
    """
    target = Path(path)
    # The same folder, so that the final rename never crosses file systems. A random name rather
    # than tempfile's, whose files are private to the user whatever the umask says.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise UnderstudyError(f"cannot write {target}: {_reason(error)}") from None


def write_text_atomic(path: str | Path, text: str) -> None:
    """Replace file ``path`` by ``text`` as UTF-8; see `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: Mapping[str, object] | Sequence[object]) -> None:
    """Replace file ``path`` by ``value`` as indented JSON with a final newline; see `write_bytes_atomic`.

    Raises:
        UnderstudyError: also when ``value`` holds something JSON has no form for (NaN and infinity included).
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnderstudyError(f"cannot write {path}: the value has no JSON form ({error})") from None
    write_text_atomic(path, text + "\n")


@contextmanager
def new_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for a large file or folder, which becomes ``path`` when the block ends without an error.

    Raises:
        UnderstudyError: ``path`` exists (other than as an empty folder), or it cannot be written.
    """
    target = Path(path)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UnderstudyError(f"{target} exists already: give another place, or remove it first")
    ensure_folder(target.parent)
    draft = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        try:
            yield draft
            for written in (draft, *draft.rglob("*")):
                sync(written)
            os.replace(draft, target)
        except BaseException:
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            draft.unlink(missing_ok=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise UnderstudyError(f"cannot write {target}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """Return what went wrong without the path, which the caller names itself."""
    return (error.strerror or str(error)).lower()


def append_line(path: str | Path, line: str) -> None:
    """Append ``line`` to a file of lines; where a kill tore the last one, the new one still stands on its own.

    Raises:
        UnderstudyError: it is no regular file, the disk is full, or it cannot be written.
    """
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnderstudyError(f"cannot write {path}: it is no regular file")
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                data = b"\n" + data
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnderstudyError(f"cannot write {path}: {_reason(error)}") from None


def sync(path: Path) -> None:
    """Make a file's content, or a rename in a folder, survive a power cut, where the system lets ``path`` be synced.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(descriptor)
