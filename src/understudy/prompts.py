"""Prompts: one spelling per prompt, a short identity, the files they are read from; text from outside is cleaned."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import ConfigError
from understudy.files import sha256_hex

_DEEPEST = 100


def clean(text: str) -> str:
    """Return ``text`` with halves of surrogate pairs, which no file can hold, replaced; whole pairs are joined."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def read_json(text: str | bytes) -> Any:
    """Return the JSON value in ``text`` with every string cleaned (see `clean`).

    Raises:
        ValueError: it is no JSON, or is nested more than a hundred deep.
    """
    try:
        return _cleaned(json.loads(text), 0)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _cleaned(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {clean(name): _cleaned(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value]
    return value


def normalise(text: str) -> str:
    """Return ``text`` cleaned and stripped, with every run of white space as one space."""
    return " ".join(clean(text).split())


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


def read_text(path: Path, what: str) -> str:
    """Return the UTF-8 text of ``path`` (a byte-order mark is dropped); ``what`` names it in errors.

    Raises:
        ConfigError: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {(error.strerror or str(error)).lower()}") from None
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
            row = read_json(line)
        except ValueError as error:
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
