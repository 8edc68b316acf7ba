"""What the sections of all objectives have, and what is asked of them before anything is built."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from understudy.discriminators.config import JudgeConfig
from understudy.recipes.section import Section, far

Hint = tuple[bool | None, str, str]
"""(False: will not work, None: allowed but rarely meant; the key; what about it)."""


@dataclass(frozen=True)
class Passes:
    """How often clips go through the student: rollouts, forward passes, forward and backward passes."""

    rollouts: float = 0.0
    forward: float = 0.0
    backward: float = 0.0


class ObjectiveSection(Section):
    """Base of all objectives' sections: what a recipe's readers ask of one without knowing its kind."""

    kind: str
    group: int = Field(8, ge=1, le=far(4096))
    """Clips per prompt of the batch."""

    own_rollouts: ClassVar[bool] = False
    """Whether it rolls the student out: those that do not cost a forward and a backward pass a clip and no more."""

    @property
    def arm(self) -> str:
        """Name of a run's own arm in records and reports."""
        return self.kind

    @property
    def judged(self) -> bool:
        """Whether a discriminator takes part."""
        return False

    @property
    def unused_blocks(self) -> int:
        """First blocks of a clip that its loss leaves out."""
        return 0

    def warmup(self, judge: JudgeConfig) -> int:
        """Return the steps before the student moves."""
        return judge.warmup if self.judged else 0

    def update_passes(self, judge: JudgeConfig) -> Passes:
        """Return what an update costs for each of its clips, the discriminator's passes counted as half of the student's."""
        return Passes(backward=1.0)

    def warmup_passes(self, judge: JudgeConfig, batch: int) -> Passes:
        """Return what the warm-up costs in all, for batches of ``batch`` clips."""
        return Passes()

    def idle(self, prompts: int) -> str:
        """Say why an update on ``prompts`` prompts would train nothing; empty where it trains something."""
        return ""

    def hints(self, judge: JudgeConfig) -> Iterator[Hint]:
        """Yield what is wrong with its settings, or allowed but rarely meant."""
        yield from ()


class OnPolicyConfig(ObjectiveSection):
    """What all objectives on the student's own rollouts have in common."""

    group: int = Field(8, ge=1, le=far(4096))
    """Rollouts K per prompt."""
    prior: float = Field(0.15, ge=0, le=far(1e6))
    """Weight lambda of the pull towards the prior policy."""
    prior_policy: Literal["slow", "start"] = "slow"
    """slow: a slow average of the run's own average; start: the frozen start student (the paper)."""
    shared_blocks: int = Field(1, ge=0, le=far(100_000))
    """First blocks whose noise a group shares; they are left out of the loss."""
    shared_share: float = Field(1.0, ge=0, le=1)
    """Share of the updates whose groups share their first blocks; in the others every block is drawn and trained."""
    old_decay: float = Field(0.5, ge=0, lt=1)
    """Largest decay of the old policy; it rises from 0 by 0.02 per update."""

    own_rollouts: ClassVar[bool] = True

    @property
    def judged(self) -> bool:
        """Whether a discriminator takes part: with rollouts, unless a kind says otherwise."""
        return True

    @property
    def judged_again(self) -> bool:
        """Whether what is scored may be what the start student draws of a rollout, instead of the rollout itself."""
        return True

    @property
    def unused_blocks(self) -> int:
        """First blocks of a clip that its loss leaves out: those that a group shares, if it always does."""
        return self.shared_blocks if self.shared_share == 1 else 0

    def update_passes(self, judge: JudgeConfig) -> Passes:
        """Return what an update costs for each of its clips: a rollout, the verdict's steps, two frozen policies, a step."""
        drawn = _drawn(judge) if self.judged_again else 1.0
        return Passes(drawn, 2.0, 1.0 + (0.5 * judge.steps if self.judged else 0.0))

    def warmup_passes(self, judge: JudgeConfig, batch: int) -> Passes:
        """Return what the warm-up costs in all: a pool of rollouts, and the discriminator's steps."""
        if not self.judged:
            return Passes()
        return Passes(judge.pool * _drawn(judge), 0.0, 0.5 * judge.warmup * batch)


class ScoredConfig(OnPolicyConfig):
    """What objectives have that learn from scores of rollouts alone, whoever gives them."""

    reward: Literal["discriminator", "rewards", "random"] = "discriminator"
    """Who scores: the discriminator, with the recipe's ``rewards`` if it has any; those alone; or nobody: the control that
    shows what the update does without information."""

    @property
    def arm(self) -> str:
        """Name of a run's own arm: the control without a verdict has one of its own."""
        return "random" if self.reward == "random" else self.kind

    @property
    def judged(self) -> bool:
        """Whether a discriminator takes part."""
        return self.reward == "discriminator"

    @property
    def judged_again(self) -> bool:
        """Whether a discriminator, or the control without one, scores: rewards see what the student itself drew."""
        return self.reward != "rewards"

    def idle(self, prompts: int) -> str:
        """Say why an update on ``prompts`` prompts would train nothing: scores count beside others alone."""
        if self.group > 1 or prompts > 1:
            return ""
        return (
            "1 rollout of 1 prompt an update has nothing to be compared with, so every advantage is 0 and nothing is "
            "trained; give 2 or more, or more train.prompts"
        )


def _drawn(judge: JudgeConfig) -> float:
    """Return the rollouts that a judged one costs: half of one more if it is drawn again."""
    return 1.5 if judge.rerender_own and judge.rerender else 1.0
