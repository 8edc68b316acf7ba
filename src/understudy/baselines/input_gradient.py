"""Experimental: a denser signal that stays black-box towards the teacher.

Each rollout is moved a small step along the discriminator's input gradient, through the decoder, and the student
regresses to the moved clip at the rollout's own noised states.
"""

import torch
from torch import Tensor

from understudy import flow, objective
from understudy.config import InputGradientConfig
from understudy.training.afd import OnPolicy, Rollouts, network_of, opening
from understudy.training.state import TrainState
from understudy.training.update import Parts, student_update


class InputGradient(OnPolicy[InputGradientConfig]):
    """The objective behind ``kind: input-gradient``."""

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Update the student towards its moved rollouts [B, F, C, h, w]."""
        config, student = self.config, state.policy("student")
        fixed = opening(student, own.latents, shared)
        goal = objective.moved(own.latents, self._gradient(state, own, fixed), config.reach)
        levels, noise = self._draws(state, own, config.levels, shared)
        noisy = flow.interpolate(own.latents, noise, levels)
        target = flow.velocity_from_x0(noisy, goal, levels)
        scale = objective.level_weight(levels, config.space)
        scale[:, :fixed] = 0

        def loss(rows: slice) -> Parts:
            clean, x, t = own.latents[rows], noisy[rows], levels[rows]
            v = student.teacher_forced(clean, x, t, student.encode_text(own.prompts[rows]))
            drift = (scale[rows] * objective.frame_error(v, self._prior(state, own, rows, x, t))).mean()
            total = (scale[rows] * objective.frame_error(v, target[rows])).mean() + config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return student_update(state, self.train, loss, len(own.prompts))

    def _gradient(self, state: TrainState, own: Rollouts, fixed: int) -> Tensor:
        """Return the gradient [B, F, C, h, w] of the verdict by the latents, 0 in the ``fixed`` first frames."""
        network = network_of(state)
        latents = own.judged.clone().requires_grad_(True)
        drawn = network.prepare(self.codec.decode(latents).clamp(0, 1))
        score = network.logits(drawn, network.encode_text(own.prompts)).sum()
        gradient = torch.autograd.grad(score, latents)[0]
        gradient[:, :fixed] = 0
        return gradient
