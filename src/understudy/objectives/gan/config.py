"""The section of direct adversarial training."""

from typing import Literal

from pydantic import Field

from understudy.objectives.config import OnPolicyConfig


class GANConfig(OnPolicyConfig):
    """Direct adversarial training: the discriminator's gradient through the decoder and the last denoising step."""

    kind: Literal["gan"] = "gan"
    old_decay: float = Field(0.0, ge=0, lt=1)
    """Largest decay of the old policy; 0: rollouts are always the current student's."""
