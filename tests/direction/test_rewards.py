"""Rewards as verdict: direction, weights, gauges, the discriminator beside them, and resume to the same bits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rewards import RewardVerdict
from understudy.rewards.python.config import PythonRewardConfig
from understudy.training.checkpoint import load_checkpoint, save_checkpoint
from understudy.video.clips import Clip

TRAIN = {"steps": 10, "prompts": 4, "lr": 5e-2, "decay": 0.0}
JUDGE = {"warmup": 1, "pool": 8, "steps": 1, "redraws": 1}


def brightness(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
    return [float(clip.frames.mean()) for clip in clips]


def redness(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
    return [float(clip.frames[..., 0].mean() - clip.frames[..., 1].mean()) for clip in clips]


def reward(function: Any, weight: float = 1.0) -> PythonRewardConfig:
    return PythonRewardConfig.holding(function, weight=weight)


def same(scores: Tensor) -> Tensor:
    """Return scores as an update sees them: less the mean of their prompt."""
    return scores - scores.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [AFDConfig, PolicyGradientConfig])
def test_a_reward_for_brightness_brightens_and_its_opposite_darkens(lab, kind) -> None:
    def risen(weight: float) -> float:
        run = lab(kind(group=4, reward="rewards"), TRAIN, rewards={"bright": reward(brightness, weight)})
        assert "discriminator" not in run.state.modules
        reports = run.advance(10)
        assert all(report.phase == "update" for report in reports)
        assert {"reward_bright", "spread_bright"} <= reports[0].values.keys()
        return run.risen()

    assert risen(1.0) > 0.3
    assert risen(-1.0) < -0.3


def test_two_rewards_are_brought_to_one_scale_and_weighed(lab) -> None:
    def scores(weights: tuple[float, float], factor: float = 1.0) -> Tensor:
        def loud(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
            return [factor * score + 1e6 for score in redness(clips, prompts)]

        parts = {"bright": reward(brightness, weights[0]), "red": reward(loud, weights[1])}
        run = lab(AFDConfig(group=4, reward="rewards"), TRAIN, rewards=parts)
        own = run.rollouts(0)
        run.objective.verdict.learn(run.state, own)
        return run.objective.verdict.scores(run.state, own)

    assert scores((1.0, 0.5)).shape == (4, 4)
    torch.testing.assert_close(scores((1.0, 0.5)), scores((1.0, 0.5), factor=1000.0), rtol=1e-3, atol=1e-3)
    both, bright, red = scores((2.0, -1.0)), scores((1.0, 0.0)), scores((0.0, 1.0))
    torch.testing.assert_close(both, 2 * bright - red, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(bright, red, atol=0.1)


def test_only_differences_within_a_prompt_count(lab) -> None:
    offset = 1e6

    def shifted(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
        return [score + offset for score in brightness(clips, prompts)]

    found = []
    for function in (brightness, shifted):
        run = lab(AFDConfig(group=4, reward="rewards"), TRAIN, rewards={"one": reward(function)})
        own = run.rollouts(0)
        run.objective.verdict.learn(run.state, own)
        found.append(run.objective.verdict.scores(run.state, own))
    torch.testing.assert_close(same(found[0]), same(found[1]), rtol=0, atol=1e-4)


def test_beside_the_discriminator_both_count(lab) -> None:
    run = lab(AFDConfig(group=4), TRAIN, {**JUDGE, "rerender": None}, rewards={"bright": reward(brightness, 1.5)})
    assert run.objective.warmup == 1
    run.advance(1)
    own = run.rollouts(0)
    verdict = run.objective.verdict
    assert isinstance(verdict, RewardVerdict)
    values = verdict.learn(run.state, own)
    assert {"pair_accuracy", "reward_bright", "spread_bright"} <= values.keys()
    assert set(run.state.tensors) >= {"reward.bright"}
    run.judged_by(lambda clips: -clips.flatten(1).mean(1))
    scores = verdict.scores(run.state, own)
    assert not any(name.startswith("reward.") for name in run.state.tensors)
    bright = same(own.frames.flatten(1).mean(1).unflatten(0, (-1, 4)))
    assert float((same(scores) * bright).sum()) > 0  # 1.5 for it outweighs 1 against it


def test_rewards_see_what_the_student_drew_with_its_prompts(lab) -> None:
    seen: list[tuple[list[Clip], list[str]]] = []

    def watch(clips: Sequence[Clip], prompts: Sequence[str]) -> Any:
        seen.append((list(clips), list(prompts)))
        return np.arange(len(clips))

    run = lab(AFDConfig(group=4, reward="rewards"), TRAIN, rewards={"watch": reward(watch)})
    own = run.rollouts(0)
    values = run.objective.verdict.learn(run.state, own)
    ((clips, prompts),) = seen
    assert prompts == own.prompts
    assert [clip.frames.shape for clip in clips] == [(8, 16, 16, 3)] * 16
    assert clips[0].fps == 12.0
    picture = 255 * run.codec.decode(own.latents)[3, 2, :, 5, 6].clamp(0, 1)
    np.testing.assert_allclose(clips[3].frames[2, 5, 6], picture.round().numpy(), atol=1)
    assert values["reward_watch"] == pytest.approx(7.5)
    assert values["spread_watch"] == pytest.approx(np.arange(4).std())


def test_a_run_with_a_reward_resumes_to_the_same_bits(lab, tmp_path: Path) -> None:
    def made() -> Any:
        return lab(AFDConfig(group=4), TRAIN, JUDGE, rewards={"bright": reward(brightness)})

    whole = made()
    assert isinstance(whole.objective, OnPolicy)
    whole.advance(4)
    broken = made()
    broken.advance(2)
    save_checkpoint(broken.state, tmp_path, "hash")
    resumed = made()
    assert load_checkpoint(resumed.state, tmp_path, "hash")
    resumed.objective.prepare(resumed.state)
    resumed.advance(2)
    for name in ("student", "ema", "old", "prior", "discriminator"):
        for a, b in zip(whole.state.modules[name].parameters(), resumed.state.modules[name].parameters(), strict=True):
            assert torch.equal(a, b)


def test_rewards_alone_see_what_the_student_itself_drew_and_it_is_decoded_once(lab, monkeypatch) -> None:
    seen: list[Clip] = []

    def remember(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
        seen.extend(clips)
        return brightness(clips, prompts)

    run = lab(AFDConfig(group=4, reward="rewards"), TRAIN, {"rerender": 0.5}, rewards={"bright": reward(remember)})
    decoded: list[int] = []
    decode = run.codec.decode

    def counted(latents: Tensor) -> Tensor:
        decoded.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(run.codec, "decode", counted)
    own = run.objective.groups.draw(
        run.state.policy("old"), torch.Generator().manual_seed(0), 0, run.objective.verdict.view(run.state)
    )
    run.objective.verdict.learn(run.state, own)
    assert sum(decoded) == len(own.prompts)
    drawn = (decode(own.latents).clamp(0, 1) * 255).round().byte().movedim(2, -1)
    assert np.array_equal(np.stack([clip.frames for clip in seen]), drawn.numpy())
