"""The sealed states of the embedded world's clips: the truth behind the pixels, for judging the parser only.

Nothing a trainer uses may import this module: the teacher stays a black box.
"""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.errors import StoreError
from understudy.evaluation.parse import track
from understudy.files import sha256_hex
from understudy.teachers.world.grammar import parse
from understudy.video.clips import Clip


@dataclass(frozen=True, eq=False)
class Truth:
    """True ball centres [T, N, 2] and radii [N] of one clip, in box units (x right, y up)."""

    positions: NDArray[np.float64]
    radii: NDArray[np.float64]


@dataclass(frozen=True)
class ParseFloor:
    """How well the parser reads clips whose truth is known: the floor under every physics metric.

    Attributes:
        error: RMS distance between parsed and true centres in px of the clips; NaN when nothing was seen.
        worst: the largest such distance in px.
        missed: share of positions that were not seen.
        n: number of clips.
    """

    error: float
    worst: float
    missed: float
    n: int


def read(folder: str | Path, mp4: bytes) -> Truth:
    """Return the sealed states of the clip file ``mp4``: ``folder``/<its SHA-256>.npz.

    Raises:
        StoreError: they are missing, or damaged.
    """
    path = Path(folder) / f"{sha256_hex(mp4)}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            truth = Truth(stored["positions"].astype(np.float64), stored["radii"].astype(np.float64))
    except FileNotFoundError:
        raise StoreError(f"no sealed states {path}; let the world teacher write them when it makes the clip") from None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"sealed states {path} are damaged ({error}); make the clip again") from None
    if truth.positions.ndim != 3 or truth.positions.shape[1:] != (len(truth.radii), 2):
        shapes = f"positions {list(truth.positions.shape)}, radii {list(truth.radii.shape)}"
        raise StoreError(f"sealed states {path} are damaged ({shapes}); make the clip again")
    return truth


def parse_floor(
    clips: Sequence[Clip], prompts: Sequence[str], truths: Sequence[Truth], fps: float | None = None
) -> ParseFloor:
    """Compare what the parser reads from ``clips`` with the truth.

    Args:
        clips: at any size; resampled from what the teacher sent, if need be.
        prompts: the prompt of each clip.
        truths: the sealed states of each clip, at the rate that the teacher sent.
        fps: that rate; default the clips' own.
    """
    gaps, missed, total = [], 0, 0
    for clip, prompt, truth in zip(clips, prompts, truths, strict=True):
        seen = track(clip.frames, parse(prompt))
        steps = np.arange(clip.length) * ((fps or clip.fps) / clip.fps)
        index = np.floor(steps + 0.5 + 1e-9).astype(np.int64)  # as `clips.resample` picks frames
        if index[-1] >= len(truth.positions):
            have = len(truth.positions)
            raise StoreError(f"sealed states of {prompt!r} have {have} frames, the clip needs {index[-1] + 1}")
        gap = (seen.centres - truth.positions[index]) * (clip.width, clip.height)
        gaps.append(np.linalg.norm(gap[seen.visible], axis=-1))
        missed, total = missed + int((~seen.visible).sum()), total + seen.visible.size
    gap = np.concatenate(gaps) if gaps else np.zeros(0)
    error, worst = (math.sqrt(float((gap**2).mean())), float(gap.max())) if gap.size else (math.nan, math.nan)
    return ParseFloor(error, worst, missed / total if total else math.nan, len(clips))
