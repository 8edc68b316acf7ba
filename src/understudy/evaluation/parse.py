"""From pixels back to physics: where the prompt's balls are in every frame of a clip.

Hue, not brightness, finds a ball, so shadows, grain, furniture and the grade of a look do not matter. The
centre is the place where a soft disc of the known radius explains the ball's mask best: that also holds for
a ball cut by the frame's edge or hidden in part by another one, and degrades gently with blur and fading.

Shape legend: T frames, H/W pixels, N balls of the prompt, M frames that show a ball, S window pixels.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.teachers.world.grammar import Scene
from understudy.teachers.world.looks import PALETTE
from understudy.teachers.world.physics import RADIUS

VISIBLE: Final = 0.25  # a ball with less of its area left counts as gone
_NAMES: Final = tuple(PALETTE)
_LABEL: Final = 0.3  # share of a colour's full chroma from which a pixel belongs to it
_SOFT: Final = (0.12, 0.5)  # chroma shares at which the soft mask leaves 0 and reaches 1
_STEPS: Final = 10  # a ball in full view needs 3, one in the corner of the frame most of them
_CHROMA: Final = np.array([[2.0, -1.0, -1.0], [0.0, math.sqrt(3), -math.sqrt(3)]]).T / math.sqrt(6)
_PALETTE: Final = np.array([PALETTE[name] for name in _NAMES]) @ _CHROMA
_STRENGTH: Final = np.linalg.norm(_PALETTE, axis=1)
_HUES: Final = (_PALETTE / _STRENGTH[:, None]).T
_LIGHT: Final = (
    -0.45,
    0.65,
    0.61,
)  # the renderer's lamp: a ball's dark side has half the chroma of its bright side


@dataclass(frozen=True)
class Track:
    """What the parser saw.

    Attributes:
        centres: [T, N, 2] in box units (x right, y up), NaN where a ball is not visible.
        mass: [T, N] covered area over the expected pi r^2 H W; 1 is right, 0 is gone.
        visible: [T, N] bool.
        objects: [T] number of separate blobs of any palette colour, asked for or not.
        size: (H, W) of the frames in pixels.
    """

    centres: NDArray[np.float64]
    mass: NDArray[np.float64]
    visible: NDArray[np.bool_]
    objects: NDArray[np.int64]
    size: tuple[int, int]

    @property
    def pixels(self) -> NDArray[np.float64]:
        """Centres [T, N, 2] in pixels (x right, y up)."""
        return self.centres * np.array([self.size[1], self.size[0]], dtype=np.float64)


def track(frames: NDArray[np.uint8], scene: Scene) -> Track:
    """Find the balls of ``scene`` in ``frames`` (uint8 RGB [T, H, W, 3], any look)."""
    count, height, width = frames.shape[:3]
    radii = np.array([RADIUS[ball.size] for ball in scene.balls])
    chroma, labels = _classify(frames)
    blobs = _blobs(labels)
    limit = VISIBLE * math.pi * float(radii.min()) ** 2 * height * width
    objects = np.bincount(blobs.frame[blobs.area >= limit], minlength=count)
    centres = np.full((count, len(radii), 2), np.nan)
    mass = np.zeros((count, len(radii)))
    for n, ball in enumerate(scene.balls):
        label = _NAMES.index(ball.colour)
        disc = _Disc(float(radii[n]) * width)
        share = (chroma.reshape(-1, 2) @ (_HUES[:, label] / _STRENGTH[label]).astype(np.float32)).reshape(labels.shape)
        share /= _gain(share[labels == label], disc)
        share[(labels != label) & (labels >= 0)] = np.nan  # another colour hides what is behind it
        best = blobs.main(label, count)
        seen = np.flatnonzero(best >= 0)
        if not len(seen):
            continue
        own = (labels[seen] != label) | (blobs.of[seen] == best[seen, None, None])
        start = np.stack([blobs.x[best[seen]], blobs.y[best[seen]]], axis=1)
        found, mass[seen, n] = _locate(np.where(own, share[seen], 0.0), start, disc)
        centres[seen, n] = (found + 0.5) / (width, height)
    centres[..., 1] = 1 - centres[..., 1]
    visible = mass >= VISIBLE
    centres[~visible] = np.nan
    return Track(centres, mass, visible, objects, (height, width))


def _classify(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the chroma [T, H, W, 2] without the look's tint and the palette colour [T, H, W], -1 if none."""
    image = frames.reshape(-1, 3).astype(np.float32) / 255
    sample = image[::7]
    # Most pixels are grey wall and floor: their median hue is the look's tint, and dividing by it undoes it.
    balance = np.median(sample / np.maximum(sample.mean(axis=1, keepdims=True), 1e-3), axis=0)
    chroma = image @ (_CHROMA / np.maximum(balance, 0.2)[:, None]).astype(np.float32)
    labels = np.full(len(image), -1)
    vivid = np.flatnonzero(np.einsum("nc,nc->n", chroma, chroma) >= (_LABEL * _STRENGTH.min()) ** 2)
    strength = chroma[vivid] @ _HUES.astype(np.float32)
    best = strength.argmax(axis=1)
    enough = strength[np.arange(len(best)), best] >= _LABEL * _STRENGTH[best]
    labels[vivid[enough]] = best[enough]
    return chroma.reshape(*frames.shape[:3], 2), labels.reshape(frames.shape[:3])


def _gain(share: NDArray[np.float32], disc: "_Disc") -> float:
    """Return how vivid the clip's ball is: a look may be paler than the palette, a ghost stays a ghost."""
    return float(np.clip(np.percentile(share, 75) / disc.vivid, 0.5, 1.2)) if share.size else 1.0


@dataclass(frozen=True)
class _Blobs:
    """Connected regions of one colour: ``of`` [T, H, W] is each pixel's (-1 none), the rest per region."""

    of: NDArray[np.int64]
    frame: NDArray[np.int64]
    label: NDArray[np.int64]
    area: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def main(self, label: int, count: int) -> NDArray[np.int64]:
        """Return the largest blob of a colour in each of ``count`` frames, -1 where there is none."""
        best = np.full(count, -1)
        mine = np.flatnonzero(self.label == label)
        mine = mine[np.argsort(self.area[mine], kind="stable")]
        best[self.frame[mine]] = mine
        return best


def _blobs(labels: NDArray[np.int64]) -> _Blobs:
    """Label 4-connected regions: runs along rows first, then a union over touching runs."""
    painted = labels >= 0
    begins = painted.copy()
    begins[:, :, 1:] &= labels[:, :, 1:] != labels[:, :, :-1]
    runs = np.cumsum(begins.ravel()).reshape(labels.shape) - 1
    total = int(begins.sum())
    touching = painted[:, 1:] & (labels[:, 1:] == labels[:, :-1])
    pairs = np.unique(runs[:, 1:][touching] * total + runs[:, :-1][touching])
    parent = list(range(total))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for pair in pairs.tolist():
        parent[root(pair // total)] = root(pair % total)
    _, number = np.unique([root(run) for run in range(total)], return_inverse=True)
    frame, row, column = np.nonzero(painted)
    members = number[runs[painted]] if total else np.zeros(0, dtype=np.int64)
    of = np.full(labels.shape, -1)
    of[painted] = members
    area = np.bincount(members).astype(np.float64)

    def mean(values: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.bincount(members, weights=values) / area

    return _Blobs(
        of,
        mean(frame).astype(np.int64),
        mean(labels[painted]).astype(np.int64),
        area,
        mean(column),
        mean(row),
    )


class _Disc:
    """The soft mask of an ideal lit ball of ``radius`` pixels."""

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.half = math.ceil(radius) + 3
        grid = np.arange(-self.half, self.half + 1, dtype=np.float64)
        self.x, self.y = np.meshgrid(grid, grid)
        shade = self.shade(np.zeros(1), np.zeros(1))[0]
        self.vivid = float(np.percentile(shade[shade >= _LABEL], 75))
        self.area = float(_soft(shade).sum())

    def shade(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the chroma share [M, S, S] of balls ``x``, ``y`` [M] px off the window's middle (y down)."""
        dx, dy = self.x - x[:, None, None], self.y - y[:, None, None]
        square = dx**2 + dy**2
        cover = np.clip(self.radius - np.sqrt(square) + 0.5, 0, 1)
        up = np.sqrt(np.clip(1 - square / self.radius**2, 0, 1))
        lambert = np.clip((dx * _LIGHT[0] - dy * _LIGHT[1]) / self.radius + up * _LIGHT[2], 0, 1)
        return cover * (0.55 + 0.5 * lambert)


def _soft(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip((share - _SOFT[0]) / (_SOFT[1] - _SOFT[0]), 0, 1)


def _locate(
    shares: NDArray[np.float64], start: NDArray[np.float64], disc: _Disc
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a disc of free strength to each frame's chroma shares [M, H, W] (NaN: hidden) by Gauss-Newton.

    Returns centres [M, 2] (column, row) in px and masses [M].
    """
    middle = np.rint(start).astype(np.int64)
    reach = disc.half
    padded = np.pad(shares, ((0, 0), (reach, reach), (reach, reach)), constant_values=np.nan)
    span = np.arange(2 * reach + 1)
    index = np.arange(len(shares))[:, None, None]
    window = padded[index, (middle[:, 1, None] + span)[:, :, None], (middle[:, 0, None] + span)[:, None, :]]
    weight = np.isfinite(window)
    mask = _soft(np.where(weight, window, 0.0))
    shift = start - middle
    for _ in range(_STEPS):
        moved = shift + _step(mask, weight, shift, disc)
        # Only a ball cut by the frame's edge lies far from its blob's middle, and never more than a radius.
        moved = np.clip(moved, start - middle - disc.radius, start - middle + disc.radius)
        change, shift = np.abs(moved - shift).max(), moved
        if change < 0.01:
            break
    return middle + shift, mask.sum(axis=(1, 2)) / disc.area


def _step(
    mask: NDArray[np.float64],
    weight: NDArray[np.bool_],
    shift: NDArray[np.float64],
    disc: _Disc,
    delta: float = 0.2,
) -> NDArray[np.float64]:
    x, y = shift[:, 0], shift[:, 1]
    ideal = _soft(disc.shade(x, y)) * weight
    strength = np.clip((mask * ideal).sum(axis=(1, 2)) / np.maximum((ideal**2).sum(axis=(1, 2)), 1e-6), 0.1, 1.2)
    scale = strength[:, None, None] / delta
    along_x = (_soft(disc.shade(x + delta, y)) * weight - ideal) * scale
    along_y = (_soft(disc.shade(x, y + delta)) * weight - ideal) * scale
    rest = mask - strength[:, None, None] * ideal
    xx, yy = (along_x**2).sum(axis=(1, 2)) + 1e-2, (along_y**2).sum(axis=(1, 2)) + 1e-2
    xy = (along_x * along_y).sum(axis=(1, 2))
    bx, by = (along_x * rest).sum(axis=(1, 2)), (along_y * rest).sum(axis=(1, 2))
    determinant = xx * yy - xy**2
    move: NDArray[np.float64] = np.stack([yy * bx - xy * by, xx * by - xy * bx], axis=1) / determinant[:, None]
    return move.clip(-1.5, 1.5)
