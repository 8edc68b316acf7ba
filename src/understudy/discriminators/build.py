"""The discriminator that a recipe names."""

from collections.abc import Callable, Sequence

from understudy.discriminators.base import Discriminator
from understudy.discriminators.config import JudgeConfig
from understudy.recipes.kinds import DISCRIMINATORS


def build_discriminator(config: JudgeConfig, fps: float, vocabulary: Sequence[str], every: int = 1) -> Discriminator:
    """Return a new discriminator for clips of ``fps`` frames a second; fresh weights are drawn from torch's generator.

    Args:
        config: the recipe's section.
        fps: of the student's clips.
        vocabulary: words that a discriminator with a text encoder of its own will know.
        every: it looks at every so many frames, where ``config`` does not say.

    Raises:
        MissingExtra, CheckpointError, ConfigError: packages, weights or the template are not usable.
    """
    every = config.every or every
    network: Discriminator = DISCRIMINATORS.build(config, fps / every, vocabulary)
    network.every = every
    return network


def check_discriminator(config: JudgeConfig, fps: float) -> None:
    """Look at the files and packages that ``build_discriminator`` would need, where a kind needs any; headers only.

    Raises:
        MissingExtra, CheckpointError, ConfigError: as ``build_discriminator``.
    """
    look: Callable[[JudgeConfig, float], None] | None = getattr(DISCRIMINATORS.maker(config), "check", None)
    if look is not None:
        look(config, fps)
