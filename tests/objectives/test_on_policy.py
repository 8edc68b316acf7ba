"""Every baseline on own rollouts: it moves the student, keeps the rest, and resumes to the same bits."""

import pytest
import torch

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.errors import ConfigError
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.objectives.config import ObjectiveSection
from understudy.objectives.dmd.config import ScoreMatchingConfig
from understudy.objectives.experimental.input_gradient.config import InputGradientConfig
from understudy.objectives.experimental.tilt.config import TiltConfig
from understudy.objectives.gan.config import GANConfig
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.students.bundle import Bundle, ClipForm
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.training.checkpoint import load_checkpoint, save_checkpoint
from understudy.training.data import TeacherClips

KINDS: list[ObjectiveSection] = [
    AFDConfig(group=4, branches="positive"),
    AFDConfig(group=4, branches="rectified"),
    AFDConfig(group=4, context="noisy", levels="continuous"),
    GANConfig(group=4),
    PolicyGradientConfig(group=4),
    ScoreMatchingConfig(group=4, score_warmup=2),
    InputGradientConfig(group=4),
    TiltConfig(group=4),
]
JUDGE = {"size": 16, "width": 16, "warmup": 2, "pool": 8}


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def made(settings: ObjectiveSection, levels=(1.0, 0.5), **judge):
    torch.manual_seed(0)
    spec = TransformerSpec(
        channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball")
    )
    student = CausalVideoTransformer(spec).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    bundle = Bundle(student, codec, levels, ClipForm(16, 16, 12.0, 8), "test")
    latents = torch.randn((6, 4, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    data = TeacherClips(("red ball", "ball", "red"), latents, ((0, 1), (2, 3), (4, 5)))
    config = RunConfig(
        objective=settings,
        discriminator=DiscriminatorConfig(**{**JUDGE, **judge}),
        train=TrainConfig(steps=3, prompts=2, warmup=1),
    )
    objective = build_objective(settings, config.train, config, data, bundle)
    state = objective.initial_state(student)
    objective.prepare(state)
    return objective, state, student


def advance(objective, state, steps: int):
    for _ in range(steps):
        report = objective.step(state)
        state.step += 1
    return report


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: s.kind)
def test_the_student_moves_after_warm_up_only(settings) -> None:
    objective, state, start = made(settings)
    before, origin = weights(state.modules["student"]), weights(start)
    assert advance(objective, state, 2).phase == "warm-up"
    assert torch.equal(weights(state.modules["student"]), before)
    report = advance(objective, state, 1)
    assert report.phase == "update"
    assert report.values["grad_norm"] > 0
    assert not torch.equal(weights(state.modules["student"]), before)
    assert torch.equal(weights(start), origin)


@pytest.mark.parametrize("settings", KINDS[1:], ids=lambda s: s.kind)
def test_saved_and_loaded_goes_on_to_the_same_bits(settings, tmp_path) -> None:
    objective, state, _ = made(settings)
    advance(objective, state, 3)
    save_checkpoint(state, tmp_path, "a")
    advance(objective, state, 2)
    again, other, _ = made(settings)
    assert load_checkpoint(other, tmp_path, "a")
    advance(again, other, 2)
    for name in state.modules:
        assert torch.equal(weights(state.modules[name]), weights(other.modules[name])), name


def test_one_step_samplers_have_no_chain_for_a_policy_gradient() -> None:
    with pytest.raises(ConfigError, match="two or more levels"):
        made(PolicyGradientConfig(group=4), levels=(1.0,))


def test_distribution_matching_needs_a_level_to_draw_clips_again() -> None:
    with pytest.raises(ConfigError, match=r"discriminator\.rerender"):
        made(ScoreMatchingConfig(group=4), rerender=None)


def test_held_out_clips_are_gauged_and_never_trained_on() -> None:
    objective, state, _ = made(AFDConfig(group=4), held_out=0.5)
    seen = {row for rows in objective.verdict.seen.rows for row in rows}
    unseen = {row for rows in objective.verdict.unseen.rows for row in rows}
    assert seen | unseen == set(range(6))
    assert not seen & unseen
    advance(objective, state, 2)
    values = {}
    for _ in range(3):
        values |= advance(objective, state, 1).values
    assert 0 <= values["unseen_accuracy"] <= 1


def test_a_lazy_discriminator_learns_in_its_warm_up_and_rests_once_the_student_moves() -> None:
    objective, state, _ = made(AFDConfig(group=4), rests_above=0.05)
    assert advance(objective, state, objective.warmup).values["d_rested"] == 0
    before = {name: value.clone() for name, value in state.modules["discriminator"].state_dict().items()}
    assert advance(objective, state, 1).values["d_rested"] == 1
    assert all(torch.equal(before[n], value) for n, value in state.modules["discriminator"].state_dict().items())


def test_the_controller_leads_the_rate_from_any_start_into_its_limits() -> None:
    for lr in (0.0, 1.0):
        objective, state, _ = made(AFDConfig(group=4), controller="rate", lr=lr, rates=(1e-5, 1e-3))
        report = advance(objective, state, 3)
        assert 1e-5 <= report.values["d_rate"] <= 1e-3
        group = state.optimisers["discriminator"].param_groups[0]
        assert 1e-5 <= group["lr"] <= 1e-3


def test_the_controller_follows_the_pairs_it_trains_on_not_those_held_out() -> None:
    objective, state, _ = made(AFDConfig(group=4), controller="rate", lr=1e-4, held_out=0.5)
    advance(objective, state, 3)
    state.tensors["unseen"] = torch.tensor(0.1)  # never climbs: would drive the rate to its upper end
    state.tensors["accuracy"] = torch.tensor(1.0)
    before = float(state.tensors["rate"])
    assert advance(objective, state, 1).values["d_rate"] <= before / 1.2 + 1e-12


def test_the_unpaired_loss_is_another_one() -> None:
    losses = []
    for loss in ("paired", "unpaired"):
        objective, state, _ = made(AFDConfig(group=4), loss=loss)
        losses.append(advance(objective, state, 1).values["d_loss"])
    assert losses[1] > losses[0] + 0.3  # two entropies instead of one
