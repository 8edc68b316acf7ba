"""The section of the small network."""

from typing import Literal

from pydantic import Field, field_validator

from understudy.discriminators.config import JudgeConfig
from understudy.recipes.section import far


class DiscriminatorConfig(JudgeConfig):
    """A small whole-clip network of convolutions, trained from nothing."""

    kind: Literal["clip_cnn"] = "clip_cnn"
    redraws: int = Field(8, ge=1, le=256)
    """Times each teacher clip is drawn again (with ``rerender``), each with noise of its own: harder to memorise."""
    size: int = Field(24, ge=8, le=far(1024))
    """Side in pixels of the frames it looks at."""
    width: int = Field(96, ge=8, le=far(8192))
    """Features per frame."""
    skip_frames: int = Field(2, ge=0, le=far(100_000))
    """First pixel frames it cannot see."""

    @field_validator("width")
    @classmethod
    def _heads(cls, width: int) -> int:
        if width % 4:
            raise ValueError("give a multiple of 4")
        return width
