"""How much of the teacher's look has got into a student's picture."""

import math

import numpy as np
from numpy.typing import NDArray

_TELLING = 0.01  # RMS in [0, 1]: below it the two looks are the same and a share of nothing says nothing


def mean_picture(clips: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean picture [H, W, 3] of frames [..., H, W, 3]."""
    return np.asarray(clips, dtype=np.float64).mean(axis=tuple(range(clips.ndim - 3)))


def look_leak(own: NDArray[np.float64], start: NDArray[np.float64], teacher: NDArray[np.float64]) -> float:
    """Return how far the mean picture ``own`` has gone from ``start`` (0) to ``teacher`` (1), all [H, W, 3] in [0, 1].

    Grade, vignette and watermark show in a mean picture, grain and compression do not. NaN where both looks are alike.
    """
    way = teacher - start
    if math.sqrt(float((way**2).mean())) < _TELLING:
        return math.nan
    return float(((own - start) * way).sum() / (way**2).sum())
