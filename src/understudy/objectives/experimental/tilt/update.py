"""Experimental: reward tilting that aggregates first, the core of DiffusionART (2610.12572) in its public description.

AFD pulls each rollout towards or away from itself. Here a prompt's rollouts are first made into one direction, the
covariance of clips and rewards, and the student's predictions at the states that its sampler visited are moved along it.
What DiffusionART does to restore a policy that has gone too far is the prior's work here, as in all rows.

Shape legend: B = P K rollouts, as in [B, F, C, h, w]: F latent frames, C channels, h/w latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow
from understudy.objectives import gauges, losses
from understudy.objectives.experimental.tilt.config import TiltConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.objectives.update import prior_velocity
from understudy.training.state import TrainState
from understudy.training.update import Loss, Parts


def build(config: TiltConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: tilt``."""
    return inputs.on_policy(config, inputs.verdict(config), TiltUpdate(config))


@dataclass(frozen=True)
class TiltUpdate:
    """Moves the old policy's predictions at the visited states along their prompt's direction."""

    config: TiltConfig
    scored: bool = True

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss at the visited states [S, B, F, C, h, w], and the gauges of the rewards."""
        config, student, old = self.config, state.policy("student"), state.policy("old")
        advantages = losses.advantage(scores, config.scope)
        values = gauges.of_rewards(scores, losses.weight(advantages, 1.0), own.probes)
        fixed = own.opening(student)
        step = config.gain * losses.reward_covariance(own.latents, advantages)
        step[:, :fixed] = 0
        values["reach"] = float(step.square().mean().sqrt())
        step = step.repeat_interleave(config.group, 0)

        def loss(rows: slice) -> Parts:
            clean, texts = own.latents[rows], own.prompts[rows]
            for visited, levels in zip(own.states, own.levels, strict=True):
                x, t = visited[rows], levels[rows]
                scale = losses.level_weight(t, config.space)
                scale[:, :fixed] = 0
                with torch.no_grad():
                    before = flow.x0_from_velocity(x, old.teacher_forced(clean, x, t, old.encode_text(texts)), t)
                    goal = flow.velocity_from_x0(x, before + step[rows], t)
                v = student.teacher_forced(clean, x, t, student.encode_text(texts))
                drift = (scale * losses.frame_error(v, prior_velocity(state, own, rows, x, t))).mean() / len(own.states)
                total = (scale * losses.frame_error(v, goal)).mean() / len(own.states) + config.prior * drift
                yield total, {"loss": total.item(), "drift": drift.item()}

        return loss, values
