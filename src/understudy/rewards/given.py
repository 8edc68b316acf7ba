"""Rewards as they are given from Python: one or several, weighted, by name, beside the discriminator."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from understudy.errors import ConfigError
from understudy.rewards.base import Reward
from understudy.rewards.config import RewardSection
from understudy.rewards.python.config import PythonRewardConfig

One: TypeAlias = Reward | RewardSection | str
Rewards: TypeAlias = One | tuple[float, One] | Sequence[One | tuple[float, One]] | Mapping[str, One | tuple[float, One]]
"""A callable, its name as module:Name, or a section; "discriminator" is the recipe's own."""


def given_rewards(reward: Any) -> tuple[dict[str, RewardSection], bool]:
    """Return the section of every reward by its name, and whether the discriminator is one of them.

    Raises:
        ConfigError: one cannot be called, two have one name, or the discriminator is given a weight.
    """
    sections: dict[str, RewardSection] = {}
    beside = False
    for name, one in _named(reward):
        weight, given = one if isinstance(one, tuple) else (1.0, one)
        if isinstance(given, str) and given == "discriminator":
            if weight != 1:
                raise ConfigError(f"the discriminator has weight 1, not {weight}: weigh the rewards against that")
            beside = True
            continue
        if name in sections:
            raise ConfigError(f"two rewards are called {name!r}: give them as {{name: reward}}")
        sections[name] = _section(name, weight, given)
    if not sections:
        raise ConfigError("reward holds no reward: give a function of (clips, prompts)")
    return sections, beside


def _named(reward: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(reward, Mapping):
        yield from reward.items()
        return
    single = isinstance(reward, tuple) and len(reward) == 2 and isinstance(reward[0], int | float)
    several = isinstance(reward, Sequence) and not isinstance(reward, str) and not single
    for one in reward if several else [reward]:
        given = one[1] if isinstance(one, tuple) and len(one) == 2 else one
        if isinstance(given, str):
            yield given.rpartition(":")[2], one
            continue
        while isinstance(given, functools.partial):
            given = given.func
        yield getattr(given, "__name__", type(given).__name__).strip("<>"), one


def _section(name: str, weight: Any, given: Any) -> RewardSection:
    if isinstance(given, RewardSection):
        return given if weight == 1 else given.model_copy(update={"weight": weight})
    try:
        if isinstance(given, str):
            return PythonRewardConfig(call=given, weight=weight)
        if callable(given):
            return PythonRewardConfig.holding(given, weight=weight)
    except ValueError as error:
        why = str(error).splitlines()[2].strip() if error.args == () else str(error)
        raise ConfigError(f"reward {name!r} with weight {weight!r} is none ({why})") from None
    raise ConfigError(f"reward {name!r} is a {type(given).__name__}: give a function of (clips, prompts)")
