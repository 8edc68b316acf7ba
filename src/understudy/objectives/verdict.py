"""Verdicts: what rollouts are worth. A discriminator that learns along is one (``adversary``), a reward another.

Shape legend: B rollouts = P prompts x K rollouts each, T frames, H/W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from understudy.objectives.rollouts import Groups, Rollouts
from understudy.students.base import StudentModule
from understudy.training.state import TrainState

View = Callable[[Tensor], Tensor]
"""Decoded clips [B, T, 3, H, W] in [0, 1] -> what is kept of them [B, ...]."""


class Verdict:
    """Scores rollouts, and does whatever else that takes; all of it but ``scores`` is optional.

    Attributes:
        warmup: steps it needs before the student moves.
    """

    warmup: int = 0

    def add_to(self, state: TrainState, student: StudentModule) -> None:
        """Add the modules and optimisers that it learns with to a state before its first step."""

    def prepare(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Do what is deterministic and not worth saving, at the start and on resume; return the shortcut probe, if any."""
        return {}

    def view(self, state: TrainState) -> View | None:
        """Return what to keep of decoded rollouts; None: they need not be decoded."""
        return None

    def warm_up(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Do one step of the warm-up; return its figures."""
        raise NotImplementedError

    def learn(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Learn from fresh rollouts before they are scored; return figures."""
        return {}

    def scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the scores [P, K] of rollouts: higher is better, comparable within a prompt."""
        raise NotImplementedError


class RandomVerdict(Verdict):
    """Standard normal scores: the control that shows what an update does without information."""

    def view(self, state: TrainState) -> View:
        """Return what keeps nothing: clips are decoded for the gauges alone."""
        return lambda clips: clips.new_empty(len(clips), 0)

    def scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the scores [P, K]."""
        return torch.randn(len(own.prompts) // own.group, own.group, generator=state.generator)
