"""Supervised fine-tuning: flow matching on the teacher's clips, teacher-forced, in the same loop as everything else.

Shape legend: B clips, F latent frames, C channels, h/w latents.
"""

import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.objectives import losses
from understudy.objectives.inputs import Inputs
from understudy.objectives.sft.config import SFTConfig
from understudy.students.base import StudentModule, block_sizes
from understudy.training.state import StepReport, TrainState, average_into, new_state, set_rate
from understudy.training.update import Loss, Parts, student_update


def build(config: SFTConfig, inputs: Inputs) -> "SFT":
    """Return the objective behind ``kind: sft``; as an arm of a comparison its batch is that of the run's objective.

    Raises:
        ConfigError: clips are to be drawn again, but from no level.
    """
    if config.rerender and inputs.run.discriminator.rerender is None:
        raise ConfigError("objective.rerender is true but discriminator.rerender is null: give it a noise level")
    return SFT(config, inputs)


class SFT:
    """The objective behind ``kind: sft``."""

    def __init__(self, config: SFTConfig, inputs: Inputs) -> None:
        self.config, self.train, self.data = config, inputs.train, inputs.data
        self.seed, self.lora = inputs.run.seed, inputs.run.student.lora
        self.levels, self.rerender = inputs.start.levels, inputs.rerender
        main = inputs.run.objective
        self.batch = self.train.prompts * (main if main.own_rollouts else config).group
        self.warmup, self.steps = 0, self.train.steps
        self.latents = self.data.latents
        # Clips as they are would be the same each time.
        self.copies = config.redraws if config.rerender else 1

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        return new_state(student, self.train, self.seed, self.lora, "ema")

    def prepare(self, state: TrainState) -> dict[str, float]:
        """Draw the clips again by the start student if the baseline asks for that; nothing to probe."""
        if self.config.rerender:
            self.latents = self.rerender(self.data.latents, self.data.row_prompts, self.seed, self.copies)
        return {}

    def step(self, state: TrainState) -> StepReport:
        """Do one update on a batch of teacher clips."""
        student, train = state.policy("student"), self.train
        index = self.data.pick_prompts(self.batch, state.generator)
        rows = self.data.pick_drawings(index, self.copies, state.generator)
        loss = self._loss(student, self.latents[rows], [self.data.prompts[i] for i in index], state.generator)
        set_rate(state.optimisers["student"], train.lr, state.step, self.steps, train.warmup, train.decay)
        values = student_update(state, train, loss, self.batch)
        average_into(state.modules["ema"], student, min(train.ema, state.step / (state.step + 5)))
        return StepReport(state.step, "update", values)

    def _loss(self, student: StudentModule, clean: Tensor, prompts: list[str], generator: torch.Generator) -> Loss:
        """Return the flow-matching loss of clean latents [B, F, C, h, w]."""
        b, f = clean.shape[:2]
        sizes = block_sizes(student, f)
        if self.config.levels == "sampler":
            levels = flow.draw_levels(self.levels, (b, len(sizes)), generator)
        else:
            levels = flow.draw_continuous((b, len(sizes)), generator=generator)
        levels = flow.per_frame(levels, sizes).to(clean)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy, target = losses.noised_state(clean, noise, levels)
        scale = torch.ones_like(levels)
        scale[:, : sum(sizes[: self.config.masked_blocks])] = 0

        def loss(rows: slice) -> Parts:
            text = student.encode_text(prompts[rows])
            v = student.teacher_forced(clean[rows], noisy[rows], levels[rows], text)
            value = (scale[rows] * losses.frame_error(v, target[rows])).mean()
            yield value, {"loss": value.item()}

        return loss
