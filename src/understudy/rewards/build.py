"""The reward that a recipe names."""

from understudy.recipes.kinds import REWARDS
from understudy.rewards.base import Reward
from understudy.rewards.config import RewardSection


def build_reward(config: RewardSection) -> Reward:
    """Return the reward; nothing is asked yet.

    Raises:
        ConfigError: there is no such plug-in. MissingExtra: packages are missing.
    """
    reward: Reward = REWARDS.build(config)
    return reward
