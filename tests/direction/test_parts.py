"""What each part of a step reaches and leaves alone: the mask of shared openings, the pull of the prior, whose clips the
discriminator sees, whom the averages follow, how the rate runs out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.config import ObjectiveSection
from understudy.objectives.dmd.config import ScoreMatchingConfig
from understudy.objectives.experimental.input_gradient.config import InputGradientConfig
from understudy.objectives.experimental.tilt.config import TiltConfig
from understudy.objectives.gan.config import GANConfig
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.objectives.sft.config import SFTConfig

OWN: dict[str, tuple[type, dict[str, Any]]] = {
    "afd": (AFDConfig, {}),
    "afd-by-block": (AFDConfig, {"by_block": True, "levels": "continuous"}),
    "gan": (GANConfig, {}),
    "grpo": (PolicyGradientConfig, {}),
    "dmd": (ScoreMatchingConfig, {"score_warmup": 0}),
    "input-gradient": (InputGradientConfig, {}),
    "tilt": (TiltConfig, {}),
}
TRAIN: dict[str, Any] = {"steps": 8, "prompts": 2, "lr": 1e-2, "decay": 0.0, "weight_decay": 0.0}
STILL = {"warmup": 0, "steps": 0, "redraws": 1}
ALL = (True, True, True, True)


def section(kind: str, **settings: Any) -> ObjectiveSection:
    config, own = OWN[kind]
    made: ObjectiveSection = config(group=4, **own, **settings)
    return made


def bright(clips: Tensor) -> Tensor:
    return clips.flatten(1).mean(1)


def flat(clips: Tensor) -> Tensor:
    return 0 * clips.flatten(1).mean(1)


def pushed(run: Any) -> Tensor:
    """Do one step and return the gradient [F] that reached each latent frame."""
    run.advance()
    gradient: Tensor = run.state.modules["student"].push.grad
    return gradient


@pytest.mark.parametrize("kind", OWN)
def test_a_shared_opening_gets_no_gradient_and_the_rest_does(lab, kind) -> None:
    shared = pushed(lab(section(kind, shared_blocks=1), TRAIN, STILL).judged_by(bright))
    assert (shared[:2] == 0).all()
    assert (shared[2:] != 0).all()
    own = pushed(lab(section(kind, shared_share=0.0), TRAIN, STILL).judged_by(bright))
    assert (own != 0).all()


def test_masked_blocks_of_the_teacher_s_clips_get_no_gradient(lab) -> None:
    gradient = pushed(lab(SFTConfig(group=4, masked_blocks=1), TRAIN, STILL))
    assert (gradient[:2] == 0).all()
    assert (gradient[2:] != 0).all()


@pytest.mark.parametrize("kind", OWN)
def test_the_student_is_pulled_to_the_prior_as_strongly_as_the_recipe_says(lab, kind) -> None:
    """With a verdict that says nothing and a prior whose velocity is higher everywhere."""
    for way in (1, -1):
        run = lab(section(kind, prior=100.0), TRAIN, STILL).judged_by(flat)
        with torch.no_grad():
            run.state.modules["prior"].push += way
        gradient = pushed(run)
        assert (way * gradient[2:] < -1e-3).all()  # downhill is towards it
    alone = lab(section(kind, prior=0.0), TRAIN, STILL).judged_by(flat)
    with torch.no_grad():
        alone.state.modules["prior"].push += 100.0
    assert alone.advance()[0].values["grad_norm"] < 1.0


def test_the_averages_follow_the_right_policies_at_their_own_pace(lab) -> None:
    values = {"student": 1.0, "ema": 2.0, "old": 3.0, "prior": 4.0}

    def after(update: int, **settings: Any) -> dict[str, float]:
        run = lab(AFDConfig(group=4, **settings), {**TRAIN, "ema": 0.9}, STILL)
        with torch.no_grad():
            for name, value in values.items():
                for parameter in run.state.modules[name].parameters():
                    parameter.fill_(value)
        run.averages_follow(update)
        found = {name: {float(p.detach().unique()) for p in run.state.modules[name].parameters()} for name in values}
        assert all(len(numbers) == 1 for numbers in found.values())
        return {name: numbers.pop() for name, numbers in found.items()}

    first = after(0)
    assert (first["student"], first["ema"], first["old"]) == (1.0, 1.0, 1.0)
    assert first["prior"] == pytest.approx(0.97 * 4 + 0.03 * 1)
    tenth = after(10)
    assert tenth["ema"] == pytest.approx(1 + 10 / 15)
    assert tenth["old"] == pytest.approx(1 + 0.2 * 2)
    assert tenth["prior"] == pytest.approx(0.97 * 4 + 0.03 * (1 + 10 / 15))
    late = after(1000, old_decay=0.4, prior_policy="start")
    assert late == pytest.approx({"student": 1.0, "ema": 1.9, "old": 1.8, "prior": 4.0})


@pytest.mark.parametrize("kind", ["afd", "dmd"])
def test_rollouts_are_the_old_policy_s(lab, kind) -> None:
    run = lab(section(kind), TRAIN, STILL).judged_by(bright)
    old, seen = run.state.modules["old"], []
    old.velocity = spy(old.velocity, seen)
    for name in ("student", "ema", "prior"):
        run.state.modules[name].velocity = None
    run.advance()
    assert len(seen) == 4  # two blocks at two levels


def spy(function: Any, seen: list[Any]) -> Any:
    def heard(*args: Any) -> Any:
        seen.append(args)
        return function(*args)

    return heard


@pytest.mark.parametrize("kind", ["afd", "gan"])
def test_the_discriminator_never_trains_on_clips_held_out_and_is_gauged_on_them_alone(lab, clips, kind) -> None:
    data = clips(0.0)
    share, seed = 0.5, 3
    held = {row for rows in data.split(share, seed)[1].rows for row in rows}
    assert 0 < len(held) < 6
    with torch.no_grad():
        for row in range(6):  # every clip has a brightness of its own
            data.latents[row] = 0.3 * row - (3.0 if row in held else -3.0)
    judge = {
        "size": 8,
        "width": 8,
        "warmup": 2,
        "pool": 8,
        "redraws": 1,
        "held_out": share,
        "noise": 0.0,
        "rerender": None,
    }
    run = lab(section(kind), TRAIN, judge, data, seed=seed)
    network = run.state.modules["discriminator"]
    calls: list[Any] = []
    network.logits = spy(network.logits, calls)
    run.advance(5)
    shown = network.prepare(run.codec.decode(data.latents).clamp(0, 1)).flatten(1)
    held_in = [{row for row in range(6) if alike(prepared, shown[row])} for prepared, _ in calls]
    assert {row in held for row in set().union(*held_in)} == {True, False}
    assert all(rows <= held or not rows & held for rows in held_in)
    assert sum(bool(rows & held) for rows in held_in) == 3  # the gauge, once an update


def alike(clips: Tensor, clip: Tensor) -> bool:
    return bool((clips.detach().flatten(1) - clip).abs().amax(1).min() < 1e-6)


@pytest.mark.parametrize("kind", ["afd", "sft"])
def test_the_rate_warms_up_stays_and_runs_out(lab, kind) -> None:
    settings = SFTConfig(group=4) if kind == "sft" else section(kind)
    run = lab(settings, {**TRAIN, "steps": 10, "warmup": 4, "decay": 0.4, "lr": 1e-3}, STILL)
    rates = []
    for _ in range(10):
        run.advance()
        rates.append(run.state.optimisers["student"].param_groups[0]["lr"] / 1e-3)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_the_gradient_is_cut_to_its_limit(lab) -> None:
    run = lab(section("afd", prior=100.0), {**TRAIN, "clip": 0.5}, STILL).judged_by(flat)
    with torch.no_grad():
        run.state.modules["prior"].push += 10
    values = run.advance()[0].values
    left = torch.stack([p.grad.norm() for p in run.state.modules["student"].parameters()]).norm()
    assert values["grad_norm"] > 1
    assert float(left) == pytest.approx(0.5, rel=1e-3)


def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch(lab) -> None:
    found = []
    for accumulate in (1, 3, 5):  # 8 rows: 3 + 3 + 2, and 2 + 2 + 2 + 2
        run = lab(section("afd"), {**TRAIN, "accumulate": accumulate}, STILL).judged_by(bright)
        values = run.advance()[0].values
        found.append((values["loss"], torch.cat([p.grad.flatten() for p in run.state.modules["student"].parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)


def test_a_discriminator_rests_above_its_ceiling_and_learns_below(lab, clips) -> None:
    for accuracy, rests in ((0.9, True), (0.1, False)):
        judge = {"size": 8, "width": 8, "warmup": 0, "redraws": 1, "ceiling": 0.7, "steps": 1}
        run = lab(section("afd"), TRAIN, judge, clips(0.0))
        run.state.tensors["accuracy"] = torch.tensor(accuracy)
        before = [p.clone() for p in run.state.modules["discriminator"].parameters()]
        values = run.advance()[0].values
        assert values["d_rested"] == rests
        same = [torch.equal(a, b) for a, b in zip(before, run.state.modules["discriminator"].parameters(), strict=True)]
        assert all(same) == rests


def test_a_group_draws_from_one_opening_and_prompts_from_their_own(lab) -> None:
    run = lab(section("afd"), {**TRAIN, "prompts": 3}, STILL).judged_by(bright)
    own = run.rollouts(update=0)
    latents = own.latents.unflatten(0, (3, 4))
    assert torch.equal(latents[:, :, :2], latents[:, :1, :2].expand(-1, 4, -1, -1, -1, -1))
    assert (latents[:, 0, 2:] != latents[:, 1, 2:]).any()
    noise = own.states[0].unflatten(0, (3, 4))  # the first level is 1
    assert (noise[0, 0, :2] - noise[1, 0, :2]).abs().max() > 0.1
    assert [own.index[4 * p : 4 * p + 4] for p in range(3)] == [[own.index[4 * p]] * 4 for p in range(3)]
    assert len(set(own.index)) == 3
