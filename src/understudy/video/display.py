"""How a player shows a decoded frame: turned and mirrored, with pixels that need not be square, in which colours.

Shape legend: T pixel frames, H/W pixels.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from understudy.errors import ClipError

# Where the axes go under each number of quarter turns anticlockwise: x to (a, b), y to (c, d), with y downwards.
_TURNS: Final = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
_ASPECTS: Final = (1 / 16, 16.0)  # pixels wider or narrower than this are damage
_CURVES: Final = {16: "PQ", 18: "HLG"}  # SMPTE ST 2084 and ARIB STD-B67 in ITU-T H.273, table 3
# Of H.273, table 4: those with one meaning under several numbers go by one name.
_MATRICES: Final = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
UNTAGGED: Final = "untagged"
HDR: Final = "HDR video"


@dataclass(frozen=True)
class Display:
    """How frames are shown.

    Attributes:
        turns: quarter turns anticlockwise, 0 to 3.
        mirrored: whether left and right are swapped, before the turn.
        aspect: width of a stored pixel divided by its height.
    """

    turns: int = 0
    mirrored: bool = False
    aspect: float = 1.0

    def upright(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return stored pixels [H, W, ...] mirrored and turned as they are shown; their shape stays as it is."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, k=self.turns)

    def widened(self, frame: VideoFrame) -> int:
        """Return how many square pixels wide a stored frame is, before any turn."""
        return max(1, round(frame.width * self.aspect))

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Return (H, W) in square pixels of the frame as it is shown."""
        stored = frame.height, self.widened(frame)
        return stored[::-1] if self.turns % 2 else stored


def display_of(frame: VideoFrame, stream: VideoStream, source: str) -> Display:
    """Return how the frame is shown: its display matrix (ISO 14496-12, 6.2.2) and the track's sample aspect ratio.

    Raises:
        ClipError: the matrix does more than turn by right angles and mirror, or pixels are absurdly wide.
    """
    turns, mirrored = _orientation(frame, source)
    aspect = float(stream.sample_aspect_ratio or 1)
    if not _ASPECTS[0] <= aspect <= _ASPECTS[1]:
        raise ClipError(f"{source} has pixels {aspect:g} times as wide as high; export it again with square pixels")
    return Display(turns, mirrored, aspect)


def _orientation(frame: VideoFrame, source: str) -> tuple[int, bool]:
    entries: Any = frame.side_data  # its stubs call it a mapping of str
    data = next((bytes(entry) for entry in entries if entry.type == Type.DISPLAYMATRIX), None)
    if data is None:
        return 0, False
    a, b, u, c, d, v, _, _, w = struct.unpack("=9i", data[:36])  # 16.16 fixed point, u v w 2.30
    found = np.array((a, b, c, d, u / 2**14, v / 2**14, w / 2**14)) / 2**16
    for turns, (a, b, c, d) in enumerate(_TURNS):
        for mirrored, sign in ((False, 1), (True, -1)):
            if np.abs(found - (sign * a, sign * b, c, d, 0, 0, 1)).max() < 0.01:
                return turns, mirrored
    shown = ", ".join(f"{value:.3g}" for value in found[:4])
    raise ClipError(
        f"{source} is to be shown through a matrix ({shown}) that is no right-angle turn or mirror; export it again upright"
    )


def pixels(frame: VideoFrame, display: Display, source: str) -> npt.NDArray[np.uint8]:
    """Return the stored frame upright: uint8 [H, W, 3] RGB, transparency laid over black, pixels as wide as stored.

    Raises:
        ClipError: its brightness is coded by a high-dynamic-range curve, which would look flat and grey.
    """
    if (curve := hdr_curve(frame)) is not None:
        raise ClipError(f"{source} is {HDR} ({curve}); export it in standard dynamic range (SDR, BT.709)")
    if has_alpha(frame):
        rgba = frame.to_ndarray(format="rgba", threads=1)
        rgb = ((rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    else:
        rgb = np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
    return display.upright(rgb)


def has_alpha(frame: VideoFrame) -> bool:
    """Say whether the frame's pixels carry transparency."""
    return any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"


def hdr_curve(frame: VideoFrame) -> str | None:
    """Return the name of the high-dynamic-range curve that the frame's brightness is coded by, or None."""
    return _CURVES.get(int(frame.color_trc))


def colour_tag(frame: VideoFrame) -> str:
    """Return which matrix the frame says its colours are coded by, such as ``bt709``; ``untagged`` when it does not say.

    Untagged ones are read as BT.601, which is what writers built on FFmpeg put there.
    """
    if frame.format.is_rgb or frame.format.name == "pal8":
        return "rgb"
    return _MATRICES.get(int(frame.colorspace), UNTAGGED)
