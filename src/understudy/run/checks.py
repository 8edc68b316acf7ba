"""What a run's settings come to, before anything is collected or trained: what would break later, or teach nothing.

A recipe is checked field by field when it is read; here is what only shows once the start student is there.
"""

from collections.abc import Iterator

from understudy.codecs.base import latent_frames
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.errors import ConfigError
from understudy.objectives.config import ObjectiveSection
from understudy.recipes.config import RunConfig
from understudy.students.base import block_sizes
from understudy.students.bundle import Bundle

_BATCH = 1 << 16  # rollouts per update; beyond any memory
_SEEN = 4  # frames: fewer are lost in the small discriminator's two halvings of time

Problem = tuple[str, str]
"""The key that is at fault, and what is wrong with it."""


def check(config: RunConfig, bundle: Bundle) -> list[str]:
    """Return what should be said of settings that are allowed and rarely meant.

    Raises:
        ConfigError: the run would break later, or train nothing; one line a problem.
    """
    found = [f"{key}: {problem}" for key, problem in problems(config, bundle)]
    if found:
        raise ConfigError("\n".join(dict.fromkeys(found)))
    judge = config.discriminator
    never = (judge.lr == 0 or judge.steps == 0) and judge.warmup == 0
    arms = [name or "this run" for name, settings in _arms(config) if settings.judged and never]
    return [
        f"{name}: the discriminator is never trained (its warmup is 0, and so are its lr or its steps): its verdict is noise"
        for name in arms
    ]


def problems(config: RunConfig, bundle: Bundle) -> Iterator[Problem]:
    """Yield what breaks, or trains nothing, with this start student."""
    blocks = len(block_sizes(bundle.student, latent_frames(bundle.codec, bundle.form.frames)))
    prompts, group = config.train.prompts, config.objective.group
    if prompts * group > _BATCH:
        yield "train.prompts", f"{prompts} prompts of {group} rollouts are too many for an update"
    for name, settings in _arms(config):
        key = f"compare.{name}.objective" if name else "objective"
        if settings.unused_blocks >= blocks:
            told = f"{settings.unused_blocks} of {blocks} blocks are left out of the loss, so nothing is trained; give fewer"
            yield f"{key}.{'shared' if settings.own_rollouts else 'masked'}_blocks", told
        if why := settings.idle(prompts):
            yield f"{key}.group", why
    judge, frames = config.discriminator, bundle.form.frames
    if any(settings.judged for _, settings in _arms(config)) and isinstance(judge, DiscriminatorConfig):
        if judge.skip_frames >= frames:
            yield "discriminator.skip_frames", f"{judge.skip_frames} of {frames} frames: it would see none; give fewer"
        elif frames < _SEEN:
            yield "discriminator.kind", f"clip_cnn needs clips of {_SEEN} frames or more, this student draws {frames}"


def _arms(config: RunConfig) -> list[tuple[str, ObjectiveSection]]:
    return [("", config.objective), *((name, arm.objective) for name, arm in config.compare.items())]
