"""The reward contract: finished clips and their prompts in, one number a clip out."""

from collections.abc import Sequence
from typing import Protocol

from understudy.video.clips import Clip


class Reward(Protocol):
    """Any callable that scores clips: higher is better, comparable at least within a prompt."""

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str]) -> Sequence[float]:
        """Return one finite score for each of B clips (uint8 frames [T, H, W, 3] at their rate) of B prompts."""
        ...
