"""Finished clips: RGB frames at a steady rate, in and out of mp4.

Shape legend: T pixel frames, H/W pixels.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from understudy.errors import ClipError, UnderstudyError
from understudy.files import write_bytes_atomic
from understudy.mp4 import Frames, Mp4Encoder

_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof"}


@dataclass(frozen=True, eq=False)
class Clip:
    """A finished clip.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB in 0..255, with T, H and W at least 1.
        fps: frames per second, above 0; frame k is shown at ``k / fps`` seconds.

    Raises:
        ClipError: on construction, when a field is not as described.
    """

    frames: Frames
    fps: float

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ClipError(f"clip frames must be a uint8 array, got {kind}; scale to 0..255 and convert first")
        if frames.ndim != 4 or frames.shape[3] != 3:
            raise ClipError(f"clip frames must be [T, H, W, 3], got shape {list(frames.shape)}")
        if 0 in frames.shape:
            raise ClipError(f"a clip needs at least one frame of one pixel, got shape {list(frames.shape)}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ClipError(f"clip fps must be a number above 0, got {self.fps}")

    @property
    def length(self) -> int:
        """T, the number of frames."""
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """H in pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """W in pixels."""
        return int(self.frames.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.height, self.width

    @property
    def seconds(self) -> float:
        """How long the clip plays."""
        return self.length / self.fps


@dataclass(frozen=True)
class Limits:
    """How much is decoded of bytes from strangers: a small file can unfold into gigabytes.

    Attributes:
        frames: what comes after so many is left out.
        pixels: H times W; more is an error.
    """

    frames: int = 512
    pixels: int = 4096 * 2304


def encode_mp4(clip: Clip, crf: float = 8) -> bytes:
    """Return ``clip`` as H.264 in mp4, with full-resolution colour (4:4:4), so odd sizes are exact.

    The same clip gives the same bytes on one build of the libraries.

    Args:
        clip: what to write.
        crf: 0 (finest) to 51 (smallest); 8 keeps a mean error below one of the 256 levels.

    Raises:
        ClipError: the encoder refuses the clip.
    """
    encoder = Mp4Encoder(clip.height, clip.width, clip.fps, crf)
    encoder.push(clip.frames)
    return encoder.finish()


def decode_mp4(data: bytes, source: str = "clip", limits: Limits | None = None) -> Clip:
    """Decode the first video track of an mp4; sound is dropped.

    The frames are taken to be evenly spaced at the track's average rate. Colours follow the file's tags; an
    untagged file is read as BT.601, which is what writers built on FFmpeg put there.

    Args:
        data: the whole file.
        source: what to call it in an error message.
        limits: for bytes from strangers; None trusts the file.

    Raises:
        ClipError: not an mp4, empty, cut short, damaged, past the limits, or without a single frame.
    """
    frames: list[Frames] = []
    with _opened(data, source) as (container, stream):
        if limits is not None and stream.width * stream.height > limits.pixels:
            raise ClipError(f"{source} is {stream.width}x{stream.height}; give at most {limits.pixels} pixels a frame")
        for frame in _frames(container, stream, source):
            pixels = frame.to_ndarray(format="rgb24", threads=1)
            frames.append(np.rot90(pixels, k=round(frame.rotation / 90) % 4))
            if limits is not None and len(frames) == limits.frames:
                break
        return Clip(np.stack(frames), _rate(stream, source))


def decode_image(data: bytes, source: str = "image", limits: Limits | None = None) -> Frames:
    """Return a PNG, JPEG or WebP picture as one frame, uint8 [1, H, W, 3], turned as its Exif tag says.

    Raises:
        ClipError: it is none of these, damaged, or past the limits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            if width * height > (limits or Limits()).pixels:
                raise ClipError(
                    f"{source} is {width}x{height}; give at most {(limits or Limits()).pixels} pixels a frame"
                )
            return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)[None]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ClipError(f"{source} is no whole PNG, JPEG or WebP picture ({reason}); export it again") from None


def probe(data: bytes, source: str = "clip") -> dict[str, int | float | str | bool]:
    """Decode an mp4 and say what arrived, whatever was asked for.

    Returns:
        ``frames``, ``fps``, ``width``, ``height`` (as shown, after any rotation), ``codec``, ``pixel_format``
        and ``audio`` (whether it has sound).

    Raises:
        ClipError: as `decode_mp4`.
    """
    with _opened(data, source) as (container, stream):
        count, width, height = 0, 0, 0
        for frame in _frames(container, stream, source):
            turned = round(frame.rotation / 90) % 2 == 1
            width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
            count += 1
        return {
            "frames": count,
            "fps": _rate(stream, source),
            "width": width,
            "height": height,
            "codec": stream.codec_context.name,
            "pixel_format": str(stream.codec_context.pix_fmt),
            "audio": bool(container.streams.audio),
        }


def write_mp4(path: str | Path, clip: Clip, crf: float = 8) -> None:
    """Write ``clip`` to ``path`` as mp4, whole or not at all; see `encode_mp4`.

    Raises:
        UnderstudyError: the file cannot be written.
    """
    write_bytes_atomic(path, encode_mp4(clip, crf))


def read_mp4(path: str | Path) -> Clip:
    """Read the mp4 file ``path``; see `decode_mp4`.

    Raises:
        ClipError: the file is missing, unreadable or not a whole mp4.
    """
    return decode_mp4(read_file(path), str(path))


def read_file(path: str | Path) -> bytes:
    """Return the bytes of the clip file ``path``, undecoded.

    Raises:
        ClipError: the file is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ClipError(f"clip {path} does not exist") from None
    except OSError as error:
        raise ClipError(f"cannot read clip {path}: {(error.strerror or str(error)).lower()}") from None


def resample(clip: Clip, fps: float, frames: int, size: tuple[int, int] | None = None) -> Clip:
    """Return the first ``frames / fps`` seconds of ``clip`` at another rate and size.

    Frame k is the source frame nearest to time ``k / fps``. Pixels are resized with antialiasing, each axis
    on its own, so another aspect ratio stretches the picture.

    Args:
        clip: the source.
        fps: wanted frames per second, above 0.
        frames: wanted number of frames, at least 1.
        size: wanted (H, W) in pixels; None keeps the source's.

    Raises:
        ClipError: an argument is out of range, or the last wanted time lies more than half a source frame
            after the source's last frame.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ClipError(f"cannot resample to {fps} fps; give a number above 0")
    if frames < 1:
        raise ClipError(f"cannot resample to {frames} frames; give at least 1")
    height, width = clip.size if size is None else size
    if height < 1 or width < 1:
        raise ClipError(f"cannot resample to {width}x{height} pixels; give at least 1x1")
    positions = np.arange(frames) * (clip.fps / fps)
    if positions[-1] > clip.length - 0.5 + 1e-6:
        raise ClipError(
            f"clip is too short: {frames} frames at {fps:g} fps need {(frames - 1) / fps:.3f} s, but its "
            f"last frame is at {(clip.length - 1) / clip.fps:.3f} s; ask for fewer frames or a higher rate"
        )
    # Rounding halves up rather than to even keeps a doubled rate evenly spaced.
    index = np.minimum(np.floor(positions + 0.5 + 1e-9).astype(np.int64), clip.length - 1)
    if (height, width) == clip.size:
        return Clip(clip.frames[index], fps)
    kept, back = np.unique(index, return_inverse=True)  # resize a repeated frame once
    resized = np.stack([_resize(clip.frames[i], height, width) for i in kept])
    return Clip(resized[back], fps)


def _resize(pixels: Frames, height: int, width: int) -> Frames:
    """Resize one frame uint8 [H, W, 3] to [height, width, 3]."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0:
        # The exact area mean: no ringing at edges.
        image = image.reduce((pixels.shape[1] // width, pixels.shape[0] // height))
    else:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.array(image, dtype=np.uint8)


def _rate(stream: VideoStream, source: str) -> float:
    """Return the frames per second of ``stream``."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate <= 0:
        raise ClipError(f"{source} does not say its frame rate; export it again with a constant rate")
    return float(rate)


@contextmanager
def _opened(data: bytes, source: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open ``data`` as mp4; what FFmpeg raises inside the block becomes a `ClipError`."""
    if not data:
        raise ClipError(f"{source} is empty (0 bytes); fetch or export it again")
    if data[4:8] not in _MP4_BOXES:
        raise ClipError(f"{source} is not an mp4 file (it starts with {data[:8]!r}); convert it to mp4")
    _check_whole(data, source)
    try:
        # Naming the format keeps FFmpeg from taking text or a picture for a video.
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            if not container.streams.video:
                raise ClipError(f"{source} has no video track")
            stream = container.streams.video[0]
            context: VideoCodecContext | None = stream.codec_context  # None when FFmpeg has no decoder for it
            if context is None:
                raise ClipError(f"{source} has a video track that FFmpeg cannot decode; convert it to H.264")
            context.thread_count = 1
            yield container, stream
    except UnderstudyError:
        raise
    except (av.FFmpegError, ValueError, EOFError) as error:
        reason = f"{len(data)} bytes: {_reason(error)}"
        raise ClipError(f"{source} is damaged or cut short ({reason}); fetch or export it again") from None


def _check_whole(data: bytes, source: str) -> None:
    """Raise `ClipError` when the last top-level box of an mp4 runs past the end of the file."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:  # a 64-bit size follows
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8 or not kind.isalnum():  # the last box (size 0), or padding that players ignore as well
            return
        at += size
    if at > len(data):
        raise ClipError(f"{source} is cut short: {len(data)} bytes of at least {at}; fetch or export it again")


def _frames(container: InputContainer, stream: VideoStream, source: str) -> Iterator[VideoFrame]:
    """Yield every frame of ``stream``, raising `ClipError` when fewer come than the file promises."""
    count = 0
    size: tuple[int, int, int] | None = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ClipError(f"{source} is cut short at frame {count}; fetch or export it again")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise ClipError(f"{source} is damaged at frame {count}; fetch or export it again")
            shape = (frame.width, frame.height, frame.rotation)
            if size not in (None, shape):
                raise ClipError(f"{source} changes its frame size at frame {count}; export it again at one size")
            size = shape
            count += 1
            yield frame
    if count == 0:
        raise ClipError(f"{source} has no frames")
    promised = _promised(stream)
    if count < promised:
        raise ClipError(f"{source} is cut short: {count} of {promised} frames; fetch or export it again")


def _promised(stream: VideoStream) -> int:
    """Return how many frames the file says it has; 0 when it does not say."""
    # An edit list may trim the track: then the duration shrinks while the count does not.
    counts = [stream.frames] if stream.frames else []
    if stream.duration and stream.time_base and stream.average_rate:
        counts.append(math.floor(stream.duration * stream.time_base * stream.average_rate + Fraction(1, 2)))
    return min(counts, default=0)


def _reason(error: Exception) -> str:
    """Return FFmpeg's own words for ``error``, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()).lower()
