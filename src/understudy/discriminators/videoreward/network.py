"""VideoReward as a recipe names it."""

from collections.abc import Sequence

from understudy.discriminators.videoreward.config import VideoRewardConfig
from understudy.discriminators.videoreward.files import load_videoreward
from understudy.discriminators.videoreward.model import TEMPLATE, VideoReward, VideoRewardSpec
from understudy.errors import ConfigError
from understudy.reading import read_limited


def build(config: VideoRewardConfig, fps: float, vocabulary: Sequence[str]) -> VideoReward:
    """Return VideoReward for clips of ``fps`` frames a second; it reads any word.

    Raises:
        MissingExtra, CheckpointError, ConfigError: packages, weights or the template are not usable.
    """
    return _load(config, fps, headers=False)


def check(config: VideoRewardConfig, fps: float) -> None:
    """Look at everything that ``build`` needs, names and shapes only; raise what it would raise."""
    _load(config, fps, headers=True)


def _load(config: VideoRewardConfig, fps: float, headers: bool) -> VideoReward:
    try:
        template = TEMPLATE if config.template is None else read_limited(config.template, 1 << 20).decode("utf-8")
    except (OSError, ValueError) as error:
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
    return load_videoreward(config.path, shown, config.reward, config.weights, config.dtype, headers)
