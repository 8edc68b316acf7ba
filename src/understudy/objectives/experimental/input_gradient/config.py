"""The section of input gradients."""

from typing import Literal

from pydantic import Field

from understudy.objectives.config import OnPolicyConfig
from understudy.recipes.section import far


class InputGradientConfig(OnPolicyConfig):
    """Experimental: move each rollout a small step along the discriminator's input gradient and regress to it."""

    kind: Literal["input-gradient"] = "input-gradient"
    reach: float = Field(0.1, gt=0, le=far(1000))
    """Length of that step: RMS over the clip, in latents of unit variance."""
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""
