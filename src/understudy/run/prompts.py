"""The prompts of a run: those to train on, and those held out for evaluation."""

import numpy as np

from understudy.errors import ConfigError
from understudy.prompts import read_prompts
from understudy.recipes.config import RunConfig, WorldPromptsConfig
from understudy.teachers.world import grammar


def training_prompts(config: RunConfig) -> list[str]:
    """Return the prompts to collect and train on."""
    if isinstance(config.prompts, WorldPromptsConfig):
        return grammar.prompts(_world_scenes(config.prompts)[0], config.prompts.per_scene, 0)
    return read_prompts(config.prompts.train)


def held_out_prompts(config: RunConfig) -> list[str]:
    """Return the prompts for evaluation; none is among the training prompts.

    Raises:
        ConfigError: a held-out prompt is trained on, or there is none.
    """
    if isinstance(config.prompts, WorldPromptsConfig):
        prompts = grammar.prompts(_world_scenes(config.prompts)[1], 99, 1)
    else:
        prompts = read_prompts(config.prompts.held_out)
        if seen := sorted(set(prompts) & set(read_prompts(config.prompts.train))):
            raise ConfigError(f"held-out prompt {seen[0]!r} is also a training prompt: remove it from one of the files")
    order = np.random.default_rng(2).permutation(len(prompts))
    return [prompts[i] for i in sorted(order[: config.evaluation.prompts])]


def _world_scenes(prompts: WorldPromptsConfig) -> tuple[list[grammar.Scene], list[grammar.Scene]]:
    """Split every family's scenes into training and held-out ones by the draw that the recipe names."""
    rng = np.random.default_rng(prompts.split)
    training: list[grammar.Scene] = []
    held_out: list[grammar.Scene] = []
    for family in prompts.families:
        places, materials = prompts.places or (None,), prompts.materials or (None,)
        scenes = list(grammar.scenes((family,), prompts.colours, prompts.sizes, materials=materials, places=places))
        count = max(1, round(prompts.held_out * len(scenes)))
        if count >= len(scenes):
            raise ConfigError(
                f"prompts leave {len(scenes)} scene(s) of {family!r}, too few to hold any out: add colours or sizes"
            )
        held = set(rng.permutation(len(scenes))[:count].tolist())
        training += [scene for i, scene in enumerate(scenes) if i not in held]
        held_out += [scene for i, scene in enumerate(scenes) if i in held]
    return training, held_out
