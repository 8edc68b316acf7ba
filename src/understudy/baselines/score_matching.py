"""A distribution-matching baseline (DMD, 2311.18828) for a teacher that can only be watched.

The teacher's score is not to be had, so a score model is fitted to its clips alone; another one follows the student's
own rollouts. Their difference is the student's target. No discriminator takes part.
"""

import copy

import torch
from torch import Tensor

from understudy import flow, objective
from understudy.config import ScoreMatchingConfig
from understudy.errors import ConfigError
from understudy.students.base import StudentModule, block_sizes
from understudy.training.afd import OnPolicy, opening
from understudy.training.state import StepReport, TrainState, set_rate
from understudy.training.update import Parts, student_update

_SCORES = ("real_score", "fake_score")


class ScoreMatching(OnPolicy[ScoreMatchingConfig]):
    """The objective behind ``kind: dmd``."""

    @property
    def adversarial(self) -> bool:
        """There is no discriminator."""
        return False

    @property
    def warmup_steps(self) -> int:
        """Steps of the scores before the student moves."""
        return self.config.score_warmup

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step: both scores begin as the start student."""
        if self.config.rerender and self.judge.rerender is None:
            raise ConfigError("objective.rerender is true but discriminator.rerender is null: give it a noise level")
        state = super().initial_state(student)
        del state.modules["discriminator"], state.optimisers["discriminator"]
        for name in _SCORES:
            score = state.modules[name] = copy.deepcopy(student).requires_grad_(True)
            state.optimisers[name] = torch.optim.AdamW(
                score.parameters(), self.config.score_lr, (0.9, 0.98), weight_decay=self.train.weight_decay
            )
        return state

    def prepare(self, state: TrainState, start: StudentModule) -> dict[str, float]:
        """Draw the teacher's clips again by the start student if the recipe asks for that; nothing to probe."""
        self._start = start
        clips = self.data.latents
        self._clips = self._redrawn(clips, self.data.row_prompts, self.seed) if self.config.rerender else clips
        return {}

    def step(self, state: TrainState) -> StepReport:
        """Do one step: both scores, and after their warm-up the student."""
        update = state.step - self.warmup
        shared = self._shared_blocks(max(0, update))
        texts, _, (latents, states, levels) = self._chain(
            state.policy("old"), state.generator, self.train.prompts, self.config.group, shared
        )
        values: dict[str, float] = {}
        for _ in range(self.config.score_steps if update >= 0 else 1):
            index = self.data.pick_prompts(len(latents), state.generator)
            clips = self._clips[self.data.pick_rows(index, state.generator)]
            prompts = [self.data.prompts[i] for i in index]
            values["real_score_loss"] = self._fit(state, "real_score", clips, prompts)
            values["fake_score_loss"] = self._fit(state, "fake_score", latents, texts)
        if update < 0:
            return StepReport(state.step, "warm-up", values)
        train = self.train
        set_rate(state.optimisers["student"], train.lr, update, train.steps, train.warmup, train.decay)
        values |= self._follow_scores(state, texts, latents, (states[-1], levels[-1]), shared)
        self._average(state, update)
        return StepReport(state.step, "update", values)

    def _fit(self, state: TrainState, name: str, clean: Tensor, prompts: list[str]) -> float:
        """Do one flow-matching step of a score on clips [B, F, C, h, w], each block given the clean ones before it."""
        score, optimiser = state.policy(name), state.optimisers[name]
        noisy, levels, noise = self._noised(state, clean)
        v = score.teacher_forced(clean, noisy, levels, score.encode_text(prompts))
        loss = objective.frame_error(v, flow.velocity_target(clean, noise)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.item())

    def _noised(self, state: TrainState, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noised clips [B, F, C, h, w], their levels [B, F] and the noise: uniform levels, one per block."""
        sizes = block_sizes(state.policy("student"), clean.shape[1])
        drawn = flow.draw_continuous((len(clean), len(sizes)), generator=state.generator)
        levels = flow.per_frame(drawn, sizes).to(clean)
        noise = torch.randn(clean.shape, generator=state.generator).to(clean)
        return flow.interpolate(clean, noise, levels), levels, noise

    def _follow_scores(
        self, state: TrainState, texts: list[str], latents: Tensor, last: tuple[Tensor, Tensor], shared: int
    ) -> dict[str, float]:
        """Update the student, through its last denoising step, towards where the two scores send its clips."""
        student, prior = state.policy("student"), state.policy("prior")
        fixed = opening(student, latents, shared)
        x_t, t = last
        noisy, levels, _ = self._noised(state, latents)

        def predict(name: str, rows: slice) -> Tensor:
            score = state.policy(name)
            v = score.teacher_forced(latents[rows], noisy[rows], levels[rows], score.encode_text(texts[rows]))
            return flow.x0_from_velocity(noisy[rows], v, levels[rows])

        def loss(rows: slice) -> Parts:
            clean, x, text = latents[rows], x_t[rows], student.encode_text(texts[rows])
            v = student.teacher_forced(clean, x, t[rows], text)
            with torch.no_grad():
                goal = objective.distribution_matching_target(
                    clean, predict("real_score", rows), predict("fake_score", rows)
                )
                v_prior = prior.teacher_forced(clean, x, t[rows], prior.encode_text(texts[rows]))
            x0 = flow.x0_from_velocity(x, v, t[rows])
            drift = objective.frame_error(v, v_prior)[:, fixed:].mean()
            total = 0.5 * objective.frame_error(x0, goal)[:, fixed:].mean() + self.config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return student_update(state, self.train, loss, len(latents))
