"""Text files and tables, whoever wrote them: lines that end where lines end, rows of CSV, TSV, JSON lines and JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from understudy.errors import ConfigError
from understudy.reading import TEXT_BYTES, Unreadable, read_limited

_DEEPEST: Final = 100


def mended(text: str) -> str:
    """Return ``text`` with halves of surrogate pairs, which no file can hold, replaced; whole pairs are joined."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def read_json(text: str | bytes) -> Any:
    """Return the JSON value in ``text``, from whoever it comes, with every string `mended`.

    Raises:
        ValueError: it is no JSON, or is nested more than a hundred deep.
    """
    try:
        return _mended(json.loads(text), 0)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _mended(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mended(value)
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {mended(name): _mended(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item, depth + 1) for item in value]
    return value


def read_text(path: Path, what: str, limit: int = TEXT_BYTES) -> str:
    """Return the UTF-8 text of ``path`` (a byte-order mark is dropped); ``what`` names it in errors.

    Raises:
        ConfigError: it is missing, unreadable, no regular file, larger than ``limit`` bytes or not UTF-8.
    """
    try:
        # Bytes: a file opened as text turns every \r into an end of line.
        return read_limited(path, limit).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist") from None
    except Unreadable as error:
        raise ConfigError(f"cannot read {what} {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_lines(source: Path, what: str) -> list[tuple[str, str]]:
    r"""Return (where, line) of every line of a text file; lines end at ``\n`` or ``\r\n``, never at U+2028 or its like.

    Raises:
        ConfigError: as `read_text`, or a carriage return stands alone (names the line).
    """
    lines = []
    for number, line in enumerate(read_text(source, what).split("\n"), start=1):
        where, line = f"{source} line {number}", line.removesuffix("\r")
        if "\r" in line:
            raise ConfigError(f"{where} holds a carriage return alone; save the file with line ends \\n or \\r\\n")
        lines.append((where, line))
    return lines


TABLES: Final = (".csv", ".tsv", ".jsonl", ".json")
"""Suffixes that `read_table` knows."""

_SEVERAL: Final = ("caption", "cap")  # where other trainers hold several texts for one clip

Row = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Attributes:
        columns: names that its header or its rows give, in lower case.
        rows: (where it stands, values by column) of each row that is not blank.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, Row], ...]

    def has(self, names: tuple[str, ...]) -> bool:
        """Return whether one of ``names`` is a column."""
        return any(name in self.columns for name in names)


def read_table(source: Path, what: str, wanted: tuple[tuple[str, ...], ...]) -> Table:
    """Read a table; of every group of names in ``wanted`` it has to have one column.

    Raises:
        ConfigError: it is missing, malformed (names the line), or has no column of a group.
    """
    text, suffix = read_text(source, what), source.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = _csv(text, source, "\t" if suffix == ".tsv" else ",")
    else:
        found = _json_lines(text, source) if suffix == ".jsonl" else _json_list(text, source)
        rows = [(where, _lower(row)) for where, row in found]
        table = Table(tuple(dict.fromkeys(key for _, row in rows for key in row)), tuple(rows))
    for names in wanted:
        if not table.has(names) and (table.rows or suffix in (".csv", ".tsv")):
            columns = ", ".join(table.columns[:12]) or "none"
            raise ConfigError(
                f"{source} has no column {names[0]!r}, nor one of {', '.join(names[1:])} (columns: {columns}); add one"
            )
    return table


def read_object(source: Path, what: str) -> Row:
    """Return the one JSON object in ``source``, its names in lower case.

    Raises:
        ConfigError: it is missing or no JSON object.
    """
    return _lower(_object(_parsed(read_text(source, what), str(source)), str(source)))


def cell(row: Row, names: tuple[str, ...]) -> str:
    """Return what ``row`` holds under the first of ``names`` that has a text (of several captions the first), or nothing."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and name in _SEVERAL:
            value = next((item for item in value if isinstance(item, str) and item.strip()), None)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _lower(row: Row) -> Row:
    return {str(name).strip().lower(): value for name, value in row.items()}


def _json_lines(text: str, source: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines(): JSON strings may hold U+2028
        if line.strip():
            where = f"{source} line {number}"
            yield where, _object(_parsed(line, where), where)


def _json_list(text: str, source: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a list of objects or texts, also below ``data``; of an object of texts, (file, prompt) pairs."""
    value = _parsed(text, str(source))
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        pairs = value.items()
        value = [{"file": name, **(told if isinstance(told, dict) else {"caption": told})} for name, told in pairs]
    if not isinstance(value, list):
        raise ConfigError(f"{source} is neither a list nor an object; write a list of objects with a prompt each")
    for number, item in enumerate(value, start=1):
        where = f"{source} entry {number}"
        yield where, {"prompt": item} if isinstance(item, str) else _object(item, where)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error})") from None


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} has no 'prompt': it is no JSON object")
    return value


def _csv(text: str, source: Path, delimiter: str) -> Table:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = tuple(name.strip().lower() for name in reader.fieldnames or [])
        reader.fieldnames = list(header)
        rows = []
        for row in reader:
            where = f"{source} line {reader.line_num}"
            if None in row:  # an unquoted comma would silently cut the prompt
                raise ConfigError(f"{where} has more cells than columns; put quotes round a text with commas")
            if any(value and value.strip() for value in row.values()):
                rows.append((where, row))
        return Table(header, tuple(rows))
    except csv.Error as error:
        raise ConfigError(f"{source} line {reader.line_num} is not CSV ({error})") from None
