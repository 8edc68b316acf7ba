"""A laboratory for whole steps of every objective: a tiny student, a codec, clips, and the only two seams the tests use.

Objectives are built in ``Lab`` alone, and a known verdict takes the discriminator's place in ``Lab.judged_by`` alone: when
the parts of an objective move, nothing else here has to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.codecs.base import CodecModule
from understudy.discriminators.base import Discriminator
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.objectives.build import build_objective
from understudy.objectives.config import ObjectiveSection
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.students.bundle import Bundle, ClipForm
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.transformer import CausalVideoTransformer, TransformerSpec
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective
from understudy.training.state import StepReport, TrainState

LEVELS = (1.0, 0.5)
PROMPTS = ("red ball", "blue ball", "ball")
FRAMES = 4  # latent frames of a clip


class ClearCodec(CodecModule):
    """Latents [B, F, 3, h, w] that are the picture: a clip is as bright as its latents are high."""

    kind = "clear"
    frames_per_latent = 2  # type: ignore[assignment]
    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(1))

    def decode(self, latents: Tensor) -> Tensor:
        video = (0.5 + 0.1 * latents).repeat_interleave(2, 1)
        return video.repeat_interleave(8, -1).repeat_interleave(8, -2)

    def encode(self, frames: Tensor) -> Tensor:
        return (nn.functional.avg_pool3d(frames.movedim(2, 1), (2, 8, 8)).movedim(1, 2) - 0.5) / 0.1


class Verdict(Discriminator):
    """A known verdict in the discriminator's place: whatever ``judge`` says of clips [B, T, 3, H, W] in [-1, 1]."""

    def __init__(self, judge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.judge = judge

    def prepare(self, clips: Tensor) -> Tensor:
        return clips * 2 - 1

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1)

    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        assert len(prepared) == len(text)
        return self.judge(prepared)


def brightness(clips: Tensor) -> Tensor:
    return clips.flatten(1).mean(1)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


def tiny_student(seed: int = 0, **spec: Any) -> CausalVideoTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = {"channels": 3, "height": 2, "width": 2, "dim": 16, "depth": 1, "heads": 2, **spec}
        spec = {"max_frames": FRAMES, "vocabulary": ("red", "ball", "blue"), **spec}
        student = CausalVideoTransformer(TransformerSpec(**spec)).eval()
        with torch.no_grad():  # a fresh student's last layer is zero
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return student


@dataclass
class Lab:
    """One objective on its way: a step at a time, and what its student draws."""

    objective: Objective
    state: TrainState
    start: CausalVideoTransformer
    codec: CodecModule
    levels: tuple[float, ...]
    probe: dict[str, float]

    def judged_by(self, judge: Callable[[Tensor], Tensor]) -> "Lab":
        """Put a known verdict on clips [B, T, 3, H, W] in [-1, 1] in the place of the discriminator's."""
        self.state.modules["discriminator"] = Verdict(judge)
        return self

    def advance(self, steps: int = 1) -> list[StepReport]:
        reports = []
        for _ in range(steps):
            reports.append(self.objective.step(self.state))
            self.state.step += 1
        return reports

    @torch.no_grad()
    def drawn(self, policy: str | None = None, seeds: Iterable[int] = range(1000, 1048)) -> Tensor:
        """Return latents [N, F, C, h, w] that a policy, or the start student, draws from fixed noise."""
        student, seeds = self.start if policy is None else self.state.policy(policy), list(seeds)
        text = student.encode_text([PROMPTS[i % len(PROMPTS)] for i in range(len(seeds))])
        return roll_clip(student, text, len(seeds), self.levels, SeededNoise(seeds), FRAMES)

    @torch.no_grad()
    def risen(self, judge: Callable[[Tensor], Tensor] = brightness, policy: str = "student") -> float:
        """Return how much higher than the start's a policy's fresh clips score, in deviations of the start's scores."""
        scores = [judge(self.codec.decode(self.drawn(name)) * 2 - 1) for name in (None, policy)]
        return float((scores[1] - scores[0]).mean() / scores[0].std())


def made_lab(
    settings: ObjectiveSection,
    train: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    data: TeacherClips | None = None,
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
    **spec: Any,
) -> Lab:
    """Build an objective with its first state; the teacher's clips are a little brighter than the start student's."""
    student, codec = tiny_student(**spec), ClearCodec()
    bundle = Bundle(student, codec, levels, ClipForm(16, 16, 12.0, 2 * FRAMES), "test")
    if data is None:
        latents = 0.5 + torch.randn((6, FRAMES, 3, 2, 2), generator=torch.Generator().manual_seed(1))
        data = TeacherClips(PROMPTS, latents, ((0, 1), (2, 3), (4, 5)))
    config = RunConfig(
        seed=seed,
        objective=settings,
        discriminator=DiscriminatorConfig(**{"size": 16, "width": 16, **(discriminator or {})}),
        train=TrainConfig(**{"prompts": 2, "warmup": 1, **(train or {})}),
    )
    objective = build_objective(settings, config.train, config, data, bundle)
    state = objective.initial_state(student)
    probe = objective.prepare(state)
    return Lab(objective, state, student, codec, levels, probe)


@pytest.fixture
def lab() -> Callable[..., Lab]:
    """See ``made_lab``."""
    return made_lab
