"""Supervised fine-tuning: flow matching on the teacher's clips, teacher-forced, in the same loop as everything else."""

import torch
from torch import Tensor

from understudy import flow, objective
from understudy.config import LoraConfig, SFTConfig, TrainConfig
from understudy.discriminators.canonical import levels_below, rerender_often
from understudy.errors import ConfigError
from understudy.students.base import StudentModule, block_sizes
from understudy.training.data import TeacherClips
from understudy.training.state import StepReport, TrainState, average_into, policies, set_rate
from understudy.training.update import Loss, Parts, student_update


class SFT:
    """The objective behind ``kind: sft``."""

    def __init__(
        self,
        config: SFTConfig,
        train: TrainConfig,
        data: TeacherClips,
        levels: flow.Levels,
        rerender_level: float | None,
        batch: int,
        seed: int,
        lora: LoraConfig | None = None,
    ) -> None:
        self.lora = lora
        if config.rerender and rerender_level is None:
            raise ConfigError("objective.rerender is true but discriminator.rerender is null: give it a noise level")
        self.config, self.train, self.data = config, train, data
        self.levels, self.rerender_level, self.batch, self.seed = levels, rerender_level, batch, seed
        self.warmup, self.steps = 0, train.steps
        self._latents = data.latents

    @property
    def _drawings(self) -> int:
        """How often each teacher clip is there: clips as they are would be the same each time."""
        return self.config.redraws if self.config.rerender else 1

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        modules = policies(student, self.lora, self.seed, "ema")
        trained = [p for p in modules["student"].parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, self.train.lr, (0.9, 0.98), weight_decay=self.train.weight_decay)
        generator = torch.Generator().manual_seed(self.seed)
        return TrainState(modules, {"student": optimiser}, generator)

    def prepare(self, state: TrainState, start: StudentModule) -> dict[str, float]:
        """Draw the clips again by the start student if the baseline asks for that; nothing to probe."""
        if self.config.rerender and self.rerender_level is not None:
            levels = levels_below(self.rerender_level, self.levels)
            clips = self.data.latents, self.data.row_prompts
            self._latents = rerender_often(start, *clips, levels, self.seed, self._drawings)
        return {}

    def step(self, state: TrainState) -> StepReport:
        """Do one update on a batch of teacher clips."""
        student = state.policy("student")
        index = self.data.pick_prompts(self.batch, state.generator)
        rows = self.data.pick_drawings(index, self._drawings, state.generator)
        loss = self._loss(student, self._latents[rows], [self.data.prompts[i] for i in index], state.generator)
        set_rate(
            state.optimisers["student"],
            self.train.lr,
            state.step,
            self.steps,
            self.train.warmup,
            self.train.decay,
        )
        values = student_update(state, self.train, loss, self.batch)
        average_into(state.modules["ema"], student, min(self.train.ema, state.step / (state.step + 5)))
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
        noisy, target = objective.noised_state(clean, noise, levels)
        scale = torch.ones_like(levels)
        scale[:, : sum(sizes[: self.config.masked_blocks])] = 0

        def loss(rows: slice) -> Parts:
            text = student.encode_text(prompts[rows])
            v = student.teacher_forced(clean[rows], noisy[rows], levels[rows], text)
            value = (scale[rows] * objective.frame_error(v, target[rows])).mean()
            yield value, {"loss": value.item()}

        return loss
