"""The discriminator that a recipe names."""

from collections.abc import Sequence

from understudy.config import DiscriminatorConfig, JudgeConfig, VideoRewardConfig
from understudy.discriminators.base import Discriminator
from understudy.discriminators.clip_cnn import ClipCnn, ClipCnnSpec
from understudy.discriminators.videoreward import TEMPLATE, VideoRewardSpec
from understudy.discriminators.videoreward_files import load_videoreward
from understudy.errors import ConfigError


def build_discriminator(config: JudgeConfig, fps: float, vocabulary: Sequence[str]) -> Discriminator:
    """Return a new discriminator for clips of ``fps`` frames a second; fresh weights are drawn from torch's generator.

    Args:
        config: the recipe's section.
        fps: of the student's clips.
        vocabulary: words that a discriminator with a text encoder of its own will know.

    Raises:
        MissingExtra, CheckpointError, ConfigError: packages, weights or the template are not usable.
    """
    if isinstance(config, DiscriminatorConfig):
        spec = ClipCnnSpec(config.size, config.width, config.noise, config.skip_frames, vocabulary=tuple(vocabulary))
        return ClipCnn(spec)
    if not isinstance(config, VideoRewardConfig):
        raise ConfigError(f"no discriminator is known for a section of type {type(config).__name__}")
    try:
        template = TEMPLATE if config.template is None else config.template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"discriminator.template {config.template} cannot be read: {error}") from None
    shown = VideoRewardSpec(
        clip_fps=fps,
        fps=config.fps,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        template=template,
        dimension=config.dimension,
        rank=config.rank,
        alpha=config.alpha,
        clips_at_once=config.clips_at_once,
        checkpointing=config.checkpointing,
    )
    return load_videoreward(config.path, shown, config.reward, config.weights, config.dtype)
