"""Who is at work in a store: every collector has a folder of its own there, with a lock that ends with its process."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from understudy.files import ensure_folder

try:
    import fcntl
except ImportError:  # not a POSIX system: one collector at a time is then up to the user
    fcntl = None  # type: ignore[assignment]


class Collector:
    """This collector among those in the folder ``folders``."""

    def __init__(self, folders: Path) -> None:
        """Take a name that nobody else has.

        Raises:
            UnderstudyError: the folder cannot be made.
        """
        self.name = secrets.token_hex(8)
        self.folder = folders / self.name
        self._descriptor: int | None = None
        ensure_folder(folders)

    def register(self) -> None:
        """Make this collector's folder, and remove those of dead ones; one process at a time."""
        for folder in self.folder.parent.iterdir():
            if not self.alive(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        ensure_folder(self.folder)
        self._descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def alive(self, name: str) -> bool:
        """Say whether the process of collector ``name`` still runs."""
        try:
            descriptor = os.open(self.folder.parent / name / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def leave(self) -> None:
        """Let the lock go and remove the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        shutil.rmtree(self.folder, ignore_errors=True)
