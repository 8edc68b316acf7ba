"""A distribution-matching baseline (DMD, 2311.18828) for a teacher that can only be watched.

The teacher's score is not to be had, so a score model is fitted to its clips alone; another one follows the student's
own rollouts. Their difference is the student's target. No discriminator takes part.

Shape legend: B rollouts, N teacher clips, F latent frames, C channels, h/w latents.
"""

import copy
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.objectives import losses
from understudy.objectives.dmd.config import ScoreMatchingConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Groups, Rollouts
from understudy.objectives.update import prior_velocity
from understudy.objectives.verdict import Verdict
from understudy.recipes.config import TrainConfig
from understudy.students.base import StudentModule, block_sizes
from understudy.training.canonical import Rerender
from understudy.training.data import TeacherClips
from understudy.training.state import TrainState, adamw
from understudy.training.update import Loss, Parts

_REAL: Final = "real_score"
_FAKE: Final = "fake_score"


def build(config: ScoreMatchingConfig, inputs: Inputs) -> OnPolicy:
    """Return the objective behind ``kind: dmd``.

    Raises:
        ConfigError: clips are to be drawn again, but from no level.
    """
    again = inputs.rerender
    if config.rerender and again.level is None:
        raise ConfigError("objective.rerender is true but discriminator.rerender is null: give it a noise level")
    scores = TwoScores(config, inputs.train, inputs.data, again if config.rerender else None, inputs.run.seed)
    return inputs.on_policy(config, scores, ScoreMatchingUpdate(config))


class TwoScores(Verdict):
    """Two score models instead of a verdict: one of the teacher's clips, one of the student's rollouts."""

    def __init__(
        self,
        config: ScoreMatchingConfig,
        train: TrainConfig,
        data: TeacherClips,
        rerender: Rerender | None,
        seed: int,
    ) -> None:
        self.config, self.train, self.data, self.rerender, self.seed = config, train, data, rerender, seed
        self.warmup = config.score_warmup
        self.clips = data.latents

    def add_to(self, state: TrainState, student: StudentModule) -> None:
        """Add both scores, which begin as the start student."""
        for name in (_REAL, _FAKE):
            score = state.modules[name] = copy.deepcopy(student).requires_grad_(True)
            state.optimisers[name] = adamw(score, self.config.score_lr, (0.9, 0.98), self.train.weight_decay)

    def prepare(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Draw the teacher's clips again by the start student if the recipe asks for that; nothing to probe."""
        if self.rerender is not None:
            self.clips = self.rerender(self.data.latents, self.data.row_prompts, self.seed)
        return {}

    def warm_up(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Fit both scores once, one of them to fresh rollouts."""
        return self._fit(state, groups.draw(state.policy("old"), state.generator, 0, None))

    def learn(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Fit both scores, one of them to the rollouts of this update."""
        values: dict[str, float] = {}
        for _ in range(self.config.score_steps):
            values |= self._fit(state, own)
        return values

    def _fit(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        index = self.data.pick_prompts(len(own.latents), state.generator)
        clips = self.clips[self.data.pick_rows(index, state.generator)]
        prompts = [self.data.prompts[i] for i in index]
        return {
            "real_score_loss": _fit_score(state, _REAL, clips, prompts),
            "fake_score_loss": _fit_score(state, _FAKE, own.latents, own.prompts),
        }


@dataclass(frozen=True)
class ScoreMatchingUpdate:
    """Sends the student, through its last denoising step, where the difference of the two scores points."""

    config: ScoreMatchingConfig
    scored: bool = False

    def loss(self, state: TrainState, own: Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of clips [B, F, C, h, w] drawn by the last denoising step."""
        student, latents, texts = state.policy("student"), own.latents, own.prompts
        fixed = own.opening(student)
        x_t, t = own.states[-1], own.levels[-1]
        noisy, levels, _ = _noised(state, latents)

        def predict(name: str, rows: slice) -> Tensor:
            score = state.policy(name)
            v = score.teacher_forced(latents[rows], noisy[rows], levels[rows], score.encode_text(texts[rows]))
            return flow.x0_from_velocity(noisy[rows], v, levels[rows])

        def loss(rows: slice) -> Parts:
            clean, x, text = latents[rows], x_t[rows], student.encode_text(texts[rows])
            v = student.teacher_forced(clean, x, t[rows], text)
            with torch.no_grad():
                goal = losses.distribution_matching_target(clean, predict(_REAL, rows), predict(_FAKE, rows))
            x0 = flow.x0_from_velocity(x, v, t[rows])
            drift = losses.frame_error(v, prior_velocity(state, own, rows, x, t[rows]))[:, fixed:].mean()
            total = 0.5 * losses.frame_error(x0, goal)[:, fixed:].mean() + self.config.prior * drift
            yield total, {"loss": total.item(), "drift": drift.item()}

        return loss, {}


def _fit_score(state: TrainState, name: str, clean: Tensor, prompts: list[str]) -> float:
    """Do one flow-matching step of a score on clips [B, F, C, h, w], each block given the clean ones before it."""
    score, optimiser = state.policy(name), state.optimisers[name]
    noisy, levels, noise = _noised(state, clean)
    v = score.teacher_forced(clean, noisy, levels, score.encode_text(prompts))
    loss = losses.frame_error(v, flow.velocity_target(clean, noise)).mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return float(loss.item())


def _noised(state: TrainState, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return noised clips [B, F, C, h, w], their levels [B, F] and the noise: uniform levels, one per block."""
    sizes = block_sizes(state.policy("student"), clean.shape[1])
    drawn = flow.draw_continuous((len(clean), len(sizes)), generator=state.generator)
    levels = flow.per_frame(drawn, sizes).to(clean)
    noise = torch.randn(clean.shape, generator=state.generator).to(clean)
    return flow.interpolate(clean, noise, levels), levels, noise
