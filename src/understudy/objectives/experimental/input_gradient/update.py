"""Experimental: a denser signal that stays black-box towards the teacher.

Each rollout is moved a small step along the discriminator's input gradient, through the decoder, and the student
regresses to the moved clip at the rollout's own noised states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow
from understudy.codecs.base import Codec
from understudy.objectives import losses
from understudy.objectives.adversary import network_of
from understudy.objectives.experimental.input_gradient.config import InputGradientConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.objectives.update import draw_states, prior_velocity
from understudy.training.state import TrainState
from understudy.training.update import Loss, Parts


def build(config: InputGradientConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: input-gradient``."""
    start = inputs.start
    return inputs.on_policy(config, inputs.adversary(), InputGradientUpdate(config, start.levels, start.codec))


@dataclass(frozen=True)
class InputGradientUpdate:
    """Regresses to rollouts moved along the verdict's gradient.

    Attributes:
        levels: the sampler's noise levels. codec: decodes what the verdict sees.
    """

    config: InputGradientConfig
    levels: flow.Levels
    codec: Codec
    scored: bool = False

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the way to the moved rollouts [B, F, C, h, w]."""
        config, student = self.config, state.policy("student")
        fixed = own.opening(student)
        goal = losses.moved(own.latents, self._gradient(state, own, fixed), config.reach)
        levels, noise = draw_states(state, own, self.levels, config.levels)
        noisy = flow.interpolate(own.latents, noise, levels)
        target = flow.velocity_from_x0(noisy, goal, levels)
        scale = losses.level_weight(levels, config.space)
        scale[:, :fixed] = 0

        def loss(rows: slice) -> Parts:
            clean, x, t = own.latents[rows], noisy[rows], levels[rows]
            v = student.teacher_forced(clean, x, t, student.encode_text(own.prompts[rows]))
            drift = (scale[rows] * losses.frame_error(v, prior_velocity(state, own, rows, x, t))).mean()
            total = (scale[rows] * losses.frame_error(v, target[rows])).mean() + config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return loss, {}

    def _gradient(self, state: TrainState, own: Rollouts, fixed: int) -> Tensor:
        """Return the gradient [B, F, C, h, w] of the verdict by the latents, 0 in the ``fixed`` first frames."""
        network = network_of(state)
        latents = own.judged.clone().requires_grad_(True)
        drawn = network.view(self.codec.decode(latents).clamp(0, 1))
        score = network.logits(drawn, network.encode_text(own.prompts)).sum()
        gradient = torch.autograd.grad(score, latents)[0]
        gradient[:, :fixed] = 0
        return gradient
