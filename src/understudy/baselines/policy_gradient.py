"""Reverse-chain policy gradient: the sampler's re-noising steps as actions, their clipped likelihood ratios as loss.

GRPO on the stochastic few-step sampler, as Flow-GRPO (2505.05470) does it on many steps. A chain of n levels has n - 1
random steps; the last prediction has no density, so the picture's finish is only reached through shared weights.
"""

import torch

from understudy import flow, objective
from understudy.config import PolicyGradientConfig
from understudy.discriminators import gauges
from understudy.errors import ConfigError
from understudy.students.base import StudentModule
from understudy.training.afd import OnPolicy, Rollouts, opening
from understudy.training.state import TrainState
from understudy.training.update import Parts, student_update


class PolicyGradient(OnPolicy[PolicyGradientConfig]):
    """The objective behind ``kind: grpo``."""

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step.

        Raises:
            ConfigError: the sampler takes one step only.
        """
        if min(len(own) for own in flow.level_lists(self.levels)) < 2:
            raise ConfigError(
                f"objective grpo needs a sampler of two or more levels, not {list(self.levels)}: one step has no random "
                "transition whose likelihood could be raised"
            )
        return super().initial_state(student)

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Update the student on the transitions [S, B, F, C, h, w] of its rollouts, weighted by the verdict."""
        config = self.config
        scores = self._scores(state, own)
        advantages = objective.advantage(scores, config.scope).clamp(-config.limit, config.limit).flatten()
        values = gauges.of_rewards(scores, objective.weight(advantages, config.limit), own.probes)
        student, old = state.policy("student"), state.policy("old")
        fixed = opening(student, own.latents, shared)
        levels = own.levels
        per_frame = own.latents[0, 0].numel()  # the loss per value of a latent, so that lambda keeps its meaning

        def loss(rows: slice) -> Parts:
            clean, texts = own.latents[rows], own.prompts[rows]
            total, pull, ratios = clean.new_zeros(()), clean.new_zeros(()), []
            for k in range(len(levels) - 1):
                x, after, t, t_after = (
                    own.states[k][rows],
                    own.states[k + 1][rows],
                    levels[k][rows],
                    levels[k + 1][rows],
                )
                v = student.teacher_forced(clean, x, t, student.encode_text(texts))
                with torch.no_grad():
                    v_old = old.teacher_forced(clean, x, t, old.encode_text(texts))
                    before = flow.renoise_log_prob(after, flow.x0_from_velocity(x, v_old, t), t_after)
                log_ratio = flow.renoise_log_prob(after, flow.x0_from_velocity(x, v, t), t_after) - before
                step = objective.clipped_ratio_loss(log_ratio, advantages[rows], config.ratio_clip) / per_frame
                total = total + step[:, fixed:].mean()
                pull = pull + objective.frame_error(v, self._prior(state, own, rows, x, t))[:, fixed:].mean()
                ratios.append((log_ratio.detach().exp() - 1).abs().mean())
            total = total + config.prior * pull
            ratio = float(torch.stack(ratios).mean())
            yield total, {"loss": total.item(), "drift": pull.item(), "ratio_change": ratio}

        return values | student_update(state, self.train, loss, len(own.prompts))
