"""Reading a video file of any kind in this process: what it is, and its frames.

Files of other people belong in the guarded process (`understudy.video.ingest.guard`), which runs this module under limits.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from understudy.errors import ClipError, UnderstudyError
from understudy.video.containers import (
    AGAIN,
    MISSING,
    MP4_BOXES,
    announced_seconds,
    check_whole,
    played_seconds,
    promised_frames,
    sniff,
)
from understudy.video.display import Display, display_of


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
        stream: the video track: of several the one that a player takes, never an attached picture.
        kind: FFmpeg's name of the container format.
        source: what to call it in an error message.
        size: bytes of the file.
        holds: frames that the file's structure holds, where that is known before it is read; else 0.
        announced: seconds that its header says it plays; 0 when it does not say.
        said: what FFmpeg logged since (level, part, text), where `listen` was called.
    """

    container: InputContainer
    stream: VideoStream
    kind: str
    source: str
    size: int
    holds: int
    announced: float
    said: list[tuple[int, str, str]] = field(default_factory=list)


def listen() -> None:
    """Have FFmpeg log its errors, so that what it decodes with complaints is refused: for the guarded process.

    Several decoders (VP9, FFV1, GIF) complain about damage, paint over it and go on, whatever they are told.
    """
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # "repeated 4 more times" would be said of the next file


def check_size(file: BinaryIO, source: str, limits: Limits) -> int:
    """Return the bytes of ``file``; ClipError when they are more than it may have, before any of them is read."""
    size = file.seek(0, 2)
    if size > limits.file_bytes:
        raise ClipError(f"{source} is too large: {size} bytes, limit {limits.file_bytes}")
    return size


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
    size = check_size(file, source, limits)
    file.seek(0)
    head = file.read(512)
    if mp4_only and head and head[4:8] not in MP4_BOXES:
        raise ClipError(f"{source} is not an mp4 file (it starts with {head[:8]!r}); convert it to mp4")
    kind = sniff(head, source)
    holds = check_whole(file, kind, size, source)
    file.seek(0)
    try:
        # Naming the format keeps FFmpeg from taking text or a picture for a video.
        with (
            av.logging.Capture() as said,
            av.open(file, "r", format=kind, io_open=_refuse_other_files) as container,
        ):
            stream = _film(container, source)
            context: VideoCodecContext | None = stream.codec_context  # None when FFmpeg has no decoder for it
            if context is None:
                raise ClipError(f"{source} has a video track that FFmpeg cannot decode; convert it to H.264")
            _check_pixels(context.width, context.height, source, limits)
            context.thread_count = 1
            # Damage has to be an error: FFmpeg would paint over it. A checksum in the stream is compared. Concealment
            # stays on: without it an intact picture of several slices is called corrupt, and less damage is noticed.
            context.options = {"err_detect": "crccheck+explode", "max_pixels": str(limits.pixels)}
            yield Opened(container, stream, kind, source, size, holds, announced_seconds(container, stream), said)
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


def frames(
    video: Opened, limits: Limits, source: Iterator[Packet] | None = None
) -> Iterator[tuple[VideoFrame, Display]]:
    """Yield every frame and how it is shown.

    Raises:
        ClipError: damage, a limit, or fewer or more frames than the file promises.
    """
    times: list[float | None] = []
    asked: list[int | None] = []  # when the packets that are to be shown are
    last, size, key, first = 0.0, None, None, None
    for packet in packets(video) if source is None else source:
        if packet.is_keyframe and key is None:
            key = packet.pts
        if packet.size and not packet.is_discard:
            asked.append(packet.pts)
        for frame in _decoded(video, packet, len(times), key):
            display = display_of(frame, video.stream, video.source)
            shape = (frame.width, frame.height, display)
            if size not in (None, shape):
                raise ClipError(
                    f"{video.source} changes its frame size at frame {len(times)}; export it again at one size"
                )
            high, wide = display.size(frame)
            _check_pixels(wide, high, video.source, limits)
            size = shape
            times.append(frame.time)
            last = seconds_of(frame)
            first = frame.pts if len(times) == 1 else first
            if len(times) > limits.frames:
                raise ClipError(f"{video.source} has more than {limits.frames} frames; cut it into clips")
            yield frame, display
    if not times:
        raise ClipError(f"{video.source} has no frames")
    left_out = 0 if first is None else sum(pts is not None and pts < first for pts in asked)
    _check_promises(video, times, last, left_out)


def _decoded(video: Opened, packet: Packet, count: int, key: int | None) -> list[VideoFrame]:
    """Return the frames that come out with ``packet``, ``count`` after the first.

    What is to be shown before the first key picture, at time ``key``, leans on pictures that are not in the file (an open
    group that was cut): players leave it out, and it is no damage.
    """
    leads = key is not None and packet.pts is not None and packet.pts < key
    try:
        shown = packet.decode()
    except av.InvalidDataError:
        if not leads:
            raise
        shown = []
    if leads:
        video.said.clear()
    if video.said:
        raise ClipError(f"{video.source} is damaged at frame {count} ({_words(video.said)}); {AGAIN}")
    found = [frame for frame in shown if isinstance(frame, VideoFrame)]
    found = [frame for frame in found if key is None or frame.pts is None or frame.pts >= key]
    if any(frame.is_corrupt for frame in found):
        raise ClipError(f"{video.source} is damaged at frame {count}; {AGAIN}")
    return found


def _check_promises(video: Opened, times: Sequence[float | None], last: float, left_out: int) -> None:
    """Raise `ClipError` unless as many frames came as the container promises, those that players leave out aside."""
    count, promised = len(times) + left_out, video.holds or promised_frames(video.stream, video.kind)
    if count < promised:
        raise ClipError(f"{video.source} is cut short: {count} of {promised} frames; {AGAIN}")
    most = promised or video.stream.frames
    if 0 < most < len(times):
        raise ClipError(f"{video.source} is damaged: {len(times)} frames where it promises {most}; {AGAIN}")
    played = played_seconds(times, last, video.kind)
    if not promised and played < (1 - MISSING) * video.announced:
        raise ClipError(f"{video.source} is cut short: it ends at {played:.2f} s of {video.announced:.2f} s; {AGAIN}")


def _film(container: InputContainer, source: str) -> VideoStream:
    """Return the video track that a player takes."""
    if not container.streams.video:
        raise ClipError(f"{source} has no video track")
    best = container.streams.best("video")
    if not isinstance(best, VideoStream) or Disposition.attached_pic in best.disposition:
        raise ClipError(f"{source} holds a picture but no video track")
    return best


def seconds_of(frame: VideoFrame) -> float:
    """Return how long the file says a frame is shown; 0 when it does not say."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0


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
        tick = float(stream.time_base or 0)
        tolerance = 0.2 / measured + (
            tick if tick < 0.5 / measured else 0.0
        )  # a tick as long as a frame rounds nothing
        drift = known - known[0] - np.arange(len(known)) / measured
        if float(np.ptp(drift)) > 2 * tolerance:
            return float(measured), True
        # The file's own word is exact where the times are rounded; it is wrong where they plainly differ.
        rate = rate if abs(rate - measured) * len(known) < measured else float(measured)
    if not (math.isfinite(rate) and rate > 0):
        raise ClipError(f"{source} does not say its frame rate; export it again with a constant rate")
    return rate, False


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
