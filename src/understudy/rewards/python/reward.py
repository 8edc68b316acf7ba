"""A reward of one's own: a function, a class of callables, or an object."""

import functools
import inspect

from understudy.rewards.base import Reward
from understudy.rewards.python.config import PythonRewardConfig


def build(config: PythonRewardConfig) -> Reward:
    """Return the reward: a function with its settings bound, a class's object made with them, or the object itself."""
    found = config.found()
    if inspect.isclass(found):
        made: Reward = config.made()
        return made
    reward: Reward = functools.partial(found, **config.settings) if config.settings else found
    return reward
