"""Answers of services as text and JSON, decoded and cleaned once, whatever they claim to be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from json import detect_encoding
from typing import Any

from understudy.tables import mended, read_json


@dataclass(frozen=True)
class Reply:
    """An answer: its status and its JSON, or the text that came instead (then ``data`` is None)."""

    status: int
    data: Any
    text: str

    @classmethod
    def read(cls, status: int, text: str) -> "Reply":
        """Return the answer with this status and text."""
        try:
            return cls(status, read_json(text), text)
        except ValueError:
            return cls(status, None, mended(text))

    @property
    def reason(self) -> str:
        """What it says is wrong, on one short line."""
        said = self.data
        for name in ("error", "detail", "message"):
            if isinstance(said, Mapping) and said.get(name):
                said = said[name]
        if isinstance(said, list) and said and all(isinstance(e, Mapping) and "loc" in e and "msg" in e for e in said):
            said = "; ".join(f"{_path(entry['loc'])}: {entry['msg']}" for entry in said[:4])
        return one_line(said or self.text)


def one_line(said: object, most: int = 300) -> str:
    """Return what a service said as one short line without control characters."""
    text = mended(str(said)[: 4 * most])
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]


def _path(where: object) -> str:
    return ".".join(str(part) for part in where[-4:]) if isinstance(where, list) else str(where)


def decode(body: bytes, kind: str) -> str:
    """Return ``body`` as text: in the encoding that its type names, or else the one it looks like."""
    named = re.search(r"charset=[\"']?([\w.:-]{1,40})", kind, re.IGNORECASE)
    for encoding in (named[1] if named else "", detect_encoding(body[:4]) if body else ""):
        try:
            if encoding:
                return body.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
        except (LookupError, ValueError):  # no such encoding, or it is another
            continue
    return body.decode("utf-8-sig", "replace")
