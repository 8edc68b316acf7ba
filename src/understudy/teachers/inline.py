"""Clips that come inside an answer: ``data:`` addresses and base64 in a field of the JSON."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from understudy.errors import ClipError, ClipRefused

_LEAST = 64  # characters below which no text is a clip
_PIECE = 1 << 22  # characters decoded at a time; a multiple of four
_URLSAFE = str.maketrans("-_", "+/")
_HEAD = re.compile(r"[A-Za-z0-9+/_-]{48}")
_MAGICS = (b"\x1aE\xdf\xa3", b"RIFF", b"GIF8", b"FLV\x01", b"OggS")


def find_clip(data: Any) -> str:
    """Return the clip that lies in the JSON value ``data`` as a ``data:`` address, or nothing."""
    for text in _texts(data):
        if text[:11].lower() == "data:video/":
            return text
        if _is_video(text):
            return f"data:video/mp4;base64,{text}"
    return ""


def save_clip(address: str, path: Path, most: int) -> None:
    """Write the clip in the ``data:`` address to the file ``path``.

    Raises:
        ClipRefused: it has more than ``most`` bytes.
        ClipError: it is not what it says.
        OSError: the file cannot be written.
    """
    head, comma, _ = address[:1000].partition(",")
    if not comma:
        raise ClipError("the clip's data: address holds no data")
    begin, encoded = len(head) + 1, head.lower().rstrip().endswith(";base64")
    if (len(address) - begin) * (3 if encoded else 1) > most * 4:
        raise ClipRefused(f"the clip is larger than {most >> 20} MiB (teacher.max_megabytes)")
    if not encoded:
        data = unquote_to_bytes(address[begin:])
        if len(data) > most:
            raise ClipRefused(f"the clip is larger than {most >> 20} MiB (teacher.max_megabytes)")
        path.write_bytes(data)
        return
    kept = ""
    with open(path, "wb") as file:
        for at in range(begin, len(address), _PIECE):
            piece = kept + "".join(address[at : at + _PIECE].split()).translate(_URLSAFE)
            whole = len(piece) // 4 * 4
            kept = piece[whole:]
            _write(file, piece[:whole])
        _write(file, kept + "=" * (-len(kept) % 4))


def _write(file: Any, piece: str) -> None:
    try:
        file.write(base64.b64decode(piece, validate=True))
    except (binascii.Error, ValueError):
        raise ClipError("the clip inside the answer is no base64") from None


def _texts(data: Any) -> Iterator[str]:
    """Yield the long texts in ``data``, outermost first."""
    level = [data]
    while level:
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, str) and len(value) >= _LEAST:
                yield value
            elif isinstance(value, dict):
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        level = deeper


def _is_video(text: str) -> bool:
    """Say whether ``text`` begins as the base64 of a video file does."""
    if not _HEAD.match(text):
        return False
    head = base64.b64decode(text[:48].translate(_URLSAFE))
    return head[4:8] == b"ftyp" or head.startswith(_MAGICS)
