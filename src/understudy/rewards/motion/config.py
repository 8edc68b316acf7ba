"""The section of the reward for motion."""

from typing import Literal

from pydantic import Field

from understudy.rewards.config import RewardSection


class MotionRewardConfig(RewardSection):
    """How much changes from frame to frame: a guard against students that stand still, or, with weight < 0, that jitter."""

    kind: Literal["motion"] = "motion"
    wanted: float | None = Field(None, ge=0, le=255)
    """Mean change of a pixel from frame to frame, in levels of 256, to come near to; null: the more the better."""
