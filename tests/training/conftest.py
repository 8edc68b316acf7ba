"""A miniature of everything a run needs: seconds, not minutes."""

from collections.abc import Callable

import pytest
import torch

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.objectives.config import ObjectiveSection
from understudy.recipe.config import LoraConfig, RunConfig, StudentConfig, TrainConfig
from understudy.students.bundle import Bundle, ClipForm
from understudy.students.transformer import CausalVideoTransformer, TransformerSpec
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective

Build = Callable[..., tuple[Objective, CausalVideoTransformer]]


@pytest.fixture
def bundle() -> Bundle:
    torch.manual_seed(0)
    spec = TransformerSpec(
        channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball", "blue")
    )
    student = CausalVideoTransformer(spec)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    return Bundle(student.eval(), codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "test")


@pytest.fixture
def data() -> TeacherClips:
    latents = torch.randn((6, 4, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    return TeacherClips(("red ball", "blue ball", "ball"), latents, ((0, 1), (2, 3), (4, 5)))


@pytest.fixture
def build(bundle: Bundle, data: TeacherClips) -> Build:
    def make(
        objective: ObjectiveSection | None = None,
        discriminator: DiscriminatorConfig | None = None,
        train: TrainConfig | None = None,
        seed: int = 0,
        lora: LoraConfig | None = None,
    ) -> tuple[Objective, CausalVideoTransformer]:
        settings = objective or AFDConfig(group=4)
        config = RunConfig(
            seed=seed,
            student=StudentConfig(lora=lora),
            objective=settings,
            discriminator=discriminator or DiscriminatorConfig(size=16, width=16, warmup=3, pool=8),
            train=train or TrainConfig(steps=5, prompts=2, warmup=1, checkpoint_every=2),
        )
        return build_objective(settings, config.train, config, data, bundle), bundle.student

    return make
