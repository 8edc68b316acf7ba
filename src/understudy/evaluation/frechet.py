"""Random-feature Frechet distance (RFD) between two sets of clips: no learned weights, numpy only.

Fixed random projections of small space-time patches and of frame differences are pooled over a clip into 48
numbers; the distance is the Frechet distance of the two clouds after z-scoring on the reference. It orders
damage sensibly, but its size depends on the resolution, the reference and the number of clips: compare only
runs with the same three, next to the floor (reference against reference). It is not FVD.

Shape legend: A/B clips, D features, T frames, H/W pixels.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.errors import ClipError

FEATURES: Final = 48
_PATCH: Final = 8  # px, on the full picture and on a half-size one (where a patch covers 16 px)
_DEPTH: Final = 4  # frames in a space-time patch
_LOOKS: Final = 6  # projections of space-time patches a scale
_MOVES: Final = 4  # projections of frame-difference patches a scale
_SEED: Final = 20240229


def features(clips: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return the features [B, 48] of clips (uint8 RGB [T, H, W, 3], T >= 4, H and W >= 16).

    Raises:
        ClipError: a clip is smaller than that.
    """
    return np.array([_pooled(clip) for clip in clips]).reshape(-1, FEATURES)


def frechet(generated: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the Frechet distance of features [A, D] and [B, D] (A, B > 1), z-scored on the reference."""
    spread = reference.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    a, b = (generated - reference.mean(axis=0)) / spread, (reference - reference.mean(axis=0)) / spread
    shift = a.mean(axis=0) - b.mean(axis=0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(second)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ first @ root), 0, None)).sum()
    return float(max(0.0, shift @ shift + np.trace(first) + np.trace(second) - 2 * cross))


def _pooled(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    if len(frames) < _DEPTH or min(frames.shape[1:3]) < 2 * _PATCH:
        raise ClipError(f"RFD needs {_DEPTH} frames of {2 * _PATCH} px or more, got shape {list(frames.shape)}")
    clip = frames.astype(np.float32) / np.float32(255)
    half = _halve(clip)
    return np.concatenate([_scale(clip, 0), _scale(half, 1), _flow(half)]).astype(np.float64)


def _halve(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = clip.shape[1] // 2 * 2, clip.shape[2] // 2 * 2
    clip = clip[:, :height, :width]
    return 0.25 * (clip[:, ::2, ::2] + clip[:, 1::2, ::2] + clip[:, ::2, 1::2] + clip[:, 1::2, 1::2])


@lru_cache(maxsize=4)
def _filters(scale: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit filters of zero mean: [depth * patch^2 * 3, looks] and [patch^2 * 3, moves]."""
    rng = np.random.default_rng([_SEED, scale])
    size = _PATCH + 2
    # Half of the filters are second differences in space: white ones hardly see grain and blur beside a ball.
    down, across = rng.standard_normal((2, _LOOKS // 2, 3, _DEPTH, size, size))
    fine = np.diff(down, n=2, axis=3)[..., 1:-1] + np.diff(across, n=2, axis=4)[..., 1:-1, :]
    white = rng.standard_normal((_LOOKS - _LOOKS // 2, 3, _DEPTH, _PATCH, _PATCH))
    looks = np.concatenate([white, fine]).reshape(_LOOKS, -1).T
    moves = rng.standard_normal((3 * _PATCH**2, _MOVES))
    looks, moves = looks - looks.mean(axis=0), moves - moves.mean(axis=0)
    looks, moves = looks / np.linalg.norm(looks, axis=0), moves / np.linalg.norm(moves, axis=0)
    return looks.astype(np.float32), moves.astype(np.float32)


def _scale(clip: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Pool one scale's responses into 20 numbers."""
    looks, moves = _filters(scale)
    seen = _respond(clip, looks, _DEPTH)
    moved = _respond(np.diff(clip, axis=0), moves, 1)
    # An odd power tells a clip from its reverse in time, which even statistics cannot.
    skew = np.cbrt((moved**3).mean(axis=0))
    return np.concatenate([np.abs(seen).mean(axis=0), seen.std(axis=0), moved.std(axis=0), skew])


def _respond(clip: NDArray[np.float32], filters: NDArray[np.float32], depth: int) -> NDArray[np.float32]:
    """Return the filters' responses [patches, K] on half-overlapping patches of ``depth`` frames."""
    windows = np.lib.stride_tricks.sliding_window_view(clip, (depth, _PATCH, _PATCH), axis=(0, 1, 2))
    windows = windows[:: max(1, depth // 2), :: _PATCH // 2, :: _PATCH // 2]
    return np.ascontiguousarray(windows).reshape(-1, len(filters)) @ filters


def _flow(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 8 signed numbers: how brightness and colour drift down and across, early and late."""
    bright = clip.mean(axis=3)
    vivid = clip.max(axis=3) - clip.min(axis=3)
    numbers = []
    for plane in (bright, vivid):
        change = np.diff(plane, axis=0)
        middle = 0.5 * (plane[1:] + plane[:-1])
        for axis in (1, 2):
            product = change * np.gradient(middle, axis=axis)
            numbers += [part.mean() for part in np.array_split(product, 2)]
    return 1000 * np.array(numbers, dtype=np.float32)
