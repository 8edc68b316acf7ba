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
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle, ClipForm
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
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


class Known(Discriminator):
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


@dataclass(frozen=True)
class PlainSpec:
    """Latent [B, F, 3, 2, 2] clips of ``max_frames`` frames, drawn in blocks."""

    block_frames: int = 2
    max_frames: int = FRAMES
    window: int = 0
    sink: int = 0


class Plain(StudentModule):
    """A causal student of a few numbers, ten times as fast as the smallest transformer.

    It predicts the clean latents of white noise, plus what it learns: a linear map of the noisy frame and of the mean of
    the clean past, one number for every prompt and one for every latent frame (``push``). The gradient of the last says
    which frames a loss reaches, and which way it pushes them.
    """

    kind = "plain"
    vocabulary = ("red", "ball", "blue")
    latent_shape = (3, 2, 2)
    frame_tokens = 1

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__()
        self.spec = spec
        self.now, self.past = (nn.Parameter(0.1 * torch.randn(3, 3)) for _ in range(2))
        self.words = nn.Parameter(0.1 * torch.randn(len(PROMPTS)))
        self.push = nn.Parameter(torch.zeros(spec.max_frames))

    @classmethod
    def from_config(cls, config: Any) -> "Plain":
        return cls(PlainSpec(**config))

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return self.words[[PROMPTS.index(prompt) for prompt in prompts]]

    def empty_cache(self) -> Tensor:
        return torch.zeros(0)

    def commit(self, clean: Tensor, text: Tensor, cache: Tensor) -> Tensor:
        return torch.cat([cache, clean], dim=1) if len(cache) else clean

    def velocity(self, noisy: Tensor, levels: Tensor, text: Tensor, cache: Tensor) -> Tensor:
        mean = cache.mean(1, keepdim=True) if len(cache) else torch.zeros_like(noisy[:, :1])
        return self._velocity(noisy, levels, text, mean, cache.shape[1] if len(cache) else 0)

    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        size, blocks = self.block_frames, []
        for low in range(0, clean.shape[1], size):
            mean = clean[:, :low].mean(1, keepdim=True) if low else torch.zeros_like(clean[:, :1])
            blocks.append(mean.expand(-1, size, -1, -1, -1))
        return self._velocity(noisy, levels, text, torch.cat(blocks, dim=1), 0)

    def _velocity(self, noisy: Tensor, levels: Tensor, text: Tensor, past: Tensor, first: int) -> Tensor:
        t = levels[..., None, None, None]
        learnt = torch.einsum("cd,bfdhw->bfchw", self.now, noisy) + torch.einsum("cd,bfdhw->bfchw", self.past, past)
        learnt = learnt + text[:, None, None, None, None] + self.push[first : first + noisy.shape[1], None, None, None]
        return (noisy - (1 - t) / ((1 - t) ** 2 + t**2) * noisy) / t - learnt


def plain_student(**spec: Any) -> Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain(PlainSpec(**spec)).eval()


def transformer(**spec: Any) -> CausalVideoTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = {"channels": 3, "height": 2, "width": 2, "dim": 16, "depth": 1, "heads": 2, **spec}
        spec = {"max_frames": FRAMES, "vocabulary": Plain.vocabulary, **spec}
        student = CausalVideoTransformer(TransformerSpec(**spec)).eval()
        with torch.no_grad():  # a fresh student's last layer is zero
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return student


def teacher_clips(shift: float, seed: int = 1) -> TeacherClips:
    """Return two clips for each of three prompts, brighter than the start student's by ``shift`` / 10."""
    latents = shift + torch.randn((6, FRAMES, 3, 2, 2), generator=torch.Generator().manual_seed(seed))
    return TeacherClips(PROMPTS, latents, ((0, 1), (2, 3), (4, 5)))


@dataclass
class Lab:
    """One objective on its way: a step at a time, and what its student draws."""

    objective: Objective
    state: TrainState
    start: StudentModule
    codec: CodecModule
    levels: tuple[float, ...]
    probe: dict[str, float]
    teacher: Tensor

    def judged_by(self, judge: Callable[[Tensor], Tensor]) -> "Lab":
        """Put a known verdict on clips [B, T, 3, H, W] in [-1, 1] in the place of the discriminator's."""
        self.state.modules["discriminator"] = Known(judge)
        return self

    def advance(self, steps: int = 1) -> list[StepReport]:
        reports = []
        for _ in range(steps):
            reports.append(self.objective.step(self.state))
            self.state.step += 1
        return reports

    def averages_follow(self, update: int) -> None:
        """Let the averaged policies follow the student as after ``update``."""
        self.objective.averages.follow(self.state, update)  # type: ignore[attr-defined]

    def rollouts(self, update: int) -> Any:
        """Return the rollouts of ``update``."""
        objective: Any = self.objective
        view = objective.verdict.view(self.state)
        return objective.groups.draw(self.state.policy("old"), self.state.generator, update, view)

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

    @torch.no_grad()
    def told_apart(self) -> float:
        """Return the share of pairs, of a teacher's clip and one drawn afresh, in which the teacher's is ranked higher."""
        network = self.state.modules["discriminator"]
        assert isinstance(network, Discriminator)
        drawn, real = self.drawn(), self.teacher.repeat(8, 1, 1, 1, 1)
        texts = [PROMPTS[i % len(PROMPTS)] for i in range(len(drawn))]
        scores = [network.score(self.codec.decode(latents).clamp(0, 1), texts) for latents in (real, drawn)]
        return float((scores[0] > scores[1]).float().mean())


def made_lab(
    settings: ObjectiveSection,
    train: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    data: TeacherClips | None = None,
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
    student: StudentModule | None = None,
    rewards: dict[str, Any] | None = None,
) -> Lab:
    """Build an objective with its first state; the teacher's clips are a little brighter than the start student's."""
    student, codec = student or plain_student(), ClearCodec()
    bundle = Bundle(student, codec, levels, ClipForm(16, 16, 12.0, 2 * FRAMES), "test")
    data = data or teacher_clips(0.5)
    config = RunConfig(
        seed=seed,
        objective=settings,
        discriminator=DiscriminatorConfig(**{"size": 16, "width": 16, **(discriminator or {})}),
        train=TrainConfig(**{"prompts": 2, "warmup": 1, **(train or {})}),
    ).model_copy(update={"rewards": rewards or {}})
    objective = build_objective(settings, config.train, config, data, bundle)
    state = objective.initial_state(student)
    probe = objective.prepare(state)
    return Lab(objective, state, student, codec, levels, probe, data.latents)


@pytest.fixture
def lab() -> Callable[..., Lab]:
    """See ``made_lab``."""
    return made_lab


@pytest.fixture
def clips() -> Callable[..., TeacherClips]:
    """See ``teacher_clips``."""
    return teacher_clips


@pytest.fixture
def real_student() -> CausalVideoTransformer:
    """A tiny transformer, two latent frames a block."""
    return transformer(block_frames=2)
