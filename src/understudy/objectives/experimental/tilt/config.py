"""The section of tilting."""

from typing import Literal

from pydantic import Field

from understudy.objectives.config import ScoredConfig
from understudy.recipes.section import far


class TiltConfig(ScoredConfig):
    """Experimental: a prompt's rollouts all move along one direction, the covariance of clips and rewards (DiffusionART)."""

    kind: Literal["tilt"] = "tilt"
    gain: float = Field(1.0, gt=0, le=far(1000))
    """How far along it: in covariances of the latents with rewards of unit variance."""
    scope: Literal["group", "batch"] = "group"
    """Where the rewards' standard deviation is taken."""
    space: Literal["x0", "velocity"] = "x0"
    """Space of the loss."""
