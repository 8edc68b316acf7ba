"""Whole rollouts and gradients of public code, run with recorded noise: tests/data/README.md says how they were made."""

from typing import Any

import pytest
import torch
from torch import Tensor

from understudy import flow
from understudy.students.rollout import RecordedNoise, rollout

FULL = "kvstep"  # holds the weights of all recorded rollouts


def levels_of(settings: dict[str, Any]) -> flow.Levels:
    lists = [settings["first"], settings["steps"]] if settings.get("first") else [settings["steps"]]
    found = tuple(tuple(flow.warp(s / 1000, settings["shift"]) for s in own) for own in lists)
    return found if len(found) > 1 else found[0]


def noise_of(tensors: dict[str, Tensor]) -> RecordedNoise:
    keys = [key.split(".") for key in tensors if key.startswith("noise.")]
    return RecordedNoise({(int(b), int(s)): tensors[f"noise.{b}.{s}"] for _, b, s in keys if s != "context"})


@torch.no_grad()
def drawn(recording: Any) -> Tensor:
    student, data, settings = recording.student, recording.tensors, recording.settings
    wanted, text = data["out.latents"], student.text(data["in.context"])
    following = student.text(data["in.next"]) if "in.next" in data else None
    blocks = rollout(
        student,
        text,
        len(wanted),
        levels_of(settings),
        noise_of(data),
        wanted.shape[1],
        given=data.get("in.given"),
        switch=None if following is None else lambda i, _: following if 3 * i >= settings["at"] else None,
    )
    return torch.cat(list(blocks), 1)


ROLLOUTS = [
    "rollout_selfforcing",  # 3 blocks of 3, batch of 2
    "rollout_selfforcing_first",  # first frame on its own
    "rollout_selfforcing_image",  # image to video
    "rollout_selfforcing_video",  # a given block
    "rollout_selfforcing_window",  # twice its window of 9, no sink
    "rollout_selfforcing_sink",  # sink of a block
    "rollout_selfforcing_sink1",  # sink of one frame
    "rollout_causalforcing_frame",
    "rollout_causalforcing_frame_2step",  # the first block on a list of its own
    "rollout_causalforcing_frame_image",
    "rollout_longlive",
    "rollout_longlive_relative",  # window-relative positions
]


@pytest.mark.parametrize("name", ROLLOUTS)
def test_a_rollout_with_recorded_noise_is_the_public_one(name: str, recorded, gap) -> None:
    recording = recorded(name, FULL)
    assert gap(drawn(recording), recording.tensors["out.latents"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rollout_selfforcing_window", {"window": 0}),
        ("rollout_selfforcing_sink", {"sink": 0}),
        ("rollout_longlive_relative", {"relative_rope": False}),
        ("rollout_selfforcing", {"max_frames": 3, "window": 3}),
    ],
)
def test_the_recordings_can_tell_other_settings(name: str, changes: dict[str, Any], recorded, gap) -> None:
    recording = recorded(name, FULL, **changes)
    assert gap(drawn(recording), recording.tensors["out.latents"]) > 1e-4


@pytest.mark.parametrize("name", ["switch_first", "switch_later", "switch_rolled"])
def test_a_prompt_switch_is_longlives_when_the_past_is_cached_jointly(name: str, recorded, gap) -> None:
    recording = recorded(name, FULL, joint_recache=True)
    wanted, at = recording.tensors["out.latents"], recording.settings["at"]
    assert gap(drawn(recording), wanted) < 1e-5
    found = drawn(recorded(name, FULL))  # block by block
    assert gap(found[:, :at], wanted[:, :at]) < 1e-5
    if name == "switch_first":  # a past of one block is one pass either way
        assert gap(found, wanted) < 1e-5
    else:
        assert gap(found[:, at:], wanted[:, at:]) > 1e-3


def test_a_sink_larger_than_a_block_attends_to_no_empty_keys(recorded, gap) -> None:
    """LongLive's sink is sliced from a cache of zeros: until it has filled, zero keys join its softmax. Ours do not."""
    recording = recorded("rollout_longlive_frame", FULL)
    found, wanted = drawn(recording), recording.tensors["out.latents"]
    assert gap(found[:, :1], wanted[:, :1]) > 1e-2
    own = recorded("rollout_longlive_frame", FULL, sink=0, window=0)
    assert torch.equal(found[:, :4], drawn(own)[:, :4])  # as without a window, until that rolls


def gradients(student: Any, prefix: str, data: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    return [(name, p.grad, data[f"{prefix}.{name}"]) for name, p in student.named_parameters()]


def check(found: list[tuple[str, Tensor, Tensor]], gap: Any) -> None:
    assert gap(torch.cat([a.flatten() for _, a, _ in found]), torch.cat([b.flatten() for _, _, b in found])) < 1e-5
    largest = max(float(wanted.norm()) for *_, wanted in found)
    for name, own, wanted in found:  # a key's bias moves no softmax: its gradient is rounding alone
        assert float((own - wanted).norm()) < 1e-5 * max(float(wanted.norm()), 1e-2 * largest), name


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_of_a_cached_step(recomputed: bool, recorded, gap) -> None:
    recording = recorded("gradients", blocks=(3,))
    student, data = recording.student, recording.tensors
    student.gradient_checkpointing = recomputed
    with torch.no_grad():
        text, cache = student.text(data["in.context"]), student.empty_cache()
        for low in (0, 3):
            cache = student.commit(data["in.clean"][:, low : low + 3], text, cache)
    x = data["in.x"][:, 6:].clone().requires_grad_(True)
    v = student.velocity(x, data["in.t"][:, 6:] / 1000, student.text(data["in.context"]), cache)
    assert gap(v, data["out.cached"]) < 1e-5
    (v * data["in.cotangent"][:, 6:]).sum().backward()
    assert x.grad is not None
    assert gap(x.grad, data["grad.cached.in.x"]) < 1e-5
    check(gradients(student, "grad.cached", data), gap)


@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_of_a_teacher_forced_pass(recomputed: bool, recorded, gap) -> None:
    recording = recorded("gradients", blocks=(3,))
    student, data = recording.student, recording.tensors
    student.gradient_checkpointing = recomputed
    x = data["in.x"].clone().requires_grad_(True)
    text = student.text(data["in.context"])
    v = student.teacher_forced(data["in.clean"], x, data["in.t"] / 1000, text)
    assert gap(v, data["out.forced"]) < 1e-5
    (v * data["in.cotangent"]).sum().backward()
    assert x.grad is not None
    assert gap(x.grad, data["grad.forced.in.x"]) < 1e-5
    check(gradients(student, "grad.forced", data), gap)


def test_gradients_of_self_forcings_training_rollout_with_a_detached_cache(recorded, gap) -> None:
    """Its context is re-noised to the table's last level although it is called clean; a rollout of ours does not do so."""
    recording = recorded("training_rollout", "gradients", blocks=(3,))
    student, data, settings = recording.student, recording.tensors, recording.settings
    student.gradient_checkpointing = True
    levels = levels_of(settings)[: settings["exit_step"] + 1]
    with torch.no_grad():
        words = student.text(data["in.context"])
    cache, parts = student.empty_cache(), []
    for block in range(3):
        x0 = torch.zeros(1, 3, *student.latent_shape)
        for step, level in enumerate(levels):
            t = torch.full((1, 3), float(level))
            x = flow.interpolate(x0, data[f"noise.{block}.{step}"], t)
            last = step == settings["exit_step"]
            with torch.set_grad_enabled(last):
                text = student.text(data["in.context"]) if last else words
                x0 = flow.x0_from_velocity(x, student.velocity(x, t, text, cache), t)
        parts.append(x0)
        context = torch.full((1, 3), settings["context_sigma"])
        cache = student.commit(flow.interpolate(x0, data[f"noise.{block}.context"], context), words, cache)
    found = torch.cat(parts, 1)
    assert gap(found, data["out.latents"]) < 1e-5
    (found * data["in.cotangent"]).sum().backward()
    check(gradients(student, "grad", data), gap)
