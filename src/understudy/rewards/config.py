"""What the sections of all rewards have."""

from pydantic import Field

from understudy.recipes.section import Section, far


class RewardSection(Section):
    """Base of all rewards' sections."""

    kind: str
    weight: float = Field(1.0, ge=far(-1e6), le=far(1e6))
    """Weight of its scores, brought to one scale, in the sum with the others; negative: less is better."""
