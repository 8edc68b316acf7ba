"""The section of a reward from Python."""

from typing import ClassVar, Literal

from understudy.plugins import PythonSection
from understudy.rewards.config import RewardSection


class PythonRewardConfig(PythonSection, RewardSection):
    """A function of clips and prompts, or a class whose objects are called with them."""

    kind: Literal["python"] = "python"

    what: ClassVar[str] = "reward"
