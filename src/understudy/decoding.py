"""Reading a video file of any kind in this process: what it is, and its frames.

Files of other people belong in the guarded process (`understudy.ingest.guard`), which runs this module under limits.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO, NoReturn

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from understudy.errors import ClipError, UnderstudyError

AGAIN = "fetch or export it again"
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof"}
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
_HDR_CURVES = (16, 18)  # SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG) in ITU-T H.273


@dataclass(frozen=True)
class Limits:
    """Bounds on one file; a file beyond one of them is refused with that reason.

    Attributes:
        file_bytes: size of the file.
        frames: number of frames.
        pixels: pixels W*H of one frame.
        result_bytes: size of the decoded frames handed back.
        memory_bytes: address space of the decoding process.
        seconds: time for one file by the clock, and as much again of processor time.
    """

    file_bytes: int = 2 << 30
    frames: int = 20_000
    pixels: int = 36_000_000
    result_bytes: int = 3 << 30
    memory_bytes: int = 6 << 30
    seconds: float = 120.0


@dataclass(frozen=True)
class Opened:
    """An open file.

    Attributes:
        container: PyAV's container.
        stream: its first video track.
        kind: FFmpeg's name of the container format.
        source: what to call it in an error message.
        size: bytes of the file.
        said: what FFmpeg logged since (level, part, text), where `listen` was called.
    """

    container: InputContainer
    stream: VideoStream
    kind: str
    source: str
    size: int
    said: list[tuple[int, str, str]] = field(default_factory=list)


def listen() -> None:
    """Have FFmpeg log its errors, so that what it decodes with complaints is refused: for the guarded process.

    Several decoders (VP9, FFV1, GIF) complain about damage, paint over it and go on, whatever they are told.
    """
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # "repeated 4 more times" would be said of the next file


def sniff(head: bytes, source: str) -> str:
    """Return FFmpeg's name of the container whose file starts with ``head`` (at least 400 bytes where there are).

    Only formats that hold one video and name no other file are known: a playlist or a script never gets to FFmpeg.

    Raises:
        ClipError: it is no video file.
    """
    if not head:
        raise ClipError(f"{source} is empty (0 bytes); {AGAIN}")
    if head[4:8] in _MP4_BOXES:
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


@contextmanager
def opened(file: BinaryIO, source: str, limits: Limits, mp4_only: bool = False) -> Iterator[Opened]:
    """Open a seekable ``file``; what FFmpeg raises inside the block becomes a `ClipError`.

    Args:
        file: the video file.
        source: what to call it in an error message.
        limits: what it may cost.
        mp4_only: refuse every other container.

    Raises:
        ClipError: it is no video, has no video track, is damaged or breaks a limit.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size > limits.file_bytes:
        raise ClipError(f"{source} is too large: {size} bytes, limit {limits.file_bytes}")
    head = file.read(512)
    if mp4_only and head and head[4:8] not in _MP4_BOXES:
        raise ClipError(f"{source} is not an mp4 file (it starts with {head[:8]!r}); convert it to mp4")
    kind = sniff(head, source)
    if kind == "mp4":
        _check_whole(file, size, source)
    if kind == "gif":
        _check_gif(file, source)
    if kind == "mpegts" and size % _TS_PACKET:
        raise ClipError(f"{source} is cut short: {size} bytes are no whole number of packets; {AGAIN}")
    file.seek(0)
    try:
        # Naming the format keeps FFmpeg from taking text or a picture for a video.
        with (
            av.logging.Capture() as said,
            av.open(file, "r", format=kind, io_open=_refuse_other_files) as container,
        ):
            if not container.streams.video:
                raise ClipError(f"{source} has no video track")
            stream = container.streams.video[0]
            context: VideoCodecContext | None = stream.codec_context  # None when FFmpeg has no decoder for it
            if context is None:
                raise ClipError(f"{source} has a video track that FFmpeg cannot decode; convert it to H.264")
            _check_pixels(context.width, context.height, source, limits)
            context.thread_count = 1
            # Damage has to be an error: FFmpeg would paint over it. A checksum in the stream is compared.
            context.options = {"err_detect": "crccheck+explode", "ec": "0", "max_pixels": str(limits.pixels)}
            yield Opened(container, stream, kind, source, size, said)
    except UnderstudyError:
        raise
    except MemoryError:
        raise ClipError(f"{source} needs more memory than the decoder may use; export it smaller") from None
    except (av.FFmpegError, ValueError, EOFError, OverflowError) as error:
        raise ClipError(f"{source} is damaged or cut short ({size} bytes: {reason(error)}); {AGAIN}") from None


def packets(video: Opened) -> Iterator[Packet]:
    """Yield the packets of the video track, the empty one that drains the decoder included."""
    for count, packet in enumerate(video.container.demux(video.stream)):
        if packet.is_corrupt:
            raise ClipError(f"{video.source} is cut short at frame {count}; {AGAIN}")
        yield packet


def frames(video: Opened, limits: Limits, source: Iterator[Packet] | None = None) -> Iterator[VideoFrame]:
    """Yield every frame, raising `ClipError` at damage, at a limit, or when fewer or more come than the file promises."""
    count, size = 0, None
    for packet in packets(video) if source is None else source:
        shown = packet.decode()
        if video.said:
            raise ClipError(f"{video.source} is damaged at frame {count} ({_words(video.said)}); {AGAIN}")
        for frame in shown:
            assert isinstance(frame, VideoFrame)
            if frame.is_corrupt:
                raise ClipError(f"{video.source} is damaged at frame {count}; {AGAIN}")
            shape = (frame.width, frame.height, frame.rotation)
            if size not in (None, shape):
                raise ClipError(f"{video.source} changes its frame size at frame {count}; export it again at one size")
            _check_pixels(frame.width, frame.height, video.source, limits)
            size = shape
            count += 1
            if count > limits.frames:
                raise ClipError(f"{video.source} has more than {limits.frames} frames; cut it into clips")
            yield frame
    if count == 0:
        raise ClipError(f"{video.source} has no frames")
    promised = promised_frames(video.stream, edited=video.kind == "mp4")
    if count < promised:
        raise ClipError(f"{video.source} is cut short: {count} of {promised} frames; {AGAIN}")
    if 0 < video.stream.frames < count:
        raise ClipError(f"{video.source} is damaged: {count} frames where it promises {video.stream.frames}; {AGAIN}")


def pixels(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """Return the frame as shown: uint8 [H, W, 3] RGB, upright, transparency laid over black."""
    if has_alpha(frame):
        rgba = frame.to_ndarray(format="rgba", threads=1)
        rgb = ((rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    else:
        rgb = np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
    return np.rot90(rgb, k=quarter_turns(frame))


def quarter_turns(frame: VideoFrame) -> int:
    """Return by how many quarter turns anticlockwise a player turns the frame, 0 to 3."""
    return round(frame.rotation / 90) % 4


def shown_size(frame: VideoFrame) -> tuple[int, int]:
    """Return (W, H) in pixels of the frame as a player shows it."""
    turned = quarter_turns(frame) % 2 == 1
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def has_alpha(frame: VideoFrame) -> bool:
    """Say whether the frame's pixels carry transparency."""
    return any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"


def is_hdr(frame: VideoFrame) -> bool:
    """Say whether the frame's brightness is coded by a high-dynamic-range curve."""
    return int(frame.color_trc) in _HDR_CURVES


def frame_rate(stream: VideoStream, times: Sequence[float | None], source: str) -> tuple[float, bool]:
    """Return (frames per second, whether they are unevenly spaced).

    Args:
        stream: the video track.
        times: when each frame is shown, in seconds.
        source: what to call the file in an error message.

    A rate is constant when every frame lies within a fifth of a frame of an even grid: containers round times.

    Raises:
        ClipError: nothing says the rate.
    """
    told = stream.average_rate or stream.guessed_rate or stream.base_rate
    rate = float(told) if told and told > 0 else 0.0
    known = np.array([math.nan if time is None else time for time in times], dtype=np.float64)
    if len(known) > 1 and np.isfinite(known).all() and (np.diff(known) > 0).all():
        measured = (len(known) - 1) / (known[-1] - known[0])
        tolerance = 0.2 / measured + (float(stream.time_base) if stream.time_base else 0.0)
        drift = known - known[0] - np.arange(len(known)) / measured
        if float(np.ptp(drift)) > 2 * tolerance:
            return float(measured), True
        # The file's own word is exact where the times are rounded; it is wrong where they plainly differ.
        rate = rate if abs(rate - measured) * len(known) < measured else float(measured)
    if not (math.isfinite(rate) and rate > 0):
        raise ClipError(f"{source} does not say its frame rate; export it again with a constant rate")
    return rate, False


def promised_frames(stream: VideoStream, edited: bool) -> int:
    """Return how many frames the file says it has; 0 when it does not say.

    Args:
        stream: the video track.
        edited: whether an edit list may trim the track: then the duration shrinks while the count does not.
    """
    counts = [stream.frames] if stream.frames else []
    if stream.average_rate:
        if stream.duration and stream.time_base:
            seconds = stream.duration * stream.time_base
        else:  # Matroska has a tag for each track
            seconds = _clock(stream.metadata.get("DURATION", ""))
        if seconds:
            counts.append(math.floor(seconds * stream.average_rate + Fraction(1, 2)))
    return min(counts, default=0) if edited else max(counts, default=0)


def _clock(text: str) -> Fraction:
    """Return the seconds of ``hh:mm:ss.fraction``; 0 when it is none."""
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", text)
    return Fraction(0) if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3])


def reason(error: Exception) -> str:
    """Return FFmpeg's own words for ``error``, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()).lower()


def _words(said: list[tuple[int, str, str]]) -> str:
    """Return FFmpeg's first complaint on one line."""
    return " ".join(said[0][2].split()).lower()[:120] or "the decoder complains"


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Keep a file from making FFmpeg open another one."""
    raise PermissionError(f"a video file may not open {url!r}")


def _check_pixels(width: int, height: int, source: str, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ClipError(f"{source} is too large: {width}x{height} pixels, limit {limits.pixels} a frame")


def _check_whole(file: BinaryIO, size: int, source: str) -> None:
    """Raise `ClipError` when the last top-level box of an mp4 runs past the end of the file."""
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
            return
        at += length
    if at > size:
        raise ClipError(f"{source} is cut short: {size} bytes of at least {at}; {AGAIN}")


def _check_gif(file: BinaryIO, source: str) -> None:
    """Raise `ClipError` unless a GIF is a whole chain of blocks that ends with the file (GIF89a, appendix A)."""
    file.seek(0)
    data = file.read()

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    at = 13 + table(data[10]) if len(data) > 13 else len(data)
    while at + 1 < len(data):
        if data[at] == 0x21:  # an extension: its kind, then sub-blocks
            at += 2
        elif data[at] == 0x2C and at + 10 < len(data):  # an image: its place, its colours, the code size
            at += 11 + table(data[at + 9])
        else:
            raise ClipError(f"{source} is damaged: byte {at} begins no block; {AGAIN}")
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    if at + 1 != len(data) or data[at] != 0x3B:
        raise ClipError(f"{source} is cut short: its end is missing; {AGAIN}")
