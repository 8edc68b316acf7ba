"""Updates: how scores become a loss of the student, and what several of them share.

Shape legend: B = P K rollouts, F latent frames, C channels, h/w latents.
"""

from typing import Protocol

import torch
from torch import Tensor

from understudy import flow
from understudy.objectives.rollouts import Rollouts
from understudy.students.base import block_sizes
from understudy.training.state import TrainState
from understudy.training.update import Loss


class Update(Protocol):
    """Turns rollouts and their scores into a loss; holds fixed inputs only.

    Attributes:
        scored: whether it asks for scores at all.
    """

    @property
    def scored(self) -> bool:
        """See the class."""
        ...

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of a slice of the batch, and figures to record.

        ``scores`` [P, K] are empty where ``scored`` is false. What is random is drawn here, so that slices see one draw.
        """
        ...


def draw_states(state: TrainState, own: Rollouts, sampler: flow.Levels, kind: str) -> tuple[Tensor, Tensor]:
    """Return levels [B, F] and noise [B, F, C, h, w] for an update: a group that shares an opening shares both.

    Levels are the ``sampler``'s own, one for each block, or, with ``kind`` "continuous", uniform.
    """
    generator, (b, f) = state.generator, own.latents.shape[:2]
    sizes = block_sizes(state.policy("student"), f)
    groups = b // own.group if own.shared else b
    if kind == "sampler":
        levels = flow.draw_levels(sampler, (groups, len(sizes)), generator)
    else:
        levels = flow.draw_continuous((groups, len(sizes)), generator=generator)
    noise = torch.randn((groups, *own.latents.shape[1:]), generator=generator)
    repeat = b // groups
    levels = flow.per_frame(levels, sizes).repeat_interleave(repeat, 0).to(own.latents)
    return levels, noise.repeat_interleave(repeat, 0).to(own.latents)


@torch.no_grad()
def prior_velocity(state: TrainState, own: Rollouts, rows: slice, x: Tensor, t: Tensor) -> Tensor:
    """Return the prior policy's velocities [B, F, C, h, w] at noised states ``x``, for the pull towards it."""
    prior = state.policy("prior")
    return prior.teacher_forced(own.latents[rows], x, t, prior.encode_text(own.prompts[rows]))
