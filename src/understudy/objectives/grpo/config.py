"""The section of the policy gradient."""

from typing import Literal

from pydantic import Field

from understudy.objectives.config import ScoredConfig
from understudy.recipes.section import far


class PolicyGradientConfig(ScoredConfig):
    """Reverse-chain policy gradient: clipped likelihood ratios of the sampler's re-noising steps (GRPO)."""

    kind: Literal["grpo"] = "grpo"
    limit: float = Field(5.0, gt=0, ge=far(1e-6), le=far(1e6))
    """Advantage clip."""
    scope: Literal["group", "batch"] = "group"
    """Where the advantage's standard deviation is taken."""
    ratio_clip: float = Field(0.2, gt=0, lt=1)
    """Likelihood ratios are clipped to 1 +- this."""
