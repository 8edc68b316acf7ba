"""Finished clips: RGB frames at a steady rate, in and out of mp4, at other sizes and rates, and their fine detail.

Shape legend: T pixel frames, H/W pixels.
"""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from understudy.errors import ClipError
from understudy.files import write_bytes_atomic
from understudy.reading import Unreadable, read_limited
from understudy.video import decoding
from understudy.video.decoding import Limits
from understudy.video.display import pixels
from understudy.video.mp4 import Frames, Mp4Encoder


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

    def save(self, path: str | Path, crf: float = 8) -> Path:
        """Write the clip as an mp4 file and return its path; see ``write_mp4``."""
        write_mp4(path, self, crf)
        return Path(path)

    def _repr_html_(self) -> str:
        """Return a player, for notebooks."""
        data = base64.b64encode(encode_mp4(self)).decode("ascii")
        side = max(1, round(256 / self.height))
        size = f'width="{self.width * side}" height="{self.height * side}"'
        return f'<video controls loop autoplay muted {size} src="data:video/mp4;base64,{data}"></video>'

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
class ClipForm:
    """A form of clips, uint8 [T, H, W, 3]: H and W in pixels, frames per second, T frames; a student draws one."""

    height: int
    width: int
    fps: float
    frames: int


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


def decode_mp4(data: bytes, source: str = "clip") -> Clip:
    """Decode the first video track of an mp4 of our own in this process; sound is dropped.

    Files of other people go through `understudy.video.ingest.guard`. Colours follow the file's tags; an untagged file is
    read as BT.601, which is what writers built on FFmpeg put there.

    Args:
        data: the whole file.
        source: what to call it in an error message.

    Raises:
        ClipError: not an mp4, empty, cut short, damaged, or without a single frame.
    """
    limits = Limits()
    shown: list[Frames] = []
    times: list[float | None] = []
    with decoding.opened(io.BytesIO(data), source, limits, mp4_only=True) as video:
        for frame, display in decoding.frames(video, limits):
            shown.append(resize(pixels(frame, display, source), *display.size(frame)))
            times.append(frame.time)
        return Clip(np.stack(shown), decoding.frame_rate(video.stream, times, source)[0])


def is_picture(data: bytes) -> bool:
    """Say whether a file's bytes start as those of a PNG, JPEG or WebP picture."""
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff")) or data[8:12] == b"WEBP"


def decode_image(data: bytes, source: str = "image") -> Frames:
    """Return a PNG, JPEG or WebP picture as one frame, uint8 [1, H, W, 3], turned as its Exif tag says.

    Raises:
        ClipError: it is none of these, damaged or too large.
    """
    limit = Limits().pixels
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > limit:
                raise ClipError(f"{source} is too large: {image.width}x{image.height} pixels, limit {limit}")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)[None]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(
            f"{source} is no whole PNG, JPEG or WebP picture ({decoding.reason(error)}); export it again"
        ) from None


def encode_png(frame: Frames) -> bytes:
    """Return one frame, uint8 [H, W, 3], as the bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "png")
    return out.getvalue()


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
        return read_limited(path, Limits().file_bytes)
    except FileNotFoundError:
        raise ClipError(f"clip {path} does not exist") from None
    except Unreadable as error:
        raise ClipError(f"cannot read clip {path}: {error}") from None


Fit = Literal["crop", "pad", "stretch"]
"""How a picture of another aspect ratio gets to a size: its middle, all of it between black bars, or pulled into shape."""


def resample(clip: Clip, fps: float, frames: int, size: tuple[int, int] | None = None, how: Fit = "crop") -> Clip:
    """Return the first ``frames / fps`` seconds of ``clip`` at another rate and size.

    Frame k is the source frame nearest to time ``k / fps``. Pixels are resized with antialiasing.

    Args:
        clip: the source.
        fps: wanted frames per second, above 0.
        frames: wanted number of frames, at least 1.
        size: wanted (H, W) in pixels; None keeps the source's.
        how: what happens to another aspect ratio.

    Raises:
        ClipError: an argument is out of range, or the last wanted time lies after the clip's end.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ClipError(f"cannot resample to {fps} fps; give a number above 0")
    if frames < 1:
        raise ClipError(f"cannot resample to {frames} frames; give at least 1")
    height, width = clip.size if size is None else size
    if height < 1 or width < 1:
        raise ClipError(f"cannot resample to {width}x{height} pixels; give at least 1x1")
    index = nearest_frames(np.arange(clip.length) / clip.fps, 1 / clip.fps, fps, frames)
    if (height, width) == clip.size:
        return Clip(clip.frames[index], fps)
    kept, back = np.unique(index, return_inverse=True)  # resize a repeated frame once
    resized = np.stack([fitted(clip.frames[i], height, width, how) for i in kept])
    return Clip(resized[back], fps)


def nearest_frames(times: npt.NDArray[np.float64], last: float, fps: float, frames: int) -> npt.NDArray[np.int64]:
    """Return the index [frames] of the source frame nearest to each time ``k / fps``.

    Args:
        times: when each source frame is shown [T], rising from 0, in seconds.
        last: how long the last one is shown, in seconds.
        fps: wanted frames per second.
        frames: wanted number of frames.

    Raises:
        ClipError: the last wanted time lies after the end of the last source frame.
    """
    wanted, end = np.arange(frames) / fps, float(times[-1] + last)
    if not is_long_enough(end, fps, frames):
        raise ClipError(
            f"clip is too short: {frames} frames at {fps:g} fps need {(frames - 1) / fps:.3f} s, but it ends at "
            f"{end:.3f} s; ask for fewer frames or a higher rate"
        )
    # Halves go up rather than to the even index, which keeps a doubled rate evenly spaced.
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, wanted + 1e-9 * last, side="right")


def is_long_enough(seconds: float, fps: float, frames: int) -> bool:
    """Say whether a clip that plays ``seconds`` has a frame on show at each time ``k / fps``, its very end included.

    A frame is shown until its end: 5.000 s are long enough for 81 frames at 16 a second, the last of them at 5 s.
    """
    return (frames - 1) / fps <= seconds + 1e-3  # containers round times to milliseconds


def fitted(pixels: Frames, height: int, width: int, how: Fit = "crop", shown: tuple[int, int] | None = None) -> Frames:
    """Bring one frame uint8 [H, W, 3] to [height, width, 3].

    Args:
        pixels: the frame as stored.
        height: wanted pixels.
        width: wanted pixels.
        how: what happens to another aspect ratio.
        shown: (H, W) in square pixels that the stored frame is shown at; None: its pixels are square.
    """
    high, wide = pixels.shape[:2] if shown is None else shown
    scale = (max if how == "crop" else min)(height / high, width / wide)
    if how == "pad":
        inner = max(1, min(height, round(high * scale))), max(1, min(width, round(wide * scale)))
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        framed = np.zeros((height, width, 3), np.uint8)
        framed[top : top + inner[0], left : left + inner[1]] = resize(pixels, *inner)
        return framed
    # What is cut off at each side, in stored pixels; less than half a pixel is rounding of the size.
    rows = (high - height / scale) / 2 * pixels.shape[0] / high
    columns = (wide - width / scale) / 2 * pixels.shape[1] / wide
    if how == "stretch" or max(rows, columns) < 0.5:
        return resize(pixels, height, width)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    box = (columns, rows, pixels.shape[1] - columns, pixels.shape[0] - rows)
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS, box=box), dtype=np.uint8)


def resize(pixels: Frames, height: int, width: int) -> Frames:
    """Resize one frame uint8 [H, W, 3] to [height, width, 3] with antialiasing, each axis on its own."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0:
        # The exact area mean: no ringing at edges.
        image = image.reduce((pixels.shape[1] // width, pixels.shape[0] // height))
    else:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.array(image, dtype=np.uint8)


def laplacian_variance(frames: Frames) -> float:
    """Return the variance of the grey picture's Laplacian over uint8 [..., H, W, 3]: how much fine detail."""
    grey = frames.mean(axis=-1, dtype=np.float32)
    sides = grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] + grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2]
    return float((sides - 4 * grey[..., 1:-1, 1:-1]).var())
