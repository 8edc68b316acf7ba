"""Reading files that may be anything: pipes, devices, endless or damaged text are one clear line, never a hang.

What a path leads to is looked at before it is read. A pipe without a writer waits for ever, a device may never end, and a
text of gigabytes fills the memory before anybody can say that it is no recipe.
"""

import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final

from understudy.errors import UnderstudyError

TEXT_BYTES: Final = 64 << 20
"""Largest text file that is read whole, where nothing says otherwise."""
JSON_BYTES: Final = 16 << 20
"""Largest JSON file that is read whole, where nothing says otherwise."""
LINE_BYTES: Final = 16 << 20
"""Longest line of a file of records."""
_PIECE: Final = 1 << 20


class Unreadable(UnderstudyError, ValueError):
    """A file cannot be read; the message says why, without the file's name."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open ``path`` to read its bytes, if it is a regular file (or a link to one).

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is a folder, a pipe or a device, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise
    except ValueError as error:  # a NUL in the name
        raise Unreadable(f"its name cannot be a file's ({error})") from None
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise Unreadable("is a directory" if stat.S_ISDIR(kind) else "it is a pipe or a device, not a regular file")
    return os.fdopen(descriptor, "rb")


def read_limited(path: str | Path, limit: int) -> bytes:
    """Return the bytes of the regular file ``path``, at most ``limit`` of them.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: see `open_regular`; or it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Unreadable(f"it is too large: {size} bytes, limit {limit}")
        try:
            data = file.read(size + 1)  # never by the limit: that much memory would be taken first
            while len(data) <= limit and (more := file.read(_PIECE)):  # it grew, or never told its size
                data += more
        except OSError as error:
            raise Unreadable((error.strerror or str(error)).lower()) from None
    if len(data) > limit:
        raise Unreadable(f"it is too large: more than {limit} bytes")
    return data


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text; numbers that are not finite are none, as JSON says.

    Raises:
        Unreadable: it is no UTF-8, no JSON, or nested without end.
    """
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise Unreadable("its JSON is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(" ".join(str(error).split())[:160]) from None


def read_json(path: str | Path, limit: int = JSON_BYTES) -> Any:
    """Return the value in the JSON file ``path``.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is no regular file, larger than ``limit`` bytes, or no JSON.
    """
    return parse_json(read_limited(path, limit))


def json_rows(path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a file of JSON lines, and how many lines were none: torn by a kill, or damaged.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is no regular file.
    """
    rows, damaged = [], 0
    for line in json_lines(path):
        row = line_object(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            damaged += 1
    return rows, damaged


def json_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of ``path`` as they are, without their ends; see `json_rows` for what is raised."""
    with open_regular(path) as file:
        for line in lines_of(file):
            yield line.rstrip(b"\r\n")


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of an open file with their ends, one at a time: it may be larger than memory.

    A line without end is given in parts of `LINE_BYTES`.
    """
    while line := file.readline(LINE_BYTES):
        yield line


def line_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object that ``line`` is, None when it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")
