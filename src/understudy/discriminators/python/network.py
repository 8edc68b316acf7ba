"""A discriminator of one's own."""

import copy
from collections.abc import Sequence

from understudy.discriminators.base import Discriminator
from understudy.discriminators.python.config import PythonDiscriminatorConfig
from understudy.errors import PluginError


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
    return copy.deepcopy(made)
