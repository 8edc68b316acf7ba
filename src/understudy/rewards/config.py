"""What the sections of all rewards have."""

from pydantic import Field

from understudy.recipes.section import Section


class RewardSection(Section):
    """Base of all rewards' sections."""

    kind: str
    weight: float = Field(1.0)
    """Weight of its scores, brought to one scale, in the sum with the others; negative: less is better."""
