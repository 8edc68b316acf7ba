"""A discriminator of one's own."""

import copy
from collections.abc import Sequence

from torch import Tensor

from understudy.discriminators.base import Discriminator
from understudy.discriminators.python.config import PythonDiscriminatorConfig
from understudy.errors import PluginError


class OwnDiscriminator(Discriminator):
    """The user's network, whose answers are looked at: a score [B, 1] would be broadcast to nonsense in silence."""

    def __init__(self, inner: Discriminator, label: str) -> None:
        super().__init__()
        self.inner, self._label = inner, label

    def prepare(self, clips: Tensor) -> Tensor:
        """See ``Discriminator``: [B, T', 3, H', W']."""
        found = self.inner.prepare(clips)
        if not isinstance(found, Tensor) or found.ndim != 5 or found.shape[0] != len(clips):
            raise PluginError(f"{self._label} prepared {list(clips.shape)} as {_shape(found)}, not [B, T', 3, H', W']")
        return found

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """See ``Discriminator``: [B, ...]."""
        found = self.inner.encode_text(prompts)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(prompts):
            raise PluginError(
                f"{self._label} encoded {len(prompts)} prompts as {_shape(found)}, not one row [B, D] each"
            )
        return found

    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        """See ``Discriminator``: [B]."""
        found = self.inner.logits(prepared, text)
        if not isinstance(found, Tensor) or found.shape != (len(prepared),):
            raise PluginError(f"{self._label} scored {len(prepared)} clips as {_shape(found)}, not [{len(prepared)}]")
        return found


def build(config: PythonDiscriminatorConfig, fps: float, vocabulary: Sequence[str]) -> Discriminator:
    """Return a network of its own for every arm: what the class or function makes, or a copy of the one that was given.

    Raises:
        PluginError: it fails, or makes something that is no discriminator.
    """
    made = config.made()
    if not isinstance(made, Discriminator):
        raise PluginError(
            f"discriminator {config.call} made a {type(made).__name__}: derive it from understudy.Discriminator"
        )
    return OwnDiscriminator(copy.deepcopy(made), f"discriminator {config.call}")


def _shape(found: object) -> str:
    return str(list(found.shape)) if isinstance(found, Tensor) else type(found).__name__
