"""How much moves in a clip: the mean absolute change of a pixel from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from understudy.rewards.motion.config import MotionRewardConfig
from understudy.video.clips import Clip


@dataclass(frozen=True)
class MotionReward:
    """Scores clips (uint8 [T, H, W, 3]) by their motion in levels of 256; a single frame has none."""

    wanted: float | None

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
        """Return one score for each clip; see ``Reward``."""
        found = [_motion(clip) for clip in clips]
        return found if self.wanted is None else [-abs(motion - self.wanted) for motion in found]


def build(config: MotionRewardConfig) -> MotionReward:
    """Return the reward."""
    return MotionReward(config.wanted)


def _motion(clip: Clip) -> float:
    frames = clip.frames.astype(np.int16)
    return float(np.abs(np.diff(frames, axis=0)).mean()) if clip.length > 1 else 0.0
