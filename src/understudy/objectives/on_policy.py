"""Learning on own rollouts, in the order of the paper (2605.26105): rollouts, verdict, update, averages.

Each part can be replaced alone: ``dataclasses.replace(objective, verdict=mine)``.
"""

from dataclasses import dataclass

import torch

from understudy.objectives.averages import Averages
from understudy.objectives.rollouts import Groups
from understudy.objectives.update import Update
from understudy.objectives.verdict import Verdict
from understudy.recipes.config import TrainConfig
from understudy.students.base import StudentModule
from understudy.training.state import StepReport, TrainState, set_rate
from understudy.training.update import student_update


@dataclass(frozen=True)
class OnPolicy:
    """An objective on the student's own rollouts, made of four parts; all that changes is in the state.

    Attributes:
        groups: draws the rollouts.
        verdict: scores them, and may learn along.
        update: turns scores into a loss.
        averages: the policies that follow the student.
        train: optimisation of the student.
    """

    groups: Groups
    verdict: Verdict
    update: Update
    averages: Averages
    train: TrainConfig

    @property
    def warmup(self) -> int:
        """Steps before the student moves."""
        return self.verdict.warmup

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.warmup + self.train.steps

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        state = self.averages.initial_state(student)
        self.verdict.add_to(state, student)
        return state

    def prepare(self, state: TrainState) -> dict[str, float]:
        """Do what is deterministic, so that it is repeated on resume instead of being saved; return the shortcut probe."""
        return self.verdict.prepare(state, self.groups)

    def step(self, state: TrainState) -> StepReport:
        """Do one step: of the verdict alone during its warm-up, else rollouts, verdict, update, averages."""
        if state.step < self.warmup:
            return StepReport(state.step, "warm-up", self.verdict.warm_up(state, self.groups))
        train, update = self.train, state.step - self.warmup
        own = self.groups.draw(state.policy("old"), state.generator, update, self.verdict.view(state))
        values = self.verdict.learn(state, own)
        set_rate(state.optimisers["student"], train.lr, update, train.steps, train.warmup, train.decay)
        scores = self.verdict.scores(state, own) if self.update.scored else torch.empty(0)
        loss, said = self.update.loss(state, own, scores)
        values = values | said | student_update(state, train, loss, len(own.prompts))
        self.averages.follow(state, update)
        return StepReport(state.step, "update", values)
