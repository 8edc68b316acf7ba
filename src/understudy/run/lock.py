"""One process at a time works in a run folder: a lock that says who holds it, and that a crash frees.

The lock is the system's own (``flock``) on ``FOLDER/.lock``, so it goes with its process, however that ends. Beside it the
file says who that is. The ranks of one ``torchrun`` hold it together: the first one takes it, and the others join it.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from understudy.errors import ConfigError, shown
from understudy.files import ensure_folder

try:
    import fcntl
except ImportError:  # not a POSIX system: one process at a time is then up to the user
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".lock"
"""Name of the file in a run folder."""
_PATIENCE: Final = 5.0  # seconds that a rank waits for the first one to have said who it is
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Busy(ConfigError):
    """Another process holds the folder."""


@contextmanager
def holding(folder: Path, make: bool = True) -> Iterator[None]:
    """Hold ``folder`` for this process, or for all ranks of its ``torchrun``, until the block ends.

    Args:
        folder: the run folder.
        make: make it when missing; otherwise a missing one is left to whoever reads it.

    Raises:
        Busy: another process holds it; the message says which, on which host, since when.
        UnderstudyError: the folder cannot be made or written.
    """
    made = make and not folder.exists()
    if make:
        ensure_folder(folder)
    if fcntl is None or not folder.is_dir():
        yield
        return
    descriptor = _taken(folder)
    try:
        yield
    finally:
        _let_go(folder, descriptor)
        if made:  # what was refused before it wrote anything leaves nothing
            with suppress(OSError):
                folder.rmdir()


def while_holding(folder: Callable[_P, Path], make: bool = True) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator: the function runs while it holds the folder that ``folder`` finds in its arguments."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def held(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with holding(folder(*args, **kwargs), make):
                return function(*args, **kwargs)

        return held

    return decorate


def group(environment: Mapping[str, str] | None = None) -> str:
    """Return what the ranks of one ``torchrun`` have in common; empty for a process on its own."""
    told = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" not in told or "RANK" not in told:
        return ""
    # The id alone is "none" wherever nobody gave one; two runs never meet at one address at the same time.
    return f"{told['TORCHELASTIC_RUN_ID']}@{told.get('MASTER_ADDR', '')}:{told.get('MASTER_PORT', '')}"


def _taken(folder: Path) -> int:
    """Return the descriptor that holds the lock."""
    own, until = group(), time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot lock {folder}: {(error.strerror or str(error)).lower()}") from None
        done = False
        try:
            if not _try(descriptor, fcntl.LOCK_EX):
                holder = _holder(descriptor)
                joined = bool(own) and holder.get("group") == own and _try(descriptor, fcntl.LOCK_SH)
                if not joined and (not own or holder.get("group") or time.monotonic() > until):
                    raise Busy(_refusal(folder, holder))
                done = joined and _current(folder, descriptor)
            elif _current(folder, descriptor):
                _write(descriptor, own)
                if own:  # from now on the others can join; an exclusive lock would keep them out
                    _try(descriptor, fcntl.LOCK_SH)
                done = True
            if done:
                return descriptor
        finally:
            if not done:
                os.close(descriptor)
        time.sleep(0.05)


def _let_go(folder: Path, descriptor: int) -> None:
    """Give the lock back; the last who holds it takes the file away."""
    with suppress(OSError):
        if _try(descriptor, fcntl.LOCK_EX) and _current(folder, descriptor):
            os.unlink(folder / LOCK)
    os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    """Take the lock if it is free; on a file system without locks everybody gets it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _current(folder: Path, descriptor: int) -> bool:
    """Say whether the locked file is still the one in the folder: its last holder may just have taken it away."""
    try:
        there = os.stat(folder / LOCK, follow_symlinks=False)
    except OSError:
        return False
    own = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _write(descriptor: int, own: str) -> None:
    who: dict[str, Any] = {"process": os.getpid(), "host": socket.gethostname(), "since": _now()}
    data = json.dumps({**who, **({"group": own} if own else {})}).encode()
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def _holder(descriptor: int) -> dict[str, Any]:
    """Return what the holder says of itself; nothing while it has not."""
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _refusal(folder: Path, holder: Mapping[str, Any]) -> str:
    what, where, since = (shown(holder.get(name, "unknown"))[:64] for name in ("process", "host", "since"))
    return f"{folder} is in use by process {what} on {where} since {since}: wait until it ends, or stop it"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
