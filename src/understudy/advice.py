"""Which method suits a student and its clips: rules of thumb from miniature experiments, on facts read from the clips."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.video.clips import laplacian_variance

# Share of the sharpness that is left in one step, of 16 clips: .81 to .95 in the distilled built-in students, .67 to .80 in
# their base (benchmarks/hasty.py).
_DISTILLED: Final = 0.8
_CLOSE: Final = 0.03
_FEW_CLIPS: Final = 50
_OPEN: Final = 0.3  # share of the variance that a prompt leaves open
_OTHER_LOOK: Final = 0.04  # RMS of mean pictures in [0, 1]


@dataclass(frozen=True)
class Facts:
    """What the advice rests on.

    Attributes:
        steps: of the student's sampler. hasty: sharpness of its clips drawn in one step instead, as a share of its own: a
            student distilled to few steps draws sharp ones, another a mean of what may come. clips: there are for training.
        opening: share of the variance of first frames that the prompt leaves open, in [0, 1]; NaN when every prompt has
            one clip only. later: the same of the changes after the first block.
        look: RMS between the mean pictures of the teacher and of the student, in [0, 1].
    """

    steps: int
    hasty: float
    clips: int
    opening: float
    later: float
    look: float


def look_at(
    clips: Mapping[str, Sequence[NDArray[np.uint8]]],
    own: NDArray[np.uint8],
    hasty: NDArray[np.uint8],
    steps: int,
    count: int,
    block: int,
) -> Facts:
    """Return the facts of teacher clips [T, H, W, 3] by prompt and of the student's clips [N, T, H, W, 3], own and hasty."""
    edges = [laplacian_variance(drawn) for drawn in (hasty, own)]
    groups = [np.stack(group).astype(np.float64) / 255 for group in clips.values()]
    pictures = [np.concatenate(groups).mean(axis=(0, 1)), own.astype(np.float64).mean(axis=(0, 1)) / 255]
    look = math.sqrt(float(((pictures[0] - pictures[1]) ** 2).mean()))
    first = [group[:, 0] for group in groups]
    later = [np.diff(group[:, 2 * block :], axis=1) for group in groups]
    share = edges[0] / edges[1] if edges[1] else math.nan
    return Facts(steps, share, count, _left_open(first), _left_open(later), look)


def _left_open(groups: Sequence[NDArray[np.float64]]) -> float:
    """Return the share of the variance that lies inside groups [K, ...] of a prompt, unbiased; NaN without pairs."""
    pairs = [group for group in groups if len(group) > 1]
    total = float(np.concatenate(groups).var(axis=0).mean()) if groups else 0.0
    if not pairs or total == 0:
        return math.nan
    inside = float(np.mean([group.var(axis=0, ddof=1).mean() for group in pairs]))
    return min(1.0, inside / total)


def advise(facts: Facts) -> list[str]:
    """Return the advice in lines: the method first, then what it rests on."""
    few_step, few = facts.steps == 1 or facts.hasty > _DISTILLED, facts.clips < _FEW_CLIPS
    other, opening, later = facts.look > _OTHER_LOOK, facts.opening > _OPEN, facts.later > _OPEN
    if not few_step and not few and not other:
        method = "objective.kind sft: the student is not few-step, the clips are many and look like its own"
    elif few_step and (few or later):
        why = "the clips are few" if few else "prompts leave things open beyond the first block"
        method = f"objective.kind afd: the student is few-step and {why}, where fine-tuning memorises or blurs"
    elif few_step and not opening and not math.isnan(facts.opening) and not other:
        method = (
            "objective.kind sft first: prompts leave little open, so fine-tuning has little to blur; then compare afd"
        )
    elif few_step:
        method = (
            "objective.kind afd keeps the picture; sft with rerender and masked_blocks 1 may follow the motion better "
            "and pay with sharpness: compare both"
        )
    else:
        method = "objective.kind sft with rerender, against afd: compare both"
    open_parts = ", ".join(
        f"{name} {'unknown' if math.isnan(share) else f'{share:.0%}'}"
        for name, share in (("opening", facts.opening), ("later changes", facts.later))
    )
    looks = f"looks differ (RMS {facts.look:.3f}): plain sft would copy the teacher's" if other else "looks are alike"
    close = f" (near the limit of {_DISTILLED:.0%}: it may be either)" if abs(facts.hasty - _DISTILLED) < _CLOSE else ""
    return [
        method,
        f"{facts.steps} sampling step(s), {facts.hasty:.0%} as sharp in one{close}, {facts.clips} clips; left open by the "
        f"prompts: {open_parts}; {looks}",
        "rules of thumb; `understudy bench where` measures them in the embedded world",
    ]
