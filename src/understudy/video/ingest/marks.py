"""Signs of the container inside the picture: black bars, and a mark that stands still while the picture moves.

Shape legend: N sampled frames, H/W pixels.
"""

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]

_SAMPLES = 16
_BLACK = 24  # of 255: limited-range black with compression noise
_STEP = 20  # how much brighter the picture has to get behind a bar's edge
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")


class Marks:
    """Looks at up to 16 frames of a clip, evenly spread although its length is not known beforehand."""

    def __init__(self) -> None:
        self._stride = 1
        self._kept: list[Grey] = []

    def wants(self, index: int) -> bool:
        """Say whether frame ``index`` is one to look at."""
        return index % self._stride == 0

    def see(self, grey: Grey) -> None:
        """Look at a wanted frame uint8 [H, W]."""
        self._kept.append(grey)
        if len(self._kept) > _SAMPLES:
            self._kept = self._kept[::2]
            self._stride *= 2

    def bars(self) -> tuple[int, int, int, int] | None:
        """Return the black borders (top, bottom, left, right) in pixels, or None.

        They come in pairs of nearly one width, are black in every frame and end in a sharp edge; a dark scene is none.
        """
        if not self._kept:
            return None
        brightest = np.max(np.stack(self._kept), axis=0)
        top, bottom = _pair(brightest.max(axis=1))
        left, right = _pair(brightest.max(axis=0))
        return (top, bottom, left, right) if top or left else None

    def watermark(self) -> str | None:
        """Return where a still mark over moving pictures is suspected, or None.

        After the median-gradient cue of Dekel et al. 2017 ("On the Effectiveness of Visible Watermarks"): the
        gradients of a mark agree in all frames, those of a moving picture do not. Bars must be cut off before. A
        still scene tells nothing, so at least 40 % of the picture has to move.
        """
        if len(self._kept) < 4:
            return None
        clip = np.stack([_small(grey) for grey in self._without_bars()]).astype(np.float32)
        if min(clip.shape[1:]) < 24:
            return None
        if float((clip.std(axis=0) > 6).mean()) < 0.4:
            return None
        edges = np.zeros(clip.shape[1:], dtype=bool)
        for axis in (1, 2):
            slope = np.gradient(clip, axis=axis)
            middle = _median(slope)
            scatter = _median(np.abs(slope - middle))
            edges |= (np.abs(middle) > 5) & (scatter < 0.35 * np.abs(middle))
        height, width = clip.shape[1:]
        inner = edges[height // 4 : -(height // 4), width // 4 : -(width // 4)]
        count, border = int(edges.sum()), int(edges.sum()) - int(inner.sum())
        # A compact mark near the border; still edges everywhere are a still background behind something large.
        if border < 0.001 * edges.size or count > 0.06 * edges.size or border < 0.8 * count:
            return None
        y, x = np.nonzero(edges)
        cells = np.bincount(3 * (3 * y // height) + 3 * x // width, minlength=9)
        best = int(cells.argmax())
        if cells[best] < 0.5 * count:
            return None
        row, column = _ROWS[best // 3], _COLUMNS[best % 3]
        return f"{row} {column}"

    def _without_bars(self) -> list[Grey]:
        top, bottom, left, right = self.bars() or (0, 0, 0, 0)
        height, width = self._kept[0].shape
        return [grey[top : height - bottom, left : width - right] for grey in self._kept]


def _median(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the median [H, W] over the first axis of [N, H, W].

    Sorting short rows is several times faster here than ``np.median``, which selects along a strided axis.
    """
    rows = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    rows.sort(axis=-1)
    count = rows.shape[-1]
    return np.asarray((rows[..., (count - 1) // 2] + rows[..., count // 2]) / 2, dtype=np.float32)


def _pair(brightest: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return the widths of the black borders at both ends of a profile [H], or (0, 0)."""
    bright = np.flatnonzero(brightest > _BLACK)
    if len(bright) == 0:
        return 0, 0
    first, last = int(bright[0]), len(brightest) - 1 - int(bright[-1])
    if min(first, last) < max(2, len(brightest) // 100) or abs(first - last) > max(2, (first + last) // 10):
        return 0, 0
    inside = (brightest[min(first + 2, len(brightest) - 1)], brightest[max(len(brightest) - 1 - last - 2, 0)])
    return (first, last) if min(inside) > _BLACK + _STEP else (0, 0)


def _small(grey: Grey) -> npt.NDArray[np.float32]:
    """Average uint8 [H, W] in whole squares down to at most 256 pixels on the shorter side."""
    factor = max(1, min(grey.shape) // 192)
    height, width = grey.shape[0] // factor * factor, grey.shape[1] // factor * factor
    squares = grey[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return squares.mean(axis=(1, 3), dtype=np.float32)
