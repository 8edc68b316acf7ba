"""Reverse-chain policy gradient: the sampler's re-noising steps as actions, their clipped likelihood ratios as loss.

GRPO on the stochastic few-step sampler, as Flow-GRPO (2505.05470) does it on many steps. A chain of n levels has n - 1
random steps; the last prediction has no density, so the picture's finish is only reached through shared weights.

Shape legend: B = P K rollouts, as in [B, F, C, h, w]: F latent frames, C channels, h/w latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.objectives import gauges, losses
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.objectives.update import prior_velocity
from understudy.training.state import TrainState
from understudy.training.update import Loss, Parts


def build(config: PolicyGradientConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: grpo``.

    Raises:
        ConfigError: the sampler takes one step only.
    """
    levels = inputs.start.levels
    if min(len(own) for own in flow.level_lists(levels)) < 2:
        raise ConfigError(
            f"objective grpo needs a sampler of two or more levels, not {list(levels)}: one step has no random "
            "transition whose likelihood could be raised"
        )
    return inputs.on_policy(config, inputs.verdict(config), PolicyGradientUpdate(config))


@dataclass(frozen=True)
class PolicyGradientUpdate:
    """Clipped likelihood ratios of the sampler's re-noising steps, weighted by the verdict."""

    config: PolicyGradientConfig
    scored: bool = True

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of the transitions [S, B, F, C, h, w] of rollouts, and the gauges of their rewards."""
        config = self.config
        advantages = losses.advantage(scores, config.scope).clamp(-config.limit, config.limit).flatten()
        values = gauges.of_rewards(scores, losses.weight(advantages, config.limit), own.probes)
        student, old = state.policy("student"), state.policy("old")
        fixed = own.opening(student)
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
                step = losses.clipped_ratio_loss(log_ratio, advantages[rows], config.ratio_clip) / per_frame
                total = total + step[:, fixed:].mean()
                pull = pull + losses.frame_error(v, prior_velocity(state, own, rows, x, t))[:, fixed:].mean()
                ratios.append((log_ratio.detach().exp() - 1).abs().mean())
            total = total + config.prior * pull
            ratio = float(torch.stack(ratios).mean())
            yield total, {"loss": total.item(), "drift": pull.item(), "ratio_change": ratio}

        return loss, values
