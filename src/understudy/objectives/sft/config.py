"""The section of supervised fine-tuning."""

from typing import Literal

from pydantic import Field

from understudy.objectives.config import ObjectiveSection
from understudy.recipes.section import far


class SFTConfig(ObjectiveSection):
    """Supervised fine-tuning on the teacher's clips: the baseline."""

    kind: Literal["sft"] = "sft"
    levels: Literal["sampler", "continuous"] = "sampler"
    """Noise levels of the update."""
    rerender: bool = False
    """Train on clips drawn again by the start student (needs discriminator.rerender)."""
    redraws: int = Field(1, ge=1, le=256)
    """Times each clip is drawn again, each with noise of its own."""
    masked_blocks: int = Field(0, ge=0, le=far(100_000))
    """First blocks left out of the loss."""
    group: int = Field(8, ge=1, le=far(4096))
    """Clips per prompt of the batch; as an arm of a comparison it takes the main objective's."""

    @property
    def unused_blocks(self) -> int:
        """First blocks of a clip that its loss leaves out."""
        return self.masked_blocks
