"""The section of adversarial flow distillation."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from understudy.discriminators.config import JudgeConfig
from understudy.objectives.config import Hint, ScoredConfig
from understudy.recipes.section import far


class AFDConfig(ScoredConfig):
    """Adversarial flow distillation."""

    kind: Literal["afd"] = "afd"
    beta: float = Field(0.5, gt=0, ge=far(1e-6), le=far(1e6))
    """Mixing of the positive and negative branch; the loss is divided by it."""
    limit: float = Field(1.0, gt=0, ge=far(1e-6), le=far(1e6))
    """Advantage clip."""
    scope: Literal["group", "batch"] = "group"
    """Where the advantage's standard deviation is taken."""
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update: the sampler's own, or uniform."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""
    branches: Literal["both", "positive", "rectified"] = "both"
    """positive: without the negative branch, an ablation; rectified: one regression to the old policy's velocity,
    moved by an exponential weight (after FlowAWR)."""
    temperature: float = Field(1.0, gt=0, ge=far(1e-3), le=far(1e6))
    """Of the exponential weight of ``rectified``: the lower, the more only the best rollouts count."""
    context: Literal["clean", "noisy"] = "clean"
    """What a block of the update sees of the past: the clean rollout, as in sampling, or, an ablation, its noised state."""
    by_block: bool = False
    """Update block by block from a cache, as in a rollout, instead of in one pass over the clip: no gradient reaches the
    past's keys, and memory is that of one block."""

    def idle(self, prompts: int) -> str:
        """Say why an update on ``prompts`` prompts would train nothing."""
        if self.branches == "rectified" and self.group == 1:
            return "1 with branches rectified: every weight is 1 and nothing is trained; give 2 or more"
        return super().idle(prompts)

    def hints(self, judge: JudgeConfig) -> Iterator[Hint]:
        """Yield what is wrong with its settings, or allowed but rarely meant."""
        if self.judged and (judge.lr == 0 or judge.steps == 0):
            yield None, "discriminator.lr", "a frozen discriminator gets hacked; right for a control, not for a result"
        if judge.lr > 1e-2:
            yield (
                None,
                "discriminator.lr",
                f"{judge.lr:g} is large: a discriminator that is always right teaches nothing",
            )
        if judge.warmup == 0 and self.judged:
            yield None, "discriminator.warmup", "0: the first rewards come from an untrained discriminator"
        if self.beta < 0.05:
            yield None, "objective.beta", f"{self.beta:g} asks for moves {1 / self.beta:.0f} times as long as 1 does"
        if self.beta > 2:
            yield None, "objective.beta", f"{self.beta:g} allows only very small moves away from the old policy"
        if self.limit < 0.2:
            yield None, "objective.limit", f"{self.limit:g} makes nearly every weight 0 or 1: only signs are left"
        if self.limit > 10:
            yield None, "objective.limit", f"{self.limit:g} keeps all weights near a half: there is almost no push"
        if self.group == 1 and self.scope == "group":
            yield (
                False,
                "objective.group",
                "1 with scope group: there is no group to compare in; use 2 or more, or batch",
            )
        if self.prior == 0:
            yield None, "objective.prior", "0: nothing holds the student near the prior policy"
