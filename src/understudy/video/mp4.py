"""Writing H.264 as it is made: one mp4 in memory, or fragments of an endless one that play while it grows.

Shape legend: T pixel frames, H/W pixels.
"""

import io
from fractions import Fraction
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from understudy.errors import ClipError
from understudy.video import decoding

Frames = npt.NDArray[np.uint8]

# Limited range measures better than full (mean error 0.42 against 0.65 levels): swscale's full-range path
# truncates where it should round.
_MATRIX, _RANGE = int(Colorspace.ITU709), int(ColorRange.MPEG)
_FRAGMENTED: Final = {
    "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",  # else FFmpeg shifts every fragment back to time 0
}


class Mp4Encoder:
    """One mp4 in memory, pushed frame by frame and taken at its end; the same frames give the same bytes.

    Args:
        height, width: H and W in pixels.
        fps: frames per second.
        crf: 0 (finest) to 51 (smallest); 8 keeps a mean error below one of the 256 levels.
        playable: 4:2:0 colour, which browsers play, with odd sides padded by a pixel; else 4:4:4, exact at edges.
        first: number of the first frame, which decides the time it is shown at.
        container: further options of FFmpeg's mp4 writer.

    Raises:
        ClipError: here or in ``push`` and ``finish``, when the encoder refuses what it is given.
    """

    def __init__(
        self,
        height: int,
        width: int,
        fps: float,
        crf: float = 8,
        playable: bool = False,
        first: int = 0,
        container: dict[str, str] | None = None,
    ) -> None:
        if not 0 <= crf <= 51:
            raise ClipError(f"crf must lie in 0..51, got {crf}")
        self._rate = rational(fps)
        self._next = first
        self._shape = f"frames of {width}x{height} at {fps} fps"
        self._format = "yuv420p" if playable else "yuv444p"
        self._pad = (height % 2, width % 2) if playable else (0, 0)
        # Tune psnr: without it x264 spends its bits on looks and moves colours at edges (worst error 33 levels
        # against 9). No B-frames: they would make a delay that the mp4 has to describe by an edit list.
        options = {"crf": str(crf), "preset": "ultrafast", "tune": "psnr", "bf": "0"}
        self._buffer = io.BytesIO()
        try:
            self._container = av.open(
                self._buffer, "w", format="mp4", container_options={"fflags": "+bitexact", **(container or {})}
            )
            self._stream: VideoStream = self._container.add_stream("libx264", rate=self._rate, options=options)
            self._stream.width, self._stream.height = width + self._pad[1], height + self._pad[0]
            self._stream.pix_fmt = self._format
            context = self._stream.codec_context
            context.thread_count = 1  # the number of threads would change the bytes
            context.color_range, context.colorspace = _RANGE, _MATRIX
            context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise self._refused(error) from None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._buffer.tell()

    def push(self, frames: Frames) -> None:
        """Encode the next frames, uint8 [T, H, W, 3]."""
        try:
            for pixels in np.pad(frames, ((0, 0), (0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge"):
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(format=self._format, dst_colorspace=_MATRIX, dst_color_range=_RANGE, threads=1)
                frame.pts, frame.time_base, frame.duration = self._next, 1 / self._rate, 1
                self._next += 1
                self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise self._refused(error) from None

    def finish(self) -> bytes:
        """End the video and return the whole file."""
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise self._refused(error) from None
        return self._buffer.getvalue()

    def _refused(self, error: Exception) -> ClipError:
        return ClipError(f"cannot encode {self._shape} as H.264: {decoding.reason(error)}")


class FragmentedMp4:
    """An endless mp4 in pieces (ISO 14496-12 movie fragments): ``header``, then one fragment for every block.

    Every fragment starts with a key frame and is encoded on its own, so that nothing accumulates, any run of fragments
    after the header is a whole video, and what was drawn for one viewer can never leak into another's.

    Attributes:
        header: the bytes that come first (ftyp and moov).
        mime: the type a browser's MediaSource wants, codec included.
    """

    def __init__(self, height: int, width: int, fps: float, crf: float = 14) -> None:
        self._size = (height, width, fps, crf)
        self._frames = 0
        self._fragments = 0
        blank = self._encode(np.zeros((1, height, width, 3), np.uint8))
        at = blank.index(b"avcC") + 4  # version, profile, compatibility, level (ISO 14496-15, 5.3.3.1)
        self.header = blank[: _moof(blank)]
        self.mime = f'video/mp4; codecs="avc1.{blank[at + 1 : at + 4].hex()}"'

    def push(self, frames: Frames) -> bytes:
        """Return the fragment of the next frames, uint8 [T, H, W, 3] with T at least 1."""
        data = self._encode(frames)
        self._frames += len(frames)
        self._fragments += 1
        return data[_moof(data) :]

    def _encode(self, frames: Frames) -> bytes:
        height, width, fps, crf = self._size
        container = {**_FRAGMENTED, "fragment_index": str(self._fragments % (2**31 - 1) + 1)}
        encoder = Mp4Encoder(height, width, fps, crf, playable=True, first=self._frames, container=container)
        encoder.push(frames)
        return encoder.finish()


def rational(fps: float) -> Fraction:
    """Return ``fps`` as the fraction a video container stores (29.97 becomes 2997/100).

    Raises:
        ClipError: it is too small to be stored.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise ClipError(f"cannot store {fps} frames per second; use at least 1/1001")
    return rate


def _moof(data: bytes) -> int:
    """Return where the first movie fragment starts."""
    at = 0
    while data[at + 4 : at + 8] != b"moof":
        at += int.from_bytes(data[at : at + 4], "big")
    return at
