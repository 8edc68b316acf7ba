"""What a file's container is, by its first bytes, and what it really promises about its own size and frames.

A promise is a number that the format makes exact: a box's or chunk's size, the table of an mp4's samples, the blocks of a
GIF. A duration times an average rate is none: it is wrong in intact files of a varying rate, with sound, or trimmed.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO, Final

from av.container import InputContainer
from av.video.stream import VideoStream

from understudy.errors import ClipError

AGAIN: Final = "fetch or export it again"
MISSING: Final = 0.1
"""Share of its announced length that a file may lack before it counts as cut short, where nothing exact is promised."""

MP4_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof"})
_MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"OggS", "ogg"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"DKIF", "ivf"),
    (0, b"YUV4MPEG2 ", "yuv4mpegpipe"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
)
_NO_VIDEO = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"ID3", "an MP3 sound file"),
)
_MAX_BOXES = 100_000  # beyond any clip; a file of empty boxes would keep the reader busy
_TS_PACKET = 188
_SEGMENT = b"\x18\x53\x80\x67"


def sniff(head: bytes, source: str) -> str:
    """Return FFmpeg's name of the container whose file starts with ``head`` (at least 400 bytes where there are).

    Only formats that hold one video and name no other file are known: a playlist or a script never gets to FFmpeg.

    Raises:
        ClipError: it is no video file.
    """
    if not head:
        raise ClipError(f"{source} is empty (0 bytes); {AGAIN}")
    if head[4:8] in MP4_BOXES:
        return "mp4"
    for at, magic, kind in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind
    if head[0] == 0x47 and head[188:189] == b"\x47" and head[376:377] in (b"\x47", b""):
        return "mpegts"
    for magic, what in _NO_VIDEO:
        if head.startswith(magic):
            raise ClipError(f"{source} is not a video file but {what}; give the video itself")
    raise ClipError(f"{source} is not a video file (it starts with {head[:12]!r}); convert it to mp4")


def check_whole(file: BinaryIO, kind: str, size: int, source: str) -> int:
    """Raise `ClipError` when the file of ``size`` bytes is shorter than its own structure says.

    Returns:
        How many frames that structure holds, where walking it tells (a GIF's); else 0.
    """
    if kind == "gif":
        return _gif_frames(file, source)
    if kind == "mpegts" and size % _TS_PACKET:
        raise ClipError(f"{source} is cut short: {size} bytes are no whole number of packets; {AGAIN}")
    end = {"mp4": _end_of_boxes, "avi": _end_of_riff, "matroska": _end_of_segment}.get(kind)
    if end is not None and (least := end(file, size)) > size:
        raise ClipError(f"{source} is cut short: {size} bytes of at least {least}; {AGAIN}")
    return 0


def promised_frames(stream: VideoStream, kind: str) -> int:
    """Return how many frames an mp4's tables hold, those that its edit list trims left out; 0 for other containers.

    Of a fragmented file the tables are complete once it was read to its end.
    """
    if kind != "mp4":
        return 0
    entries = list(stream.index_entries)
    outside = sum(entry.is_discard for entry in entries)
    if not outside:
        return len(entries)
    # An edit list that trims makes the track shorter than its media; else damaged times moved frames out of it.
    lengths = [after.timestamp - entry.timestamp for entry, after in pairwise(entries)]
    lengths.append(sorted(lengths)[len(lengths) // 2] if lengths else 0)
    trimmed = sum(length for length, entry in zip(lengths, entries, strict=True) if entry.is_discard)
    return len(entries) - (outside if sum(lengths) - (stream.duration or 0) > trimmed / 2 else 0)


def announced_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return how long the header says that the video track plays: an estimate, not a promise; 0 when it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if seconds := _clock(stream.metadata.get("DURATION", "")):  # Matroska has a tag for each track
        return float(seconds)
    alone = len(container.streams) == 1  # else it may be the sound that goes on
    return container.duration / 1e6 if alone and container.duration else 0.0


def played_seconds(times: Sequence[float | None], last: float, kind: str) -> float:
    """Return when the last frame ends, on the clock of `announced_seconds`; infinity when frames have no times.

    Args:
        times: when each frame is shown, in seconds.
        last: how long the last one is shown; 0 when nothing says: then as long as the frames before it.
        kind: the container; Matroska counts from 0, others from the first frame.
    """
    known = [time for time in times if time is not None]
    if len(known) < len(times) or not known:
        return float("inf")
    steady = (known[-1] - known[0]) / (len(known) - 1) if len(known) > 1 else 0.0
    return known[-1] + (last or steady) - (0.0 if kind == "matroska" else known[0])


def _clock(text: str) -> Fraction:
    """Return the seconds of ``hh:mm:ss.fraction``; 0 when it is none."""
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", text)
    return Fraction(0) if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3])


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return where the last top-level box of an mp4 ends (ISO 14496-12, 4.2)."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # a 64-bit size follows
            length = int.from_bytes(head[8:], "big")
        if length < 8 or not kind.isalnum():  # the last box (size 0), or padding that players ignore as well
            return at
        at += length
    return at


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF list of an AVI ends; large files have several (OpenDML)."""
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:4] != b"RIFF" or length in (0, 2**32 - 1):  # a writer that could not go back
            break
        at += 8 + length
    return at


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Return where a Matroska file's segment ends (RFC 8794 and 9559); 0 when its writer did not know."""
    at = 0
    for _ in range(8):  # the header, the segment, fillers between them
        file.seek(at)
        head = file.read(16)
        if len(head) < 12:
            break
        name = 9 - head[0].bit_length()  # bytes of the element's name: its leading zero bits plus one
        width = 9 - head[name].bit_length() if name <= 4 else 9  # and of its size
        if width > 8:
            break
        value = int.from_bytes(head[name : name + width], "big") & ((1 << 7 * width) - 1)
        if head[:4] == _SEGMENT:
            return 0 if value == (1 << 7 * width) - 1 else at + name + width + value
        at += name + width + value
    return 0


def _gif_frames(file: BinaryIO, source: str) -> int:
    """Return how many images a GIF holds; it has to be a whole chain of blocks that ends with the file (GIF89a, A)."""
    file.seek(0)
    data = file.read()
    count = 0

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    at = 13 + table(data[10]) if len(data) > 13 else len(data)
    while at + 1 < len(data):
        if data[at] == 0x21:  # an extension: its kind, then sub-blocks
            at += 2
        elif data[at] == 0x2C and at + 10 < len(data):  # an image: its place, its colours, the code size
            at += 11 + table(data[at + 9])
            count += 1
        else:
            raise ClipError(f"{source} is damaged: byte {at} begins no block; {AGAIN}")
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    if at + 1 != len(data) or data[at] != 0x3B:
        raise ClipError(f"{source} is cut short: its end is missing; {AGAIN}")
    return count
