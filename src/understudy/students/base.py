"""The student contract: a causal velocity field over blocks of latent frames, and its cache as a value."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Student(Protocol):
    """A causal video model. Latents are [B, F, C, h, w], levels [B, F] in [0, 1], velocity is eps - x_0.

    ``Cache`` and ``Text`` are opaque values of the student's own. Nothing in ``velocity`` changes a cache: only
    ``commit`` returns a longer one, from *clean* latents.
    """

    @property
    def block_frames(self) -> int:
        """Latent frames drawn together."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Any:
        """Return the text conditioning of B prompts."""
        ...

    def empty_cache(self) -> Any:
        """Return the cache before the first block."""
        ...

    def velocity(self, noisy: Tensor, levels: Tensor, text: Any, cache: Any) -> Tensor:
        """Return the velocity of one noisy block [B, b, C, h, w], seeing the cache's clean past and itself."""
        ...

    def commit(self, clean: Tensor, text: Any, cache: Any) -> Any:
        """Return ``cache`` extended by the clean block [B, b, C, h, w]."""
        ...

    def recache(self, text: Any, cache: Any) -> Any:
        """Return ``cache`` with the clean past it holds computed again under another ``text``: a prompt switch."""
        ...

    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Any) -> Tensor:
        """Return the velocity [B, F, C, h, w] of all noisy blocks at once, each seeing clean blocks before it."""
        ...
