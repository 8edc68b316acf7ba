"""Direct adversarial training: the discriminator's gradient reaches the student through decoder and last denoising step.

The sparse alternative to forward-process updates: one verdict per clip, back-propagated. Everything else is AFD's: the
rollouts, the discriminator, the canonical form, the pull towards the prior.
"""

import torch

from understudy import flow, objective
from understudy.config import GANConfig
from understudy.training.afd import OnPolicy, Rollouts, network_of, noise_like, opening
from understudy.training.state import TrainState
from understudy.training.update import Parts, student_update


class GAN(OnPolicy[GANConfig]):
    """The objective behind ``kind: gan``."""

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Update the student to raise D(x^) over D(x^T) for the clips [B, F, C, h, w] of its last denoising step."""
        student, network = state.policy("student"), network_of(state)
        x_t, t = own.states[-1], own.levels[-1]
        fixed = opening(student, x_t, shared)
        rows_of = [row for row, prompt in enumerate(own.index) if self._seen.rows[prompt]]
        real = torch.zeros_like(own.frames)
        if rows_of:
            real[rows_of] = self._shown_by_teacher(self._seen, [own.index[row] for row in rows_of], state.generator)
        jitter = self.judge.noise * noise_like(torch.stack([own.frames, real]), state.generator)

        def loss(rows: slice) -> Parts:
            clean, x, texts = own.latents[rows], x_t[rows], own.prompts[rows]
            v = student.teacher_forced(clean, x, t[rows], student.encode_text(texts))
            x0 = torch.cat([clean[:, :fixed], flow.x0_from_velocity(x, v, t[rows])[:, fixed:]], dim=1)
            # What was drawn again by the start student is judged as if that were the identity.
            drawn = self.codec.decode(objective.straight_through(own.judged[rows], x0)).clamp(0, 1)
            text = network.encode_text(texts)
            fake = network.logits(network.prepare(drawn) + jitter[0, rows], text)
            with torch.no_grad():
                wanted = network.logits(real[rows] + jitter[1, rows], text)
            verdict = objective.paired_loss(fake, wanted).mean()
            drift = objective.frame_error(v, self._prior(state, own, rows, x, t[rows]))[:, fixed:].mean()
            total = verdict + self.config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return student_update(state, self.train, loss, len(own.prompts))
