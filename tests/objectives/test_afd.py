"""The AFD step: what it changes, what it leaves alone, and what stops it."""

import pytest
import torch

from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.discriminators.videoreward.config import VideoRewardConfig
from understudy.errors import TrainingError
from understudy.objectives import losses as maths
from understudy.objectives.afd.config import AFDConfig
from understudy.recipes.config import TrainConfig


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def ready(build, steps: int = 0, **sections):
    objective, start = build(**sections)
    state = objective.initial_state(start)
    objective.prepare(state)
    for _ in range(steps):
        objective.step(state)
        state.step += 1
    return objective, state, start


def test_warm_up_moves_the_discriminator_only(build) -> None:
    objective, state, _ = ready(build)
    before = {name: weights(module) for name, module in state.modules.items()}
    report = objective.step(state)
    assert report.phase == "warm-up"
    assert not torch.equal(weights(state.modules["discriminator"]), before["discriminator"])
    for name in ("student", "ema", "old", "prior"):
        assert torch.equal(weights(state.modules[name]), before[name])


def test_warm_up_ends_and_drops_its_pool(build) -> None:
    objective, state, _ = ready(build, steps=2)
    assert "pool_frames" in state.tensors
    objective.step(state)
    state.step += 1
    assert not {"pool_frames", "pool_index"} & state.tensors.keys()
    assert objective.step(state).phase == "update"


def test_each_teacher_clip_is_drawn_again_as_often_as_asked_with_other_noise(build, data) -> None:
    judge = {"size": 16, "width": 16, "warmup": 3, "pool": 8}
    objective, *_ = ready(build, discriminator=DiscriminatorConfig(**judge, redraws=3))
    clips = len(data.latents)
    copies = objective.verdict.teacher_frames.unflatten(0, (3, clips))
    assert not torch.equal(copies[0], copies[1])
    generator = torch.Generator().manual_seed(0)
    drawn = objective.verdict.draw_real(data, [0] * 64, generator)
    own = copies[:, list(data.rows[0])].flatten(0, 1)
    found = (drawn[:, None] == own[None]).flatten(2).all(2)
    assert found.any(1).all()  # clips of the prompt that was asked for
    assert found.any(0).all()  # every copy takes part
    once, *_ = ready(build, discriminator=DiscriminatorConfig(**judge, redraws=3, rerender=None))
    assert len(once.verdict.teacher_frames) == clips  # undrawn clips would only be the same again


def test_an_update_moves_the_student_and_the_start_stays(build) -> None:
    objective, state, start = ready(build, steps=3)
    before = weights(state.modules["student"])
    origin = weights(start)
    values = objective.step(state).values
    assert not torch.equal(weights(state.modules["student"]), before)
    assert torch.equal(weights(start), origin)
    assert {"loss", "drift", "pair_accuracy", "margin", "saturated", "corr_sharpness", "grad_norm"} <= values.keys()
    assert values["drift"] == pytest.approx(
        0.0, abs=1e-9
    )  # the first update is measured where student and prior are still the same


def test_flat_scores_give_no_gradient(build, monkeypatch) -> None:
    objective, state, _ = ready(build, steps=3)
    monkeypatch.setattr(objective.verdict, "scores", lambda state, own: torch.ones(len(own.prompts) // 4, 4))
    assert objective.step(state).values["grad_norm"] == pytest.approx(0.0, abs=1e-7)


def test_lr_zero_freezes_the_discriminator_after_warm_up(build) -> None:
    frozen = DiscriminatorConfig(size=16, width=16, warmup=3, pool=8, lr=0.0)
    objective, state, _ = ready(build, steps=3, discriminator=frozen)
    before = weights(state.modules["discriminator"])
    objective.step(state)
    assert torch.equal(weights(state.modules["discriminator"]), before)


def test_micro_batches_give_the_same_gradient(build) -> None:
    gradients = []
    for accumulate in (1, 4):
        train = TrainConfig(steps=5, prompts=2, warmup=1, accumulate=accumulate)
        objective, state, _ = ready(build, steps=3, train=train)
        objective.step(state)
        gradients.append(torch.cat([p.grad.flatten() for p in state.modules["student"].parameters()]))
    # Adam's first step is the gradient's sign, so weights would magnify rounding
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6 * float(gradients[0].abs().max()) + 1e-7, rtol=1e-3)


def test_random_reward_has_no_warm_up_and_no_discriminator(build) -> None:
    objective, state, _ = ready(build, objective=AFDConfig(group=4, reward="random"))
    assert "discriminator" not in state.modules
    assert objective.warmup == 0
    assert objective.step(state).phase == "update"


def test_groups_share_opening_level_and_noise(build, monkeypatch) -> None:
    objective, state, _ = ready(build, steps=3, objective=AFDConfig(group=4, shared_share=1.0))
    seen = {}

    def spy(x0, noise, levels):
        seen.update(x0=x0, noise=noise, levels=levels)
        return original(x0, noise, levels)

    original = maths.noised_state
    monkeypatch.setattr(maths, "noised_state", spy)
    objective.step(state)
    for name in ("noise", "levels"):
        groups = seen[name].unflatten(0, (-1, 4))
        assert torch.equal(groups, groups[:, :1].expand_as(groups)), name
    rollouts = seen["x0"].unflatten(0, (-1, 4))
    assert torch.equal(rollouts[:, :, 0], rollouts[:, :1, 0].expand_as(rollouts[:, :, 0]))  # the shared first block
    assert not torch.allclose(rollouts[:, 0, 1], rollouts[:, 1, 1])
    assert set(seen["levels"].flatten().tolist()) <= {1.0, 0.5}  # the sampler's own levels, nothing else


def test_the_share_of_updates_that_share_is_spread_evenly(build) -> None:
    def shared(share: float) -> list[int]:
        objective, _ = build(objective=AFDConfig(group=4, shared_share=share, shared_blocks=1))
        return [objective.groups.shared_blocks(update) for update in range(8)]

    assert shared(0.5) == [0, 1] * 4
    assert sum(shared(0.25)) == 2
    assert shared(1.0) == [1] * 8
    assert shared(0.0) == [0] * 8


def test_a_step_draws_from_the_states_generator_only(build) -> None:
    ends = []
    for junk in (1, 2):
        torch.manual_seed(junk)
        _, state, _ = ready(build, steps=4)
        torch.rand(junk)
        ends.append(weights(state.modules["student"]))
    assert torch.equal(*ends)


def test_nan_stops_with_a_diagnosis_and_leaves_the_weights(build) -> None:
    objective, state, _ = ready(build, steps=3)
    with torch.no_grad():
        objective.groups.data.latents.fill_(float("nan"))
    monkey = state.modules["old"]
    with torch.no_grad():
        next(monkey.parameters()).fill_(float("nan"))
    before = weights(state.modules["student"])
    with pytest.raises(TrainingError, match=r"not finite.*last checkpoint is intact") as caught:
        objective.step(state)
    assert "\n" not in str(caught.value)
    assert torch.equal(weights(state.modules["student"]), before)


def test_the_shortcut_probe_reports_every_statistic(build) -> None:
    objective, start = build()
    probe = objective.prepare(objective.initial_state(start))
    assert {"brightness", "contrast", "sharpness", "corner", "flicker"} <= probe.keys()
    assert all(0.5 <= value <= 1 for value in probe.values())


def test_videoreward_takes_the_place_of_the_small_network(build, qwen_folder) -> None:
    pytest.importorskip("peft")
    sizes = {"min_pixels": 28 * 28, "max_pixels": 28 * 28, "rank": 2, "alpha": 4, "dtype": "float32"}
    judge = VideoRewardConfig(path=qwen_folder, warmup=2, pool=8, lr=1e-3, penalty=1.0, **sizes)
    objective, state, _ = ready(build, discriminator=judge)
    network = state.modules["discriminator"]
    assert set(state.optimisers["discriminator"].param_groups[0]["params"]) == {
        p for p in network.parameters() if p.requires_grad
    }
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for phase in ("warm-up", "warm-up", "update"):
        report = objective.step(state)
        state.step += 1
        assert report.phase == phase
    assert {"d_loss", "d_penalty", "pair_accuracy", "loss"} <= report.values.keys()
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "rm_head.weight" in moved
    assert any("lora_B" in name for name in moved)
    assert all(torch.equal(p, frozen[name]) for name, p in network.named_parameters() if name in frozen)


def test_no_penalty_spares_its_pass(build) -> None:
    plain = DiscriminatorConfig(size=16, width=16, warmup=3, pool=8, penalty=0.0)
    objective, state, _ = ready(build, discriminator=plain)
    calls = []
    state.modules["discriminator"].time.register_forward_hook(lambda *_: calls.append(1))
    assert objective.step(state).values["d_penalty"] == 0
    assert len(calls) == 1
