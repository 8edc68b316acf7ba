"""Prompts: one spelling per prompt, a short identity, and the files they are read from."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from understudy.errors import ConfigError
from understudy.files import sha256_hex
from understudy.reading import TEXT_BYTES, Unreadable, read_limited


def normalise(text: str) -> str:
    """Return ``text`` stripped, with every run of white space as one space."""
    return " ".join(text.split())


def prompt_id(text: str) -> str:
    """Return 12 hex digits that name the prompt, the same for every spacing of it."""
    return sha256_hex(normalise(text).encode("utf-8"))[:12]


def read_prompts(path: str | Path) -> list[str]:
    """Read the prompts in ``path``, normalised, in file order, each once.

    ``.txt`` holds one a line (blank lines and lines starting with ``#`` are skipped), ``.jsonl`` one
    object with a ``prompt`` a line, ``.csv`` a column ``prompt``.

    Raises:
        ConfigError: the file is missing, of another kind, malformed (names the line), or has no prompts.
    """
    source = Path(path)
    readers = {".txt": _read_lines, ".jsonl": _read_jsonl, ".csv": _read_csv}
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise ConfigError(f"prompt file {source} must end in .txt, .jsonl or .csv")
    prompts = list(dict.fromkeys(reader(read_text(source, "prompt file"), source)))
    if not prompts:
        raise ConfigError(f"prompt file {source} has no prompts; write at least one")
    return prompts


def read_text(path: Path, what: str, limit: int = TEXT_BYTES) -> str:
    """Return the UTF-8 text of ``path`` (a byte-order mark is dropped); ``what`` names it in errors.

    Raises:
        ConfigError: it is missing, unreadable, no regular file, larger than ``limit`` bytes or not UTF-8.
    """
    try:
        return read_limited(path, limit).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist") from None
    except Unreadable as error:
        raise ConfigError(f"cannot read {what} {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def jsonl_rows(text: str, source: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the ``columns`` (non-empty strings) of the JSON object on each line; blank lines are skipped.

    Raises:
        ConfigError: a line is not such an object; names the line.
    """
    rows = []
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source} line {number} is not JSON ({error})") from None
        rows.append(_cells(row if isinstance(row, dict) else {}, columns, f"{source} line {number}"))
    return rows


def csv_rows(text: str, source: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the ``columns`` (non-empty) of each row of CSV ``text`` with a header; blank rows skipped.

    Raises:
        ConfigError: a column is missing, or a row has nothing in one; names the column or line.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        for column in columns:
            if column not in header:
                found = ", ".join(header) or "none"
                raise ConfigError(f"{source} has no column {column!r} (columns: {found}); add it to line 1")
        rows = []
        for row in reader:
            where = f"{source} line {reader.line_num}"
            if None in row:  # an unquoted comma would silently cut the prompt
                raise ConfigError(f"{where} has more cells than columns; put quotes round a text with commas")
            if any(value and value.strip() for value in row.values()):
                rows.append(_cells(row, columns, where))
        return rows
    except csv.Error as error:
        raise ConfigError(f"{source} line {reader.line_num} is not CSV ({error})") from None


def _cells(row: Mapping[str, object], columns: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Return the non-empty strings that ``row`` holds in ``columns``."""
    values = []
    for column in columns:
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{where} has no {column!r}; give it as a non-empty text")
        values.append(value)
    return tuple(values)


def _read_lines(text: str, source: Path) -> list[str]:
    lines = [normalise(line) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _read_jsonl(text: str, source: Path) -> list[str]:
    return [normalise(prompt) for (prompt,) in jsonl_rows(text, source, ("prompt",))]


def _read_csv(text: str, source: Path) -> list[str]:
    return [normalise(prompt) for (prompt,) in csv_rows(text, source, ("prompt",))]
