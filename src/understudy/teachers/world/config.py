"""The section of the embedded physics world."""

from typing import Literal

from pydantic import Field

from understudy.recipes.section import far
from understudy.teachers.config import TeacherSection


class WorldTeacherConfig(TeacherSection):
    """The embedded physics world."""

    kind: Literal["world"] = "world"
    look: Literal["film", "house"] = "film"
    """Look of its clips: film (another look than the student's) or house."""
    size: int = Field(64, ge=16, le=512)
    """Side of its square frames in pixels."""
    fps: float = Field(24.0, gt=0, ge=far(0.1), le=240)
    """Frames per second."""
    frames: int = Field(32, ge=2, le=4096)
    """Frames per clip."""
    poor: bool = False
    """Random physics unrelated to the prompt: the source that start students are pre-trained on."""
