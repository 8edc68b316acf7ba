"""What arrived, whatever was asked for."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, BinaryIO

import numpy as np
from av.packet import Packet
from av.video.reformatter import VideoReformatter

from understudy.video import decoding
from understudy.video.decoding import Limits
from understudy.video.display import colour_tag, has_alpha, hdr_curve
from understudy.video.ingest.marks import Marks


@dataclass(frozen=True)
class VideoFacts:
    """What a video file holds, measured by decoding all of it.

    Attributes:
        container: FFmpeg's name of the file format, such as ``mp4`` or ``matroska``.
        codec: FFmpeg's name of the video codec, such as ``h264``.
        width, height: pixels as shown: square ones, after any rotation.
        frames: frames decoded.
        fps: frames per second; the average when the rate varies.
        variable_rate: whether frames are unevenly spaced.
        seconds: how long it plays.
        pixel_format: FFmpeg's name, such as ``yuv420p``.
        bit_depth: bits of one colour component.
        pixel_aspect: width of a stored pixel divided by its height; players show the picture that much wider.
        rotation: degrees anticlockwise by which a player turns it: 0, 90, 180 or 270.
        mirrored: whether a player swaps left and right, before it turns it.
        interlaced: whether a frame holds two fields, lines of two moments.
        colour: the matrix that its colours are tagged with, such as ``bt709``; ``untagged``, then read as BT.601; ``rgb``.
        alpha: whether pixels carry transparency.
        hdr: whether brightness is coded by a high-dynamic-range curve (PQ or HLG).
        audio: whether there is sound.
        bars: black borders (top, bottom, left, right) in pixels as shown, the same in every frame; None without.
        watermark: where a mark that stands still over moving pictures is suspected, such as ``bottom right``; None
            when there is no sign of one, which a still scene cannot show.
        file_bytes: size of the file.
        sha256: SHA-256 of the file.
        stream_sha256: SHA-256 of the video track's packets: the same for copies that differ in metadata alone.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int
    fps: float
    variable_rate: bool
    seconds: float
    pixel_format: str
    bit_depth: int
    pixel_aspect: float
    rotation: int
    mirrored: bool
    interlaced: bool
    colour: str
    alpha: bool
    hdr: bool
    audio: bool
    bars: tuple[int, int, int, int] | None
    watermark: str | None
    file_bytes: int
    sha256: str
    stream_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-ready values: the ``received`` of a store's record."""
        return asdict(self) | {"bars": None if self.bars is None else list(self.bars)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VideoFacts":
        """Read what `to_json` wrote.

        Raises:
            ValueError: a field is missing or of another type.
        """
        read: dict[str, Any] = {}
        for one in fields(cls):
            value = values.get(one.name)
            if one.name == "bars" and isinstance(value, list) and [type(v) for v in value] == [int] * 4:
                value = tuple(value)
            elif one.name in ("bars", "watermark") and value is None:
                pass
            elif one.type in ("float", float) and type(value) in (int, float):
                value = float(value)  # type: ignore[arg-type]
            elif type(value).__name__ != getattr(one.type, "__name__", one.type) and not (
                one.name == "watermark" and isinstance(value, str)
            ):
                raise ValueError(f"{one.name} cannot be {value!r}")
            read[one.name] = value
        return cls(**read)


@dataclass
class _Seen:
    """What is noted of each frame on the way."""

    times: list[float | None] = field(default_factory=list)
    interlaced: bool = False
    marks: Marks = field(default_factory=Marks)


def measure(file: BinaryIO, source: str, limits: Limits) -> VideoFacts:
    """Decode all of a seekable ``file`` in this process and return what it holds.

    Files of other people go through `understudy.video.ingest.guard`, whose process calls this.

    Raises:
        ClipError: no video file, damaged, or beyond a limit.
    """
    decoding.check_size(file, source, limits)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    stream_digest = hashlib.sha256()

    def hashed(video: decoding.Opened) -> Iterator[Packet]:
        for packet in decoding.packets(video):
            stream_digest.update(bytes(packet))
            yield packet

    seen, reformatter = _Seen(), VideoReformatter()  # one for all frames: making it costs more than using it
    with decoding.opened(file, source, limits) as video:
        for frame, display in decoding.frames(video, limits, hashed(video)):
            if seen.marks.wants(len(seen.times)):
                grey = reformatter.reformat(frame, display.widened(frame), frame.height, "gray", threads=1)
                seen.marks.see(display.upright(np.asarray(grey.to_ndarray(), np.uint8)))
            seen.interlaced |= frame.interlaced_frame
            seen.times.append(frame.time)
        fps, variable = decoding.frame_rate(video.stream, seen.times, source)
        height, width = display.size(frame)
        return VideoFacts(
            container=video.kind,
            codec=video.stream.codec_context.name,
            width=width,
            height=height,
            frames=len(seen.times),
            fps=fps,
            variable_rate=variable,
            seconds=_seconds(seen.times, fps, variable, decoding.seconds_of(frame)),
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            pixel_aspect=display.aspect,
            rotation=90 * display.turns,
            mirrored=display.mirrored,
            interlaced=seen.interlaced,
            colour=colour_tag(frame),
            alpha=has_alpha(frame) or video.stream.metadata.get("alpha_mode") == "1",
            hdr=hdr_curve(frame) is not None,
            audio=bool(video.container.streams.audio),
            bars=seen.marks.bars(),
            watermark=seen.marks.watermark(),
            file_bytes=video.size,
            sha256=digest,
            stream_sha256=stream_digest.hexdigest(),
        )


def _seconds(times: list[float | None], fps: float, variable: bool, shown: float) -> float:
    """Return how long the clip plays: to the end of its last frame, which is ``shown`` so long where the file says it."""
    if not variable:
        return len(times) / fps
    first, last = times[0], times[-1]
    assert first is not None
    assert last is not None
    return last - first + (shown or 1 / fps)
