"""What arrived, whatever was asked for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class VideoFacts:
    """What a video file holds, measured by decoding all of it.

    Attributes:
        container: FFmpeg's name of the file format, such as ``mp4`` or ``matroska``.
        codec: FFmpeg's name of the video codec, such as ``h264``.
        width, height: pixels as shown, after any rotation.
        frames: frames decoded.
        fps: frames per second; the average when the rate varies.
        variable_rate: whether frames are unevenly spaced.
        seconds: how long it plays.
        pixel_format: FFmpeg's name, such as ``yuv420p``.
        bit_depth: bits of one colour component.
        rotation: degrees anticlockwise by which a player turns it: 0, 90, 180 or 270.
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
    rotation: int
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
        for field in fields(cls):
            value = values.get(field.name)
            if field.name == "bars" and isinstance(value, list) and [type(v) for v in value] == [int] * 4:
                value = tuple(value)
            elif field.name in ("bars", "watermark") and value is None:
                pass
            elif field.type in ("float", float) and type(value) in (int, float):
                value = float(value)  # type: ignore[arg-type]
            elif type(value).__name__ != getattr(field.type, "__name__", field.type) and not (
                field.name == "watermark" and isinstance(value, str)
            ):
                raise ValueError(f"{field.name} cannot be {value!r}")
            read[field.name] = value
        return cls(**read)
