"""The discriminator contract."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Discriminator(Protocol):
    """Scores finished clips of a prompt: higher means more like the teacher's."""

    def score(self, clips: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores [B] of canonical clips [B, T, 3, H, W] in [0, 1]."""
        ...
