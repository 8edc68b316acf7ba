"""Adversarial flow distillation (2605.26105): forward-process updates on own rollouts, weighted by the verdict.

Departures from the paper that full-parameter training of a small student needed: the prior policy may be a slow average
instead of the frozen start, groups may share the noise of their first blocks, the old policy follows quickly. Each is a
setting.

Shape legend: B = P K rollouts, F latent frames, C channels, h/w latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.flow import Levels
from understudy.objectives import gauges, losses
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.objectives.update import draw_states
from understudy.students.base import StudentModule, by_block, in_parallel
from understudy.training.state import TrainState
from understudy.training.update import Loss, Parts


def build(config: AFDConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: afd``."""
    return inputs.on_policy(config, inputs.verdict(config), AFDUpdate(config, inputs.start.levels))


@dataclass(frozen=True)
class AFDUpdate:
    """Advantages become weights; the student learns on its noised rollouts, towards the good and away from the bad ones.

    Attributes:
        levels: the sampler's noise levels.
    """

    config: AFDConfig
    levels: Levels
    scored: bool = True

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss and the gauges of the rewards."""
        config = self.config
        advantages = losses.advantage(scores, config.scope)
        weights = losses.weight(advantages, config.limit).flatten()
        values = gauges.of_rewards(scores, weights, own.probes)
        if config.branches == "rectified":
            weights = losses.tilted_weight(advantages, config.temperature).flatten()
        return self._weighted(state, own, weights), values

    def _weighted(self, state: TrainState, own: Rollouts, weights: Tensor) -> Loss:
        """Return the loss for weights [B]."""
        config = self.config
        student, old, prior = (state.policy(name) for name in ("student", "old", "prior"))
        levels, noise = draw_states(state, own, self.levels, config.levels)
        noisy, target = losses.noised_state(own.latents, noise, levels)
        past = own.latents if config.context == "clean" else noisy
        scale = losses.level_weight(levels, config.space)
        scale[:, : own.opening(student)] = 0

        velocities = by_block if config.by_block else in_parallel

        def fixed(policy: StudentModule, rows: slice) -> Tensor:
            parts = velocities(policy, past[rows], noisy[rows], levels[rows], own.prompts[rows])
            return torch.cat([v for _, v in parts], dim=1)

        def loss(rows: slice) -> Parts:
            with torch.no_grad():
                v_old = None if config.branches == "positive" else fixed(old, rows)
                v_prior = fixed(prior, rows)
            for part, v in velocities(student, past[rows], noisy[rows], levels[rows], own.prompts[rows]):
                goal, share = target[rows][:, part], v.shape[1] / target.shape[1]
                if v_old is None:
                    policy = losses.positive_loss(v, goal, weights[rows])
                elif config.branches == "rectified":
                    policy = losses.rectified_loss(v, v_old[:, part], goal, weights[rows])
                else:
                    policy = losses.forward_process_loss(v, v_old[:, part], goal, weights[rows], config.beta)
                own_scale = scale[rows][:, part]
                drift = (own_scale * losses.frame_error(v, v_prior[:, part])).mean() * share
                total = (own_scale * policy).mean() * share + config.prior * drift
                yield total, {"loss": total.item(), "drift": drift.item()}

        return loss
