"""The section of distribution matching."""

from typing import Literal

from pydantic import Field

from understudy.discriminators.config import JudgeConfig
from understudy.objectives.config import OnPolicyConfig, Passes
from understudy.recipes.section import far


class ScoreMatchingConfig(OnPolicyConfig):
    """Distribution matching: a score of the teacher's clips against a score of own rollouts (DMD), no discriminator."""

    kind: Literal["dmd"] = "dmd"
    old_decay: float = Field(0.0, ge=0, lt=1)
    """Largest decay of the old policy; 0: rollouts are always the current student's."""
    rerender: bool = True
    """Fit the teacher's score to clips drawn again by the start student (needs discriminator.rerender)."""
    score_lr: float = Field(4e-4, gt=0, le=far(10))
    """AdamW learning rate of both scores."""
    score_warmup: int = Field(60, ge=0, le=far(10_000_000))
    """Steps of both scores before the student moves."""
    score_steps: int = Field(2, ge=1, le=far(1000))
    """Steps of both scores per student update."""

    @property
    def judged(self) -> bool:
        """There is no discriminator."""
        return False

    def warmup(self, judge: JudgeConfig) -> int:
        """Return the steps of both scores before the student moves."""
        return self.score_warmup

    def update_passes(self, judge: JudgeConfig) -> Passes:
        """Return what an update costs for each of its clips: both scores are as large as the student."""
        return Passes(1.0, 3.0, 1.0 + 2 * self.score_steps)

    def warmup_passes(self, judge: JudgeConfig, batch: int) -> Passes:
        """Return what the scores' warm-up costs in all."""
        return Passes(self.score_warmup * batch, 0.0, 2.0 * self.score_warmup * batch)
