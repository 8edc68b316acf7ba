"""The discriminator contract: what the training step needs of whatever scores finished clips."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Discriminator(nn.Module):
    """Scores finished clips of a prompt: higher means more like the teacher's.

    Preparing is kept apart from scoring, so that the teacher's clips are prepared once. Prepared clips are pixels, so
    noise can be added to them and scores can be differentiated by them. Parameters that need no gradient are frozen, and
    ``state_dict`` may leave them out.

    Attributes:
        every: it looks at every so many frames of a clip.
    """

    every: int = 1

    def view(self, clips: Tensor) -> Tensor:
        """Return canonical clips [B, T, 3, H, W] in [0, 1] prepared, those frames of them that the network looks at."""
        return self.prepare(clips[:, :: self.every])

    @abstractmethod
    def prepare(self, clips: Tensor) -> Tensor:
        """Return canonical clips [B, T, 3, H, W] in [0, 1] as the network looks at them: [B, T', 3, H', W'] in [-1, 1]."""

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return what the network knows of the prompts, one row each [B, D]."""

    @abstractmethod
    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        """Return scores [B] of prepared clips [B, T', 3, H', W'] for rows [B, D] of ``encode_text``."""

    def score(self, clips: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return scores [B] of canonical clips [B, T, 3, H, W] in [0, 1], without instance noise."""
        return self.logits(self.view(clips), self.encode_text(prompts))
