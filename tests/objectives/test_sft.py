"""Supervised fine-tuning in the same loop."""

import pytest
import torch

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.errors import ConfigError
from understudy.objectives.build import build_objective
from understudy.objectives.sft.config import SFTConfig
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.students.bundle import Bundle
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.training.data import TeacherClips
from understudy.video.clips import ClipForm

LEVELS = (1.0, 0.5)


def tiny() -> CausalVideoTransformer:
    torch.manual_seed(0)
    spec = TransformerSpec(channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("ball",))
    return CausalVideoTransformer(spec)


def clips() -> TeacherClips:
    latents = torch.randn((4, 4, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    return TeacherClips(("ball", "red ball"), latents, ((0, 1), (2, 3)))


def run(config: SFTConfig, steps: int = 40, rerender: float | None = 0.5):
    train = TrainConfig(steps=steps, prompts=2, warmup=1, lr=5e-3, decay=0.0)
    start = Bundle(tiny(), SmallCodec(SmallCodecSpec(channels=4, width=8)), LEVELS, ClipForm(16, 16, 12.0, 8), "test")
    recipe = RunConfig(objective=config, discriminator=DiscriminatorConfig(rerender=rerender), train=train)
    objective = build_objective(config, train, recipe, clips(), start)
    state = objective.initial_state(start.student)
    objective.prepare(state)
    reports = []
    for _ in range(steps):
        reports.append(objective.step(state))
        state.step += 1
    return objective, state, reports


def test_the_loss_falls() -> None:
    _, _, reports = run(SFTConfig(levels="continuous"))
    losses = [report.values["loss"] for report in reports]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_masked_blocks_are_left_out() -> None:
    objective, state, _ = run(SFTConfig(masked_blocks=4), steps=1)
    assert objective.step(state).values["grad_norm"] == 0.0


def test_rerendered_clips_replace_the_teachers() -> None:
    objective, _, _ = run(SFTConfig(rerender=True), steps=1)
    assert not torch.equal(objective.latents, objective.data.latents)


def test_each_clip_can_be_drawn_again_several_times_with_other_noise() -> None:
    once, _, _ = run(SFTConfig(rerender=True), steps=1)
    often, state, _ = run(SFTConfig(rerender=True, redraws=3), steps=1)
    drawings = often.latents.unflatten(0, (3, 4))
    assert torch.equal(drawings[0], once.latents)
    assert not torch.equal(drawings[0], drawings[1])
    rows = often.data.pick_drawings([1] * 200, 3, state.generator)
    assert {row % 4 for row in rows.tolist()} == {2, 3}
    assert {row // 4 for row in rows.tolist()} == {0, 1, 2}


def test_rerendering_needs_a_level() -> None:
    with pytest.raises(ConfigError, match=r"discriminator\.rerender"):
        run(SFTConfig(rerender=True), rerender=None)
