"""The averaged policies of a run on own rollouts: the one that is shipped, the one that draws, the one that holds back."""

from dataclasses import dataclass

from understudy.objectives.config import OnPolicyConfig
from understudy.recipes.config import LoraConfig, TrainConfig
from understudy.students.base import StudentModule
from understudy.training.state import TrainState, average_into, new_state


@dataclass(frozen=True)
class Averages:
    """Makes "student", "ema", "old" and "prior" of a start student, and lets the last three follow the first.

    "ema" is evaluated and shipped; "old" draws the rollouts and is what updates are measured from; "prior" is what the
    student is pulled towards: a slow average of "ema", or the frozen start student (the paper).
    """

    config: OnPolicyConfig
    train: TrainConfig
    seed: int
    lora: LoraConfig | None

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        fixed = "prior" if self.config.prior_policy == "start" else None
        return new_state(student, self.train, self.seed, self.lora, "ema", "old", "prior", reference=fixed)

    def follow(self, state: TrainState, update: int) -> None:
        """Let the averages follow the student after ``update``."""
        average_into(state.modules["ema"], state.modules["student"], min(self.train.ema, update / (update + 5)))
        average_into(state.modules["old"], state.modules["student"], min(self.config.old_decay, 0.02 * update))
        if self.config.prior_policy == "slow":
            average_into(state.modules["prior"], state.modules["ema"], 0.97)
