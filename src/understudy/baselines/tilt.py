"""Experimental: reward tilting that aggregates first, the core of DiffusionART (2610.12572) in its public description.

AFD pulls each rollout towards or away from itself. Here a prompt's rollouts are first made into one direction, the
covariance of clips and rewards, and the student's predictions at the states that its sampler visited are moved along it.
What DiffusionART does to restore a policy that has gone too far is the prior's work here, as in all rows.
"""

import torch

from understudy import flow, objective
from understudy.config import TiltConfig
from understudy.discriminators import gauges
from understudy.training.afd import OnPolicy, Rollouts, opening
from understudy.training.state import TrainState
from understudy.training.update import Parts, student_update


class Tilt(OnPolicy[TiltConfig]):
    """The objective behind ``kind: tilt``."""

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Move the old policy's predictions at the visited states [S, B, F, C, h, w] along their prompt's direction."""
        config, student, old = self.config, state.policy("student"), state.policy("old")
        scores = self._scores(state, own)
        advantages = objective.advantage(scores, config.scope)
        values = gauges.of_rewards(scores, objective.weight(advantages, 1.0), own.probes)
        fixed = opening(student, own.latents, shared)
        step = config.gain * objective.reward_covariance(own.latents, advantages)
        step[:, :fixed] = 0
        values["reach"] = float(step.square().mean().sqrt())
        step = step.repeat_interleave(config.group, 0)

        def loss(rows: slice) -> Parts:
            clean, texts = own.latents[rows], own.prompts[rows]
            for visited, levels in zip(own.states, own.levels, strict=True):
                x, t = visited[rows], levels[rows]
                scale = objective.level_weight(t, config.space)
                scale[:, :fixed] = 0
                with torch.no_grad():
                    before = flow.x0_from_velocity(x, old.teacher_forced(clean, x, t, old.encode_text(texts)), t)
                    goal = flow.velocity_from_x0(x, before + step[rows], t)
                v = student.teacher_forced(clean, x, t, student.encode_text(texts))
                drift = (scale * objective.frame_error(v, self._prior(state, own, rows, x, t))).mean() / len(own.states)
                total = (scale * objective.frame_error(v, goal)).mean() / len(own.states) + config.prior * drift
                yield total, {"loss": total.item(), "drift": drift.item()}

        return values | student_update(state, self.train, loss, len(own.prompts))
