"""Direct adversarial training: the discriminator's gradient reaches the student through decoder and last denoising step.

The sparse alternative to forward-process updates: one verdict per clip, back-propagated. Everything else is AFD's: the
rollouts, the discriminator, the canonical form, the pull towards the prior.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow
from understudy.objectives import losses
from understudy.objectives.adversary import Adversary, network_of, noise_like
from understudy.objectives.gan.config import GANConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.objectives.update import prior_velocity
from understudy.training.state import TrainState
from understudy.training.update import Loss, Parts


def build(config: GANConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: gan``."""
    adversary = inputs.adversary()
    return inputs.on_policy(config, adversary, GANUpdate(config, adversary))


@dataclass(frozen=True)
class GANUpdate:
    """Raises D(x^) over D(x^T) for the clips of the last denoising step; it needs gradients of the verdict, not scores."""

    config: GANConfig
    adversary: Adversary
    scored: bool = False

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of clips [B, F, C, h, w] drawn by the last denoising step."""
        adversary, student, network = self.adversary, state.policy("student"), network_of(state)
        x_t, t = own.states[-1], own.levels[-1]
        fixed = own.opening(student)
        rows_of = [row for row, prompt in enumerate(own.index) if adversary.seen.rows[prompt]]
        real = torch.zeros_like(own.frames)
        if rows_of:
            real[rows_of] = adversary.draw_real(adversary.seen, [own.index[row] for row in rows_of], state.generator)
        jitter = adversary.config.noise * noise_like(torch.stack([own.frames, real]), state.generator)

        def loss(rows: slice) -> Parts:
            clean, x, texts = own.latents[rows], x_t[rows], own.prompts[rows]
            v = student.teacher_forced(clean, x, t[rows], student.encode_text(texts))
            x0 = torch.cat([clean[:, :fixed], flow.x0_from_velocity(x, v, t[rows])[:, fixed:]], dim=1)
            # What was drawn again by the start student is judged as if that were the identity.
            drawn = adversary.codec.decode(losses.straight_through(own.judged[rows], x0)).clamp(0, 1)
            text = network.encode_text(texts)
            fake = network.logits(network.view(drawn) + jitter[0, rows], text)
            with torch.no_grad():
                wanted = network.logits(real[rows] + jitter[1, rows], text)
            verdict = losses.paired_loss(fake, wanted).mean()
            drift = losses.frame_error(v, prior_velocity(state, own, rows, x, t[rows]))[:, fixed:].mean()
            total = verdict + self.config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return loss, {}
