"""The causal Wan student against recorded outputs of public code, and against itself."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy.errors import ConfigError
from understudy.students.base import block_sizes, by_block, in_parallel
from understudy.students.checkpoints.layout import shapes
from understudy.students.checkpoints.start import sizes_of_spec
from understudy.students.rollout import SeededNoise, roll_clip, rollout
from understudy.students.wan.model import WanCache, WanStudent, compile_layers
from understudy.students.wan.spec import PRESETS, WanSpec, preset, wan_1_3b, wan_14b

SIZES = {"dim": 24, "ffn_dim": 32, "layers": 2, "heads": 2, "text_dim": 8, "text_len": 6, "freq_dim": 16}
TINY = WanSpec(**SIZES, in_channels=4, out_channels=4, height=4, width=6, blocks=(2,), max_frames=8, text="words")  # type: ignore[arg-type]


def tiny(**changes: Any) -> WanStudent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = WanStudent(replace(TINY, **changes)).eval()
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return student


def clips(student: WanStudent, frames: int = 8, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (batch, frames, *student.latent_shape)
    clean, noisy = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    levels = torch.rand(batch, len(block_sizes(student, frames)), generator=generator)
    return clean, noisy, levels.repeat_interleave(torch.tensor(block_sizes(student, frames)), 1)


def one_by_one(student: WanStudent, clean: Tensor, noisy: Tensor, levels: Tensor, text: Any) -> Tensor:
    cache, parts, low = student.empty_cache(), [], 0
    for size in block_sizes(student, clean.shape[1]):
        rows = slice(low, low + size)
        parts.append(student.velocity(noisy[:, rows], levels[:, rows], text, cache))
        cache = student.commit(clean[:, rows], text, cache)
        low += size
    return torch.cat(parts, 1)


@torch.no_grad()
def test_cached_step_equals_the_recording(recorded, gap) -> None:
    recording = recorded("kvstep")
    student, data = recording.student, recording.tensors
    text, cache = student.text(data["in.context"]), student.empty_cache()
    primed = []
    for low in (0, 3):
        block = data["in.clean"][:, low : low + 3]
        primed.append(student.velocity(block, torch.zeros(1, 3), text, cache))
        cache = student.commit(block, text, cache)
    assert gap(torch.cat(primed, 1), data["out.primed_flow"]) < 1e-5
    clean = 6 * student.frame_tokens  # public code also leaves the noisy block's own keys in its cache
    assert gap(torch.stack(cache.keys), data["out.cache_k"][:, :, :clean]) < 1e-5
    assert gap(torch.stack(cache.values), data["out.cache_v"][:, :, :clean]) < 1e-5
    assert gap(student.velocity(data["in.x"], data["in.t"] / 1000, text, cache), data["out.flow"]) < 1e-5


@pytest.mark.parametrize("grad", [False, True])
def test_block_causal_pass_equals_the_recording(grad: bool, recorded, gap) -> None:
    recording = recorded("blockmask")
    student, data = recording.student, recording.tensors
    with torch.set_grad_enabled(grad):
        found = student.block_causal(data["in.x"], data["in.t"] / 1000, student.text(data["in.context"]))
    assert gap(found, data["out.flow"]) < 1e-5


@torch.no_grad()
def test_teacher_forced_pass_equals_the_recording(recorded, gap) -> None:
    recording = recorded("teacher")
    student, data = recording.student, recording.tensors
    text = student.text(data["in.context"])
    found = student.teacher_forced(data["in.clean"], data["in.x"], data["in.t"] / 1000, text)
    assert gap(found, data["out.flow"]) < 1e-5


SETTINGS = [
    {},
    {"blocks": (1,)},
    {"blocks": (1, 2, 3, 2)},
    {"window": 5, "sink": 1},
    {"window": 4},
    {"relative_rope": True},
    {"relative_rope": True, "window": 5, "sink": 1},
    {"height": 6, "width": 2},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
@torch.no_grad()
def test_parallel_equals_cached(changes: dict[str, Any], gap) -> None:
    student = tiny(**changes)
    clean, noisy, levels = clips(student)
    text = student.encode_text(["a red ball", ""])
    found = student.teacher_forced(clean, noisy, levels, text)
    assert gap(found, one_by_one(student, clean, noisy, levels, text)) < 1e-5


@torch.no_grad()
def test_block_by_block_gives_the_velocities_of_the_parallel_pass(gap) -> None:
    student = tiny(blocks=(1, 2, 3, 2))
    clean, noisy, levels = clips(student)
    parts = list(by_block(student, clean, noisy, levels, ["a red ball", ""]))
    assert [(frames.start, frames.stop) for frames, _ in parts] == [(0, 1), (1, 3), (3, 6), (6, 8)]
    ((_, whole),) = in_parallel(student, clean, noisy, levels, ["a red ball", ""])
    assert gap(torch.cat([v for _, v in parts], 1), whole) < 1e-5


@torch.no_grad()
def test_a_student_in_bfloat16_draws_nearly_the_same_and_caches_in_it(gap) -> None:
    student = tiny(window=5, sink=1)
    whole = roll_clip(student, student.encode_text(["a"]), 1, (1.0, 0.5), SeededNoise([0]), 8)
    half = copy.deepcopy(student).bfloat16()
    text = half.encode_text(["a"])
    found = roll_clip(half, text, 1, (1.0, 0.5), SeededNoise([0]), 8)
    assert found.dtype == torch.float32
    assert 1e-4 < gap(found, whole) < 5e-2
    assert {key.dtype for key in half.commit(found[:, :2], text, half.empty_cache()).keys} == {torch.bfloat16}


@torch.no_grad()
def test_compiled_layers_draw_the_same() -> None:
    """Both parts are whole graphs; what a backend makes of them is torch's."""
    student = tiny(window=5, sink=1)
    text = student.encode_text(["a"])
    plain = roll_clip(student, text, 1, (1.0, 0.5), SeededNoise([0]), 8)
    compile_layers(student, backend="eager")
    torch.testing.assert_close(roll_clip(student, text, 1, (1.0, 0.5), SeededNoise([0]), 8), plain)


@torch.no_grad()
def test_any_size_is_taken_and_window_relative_positions_never_leave_the_window() -> None:
    student = tiny(window=4, sink=1, relative_rope=True)
    text = student.encode_text(["a"])
    blocks = list(rollout(student, text, 1, (1.0, 0.5), SeededNoise([0]), 40))
    assert len(blocks) == 20
    assert max(key[0] + key[1] for key in student._phase_tables) <= 4
    other = torch.randn(1, 2, 4, 8, 10)
    assert student.velocity(other, torch.ones(1, 2), text, student.empty_cache()).shape == other.shape


def test_no_gradient_reaches_the_past_and_recomputing_changes_nothing() -> None:
    student = tiny(window=5, sink=1)
    clean, noisy, levels = clips(student)
    past = clean.clone().requires_grad_(True)
    gradients = []
    for checkpointing in (False, True, 0.5):
        student.gradient_checkpointing = checkpointing
        student.zero_grad()
        text = student.encode_text(["a red ball", "b"])
        one_by_one(student, past, noisy, levels, text).square().mean().backward()
        student.teacher_forced(clean, noisy, levels, text=student.encode_text(["a", "b"])).square().mean().backward()
        gradients.append([p.grad.clone() for p in student.parameters()])
    assert past.grad is None
    for plain, *others in zip(*gradients, strict=True):
        for recomputed in others:
            torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-7)


def test_a_step_with_the_cache_has_the_gradient_of_its_own_block_only() -> None:
    """Differences of the loss, with the cache held, are the gradient."""
    student = tiny().double()
    clean, noisy, levels = (x.double() for x in clips(student))
    with torch.no_grad():
        cache = student.commit(clean[:, :2], student.encode_text(["a", "b"]), student.empty_cache())

    def loss() -> Tensor:
        return student.velocity(noisy[:, 2:4], levels[:, 2:4], student.encode_text(["a", "b"]), cache).square().mean()

    loss().backward()
    weight = student.blocks[0].self_attn.k.weight
    with torch.no_grad():
        step = torch.zeros_like(weight)
        step[3, 5] = 1e-3
        weight += step
        high = loss()
        weight -= 2 * step
        low = loss()
    # rotation is in single precision
    assert float((high - low) / 2e-3) == pytest.approx(float(weight.grad[3, 5]), rel=2e-2, abs=1e-6)


@torch.no_grad()
def test_the_cache_is_a_value() -> None:
    student = tiny(window=4)
    clean, _, _ = clips(student)
    text, cache = student.encode_text(["a", "b"]), WanCache()
    for low in range(0, 6, 2):
        before = copy.deepcopy(cache)
        longer = student.commit(clean[:, low : low + 2], text, cache)
        student.velocity(clean[:, :2], torch.ones(2, 2), text, cache)
        assert all(torch.equal(a, b) for a, b in zip(cache.keys, before.keys, strict=True))
        cache = longer
    assert (cache.frames, cache.seen) == (2, 6)


@torch.no_grad()
def test_caches_that_follow_one_cache_do_not_meet() -> None:
    student = tiny()
    clean, noisy, levels = clips(student)
    text = student.encode_text(["a", "b"])
    past = student.commit(clean[:, :2], text, student.empty_cache())
    first = student.commit(clean[:, 2:4], text, past)
    before = copy.deepcopy(first)
    student.commit(clean[:, 4:6], text, past)
    student.velocity(noisy[:, 2:4], levels[:, 2:4], text, past)
    student.velocity(noisy[:, 4:6], levels[:, 4:6], text, first)
    for found, kept in ((first.keys, before.keys), (first.values, before.values)):
        assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


@pytest.mark.parametrize("grad", [False, True])
def test_one_level_for_all_and_the_same_level_for_each_frame_are_the_same(grad: bool, gap) -> None:
    student = tiny()
    clean, noisy, _ = clips(student)
    with torch.set_grad_enabled(grad):
        text = student.encode_text(["a", "b"])
        cache = student.commit(clean[:, :2], text, student.empty_cache())
        one = student.velocity(noisy[:, 2:4], torch.tensor(0.625).expand(2, 2), text, cache)
        apart = torch.tensor([[0.625, 0.625], [0.625, 0.5]])  # the first clip's frames are as before
        assert gap(student.velocity(noisy[:, 2:4], apart, text, cache)[:1], one[:1].detach()) < 1e-6


@torch.no_grad()
def test_prompt_switch_recaches_the_past(gap) -> None:
    student = tiny(blocks=(2,), window=6, sink=0)
    first, second = student.encode_text(["a red ball"]), student.encode_text(["something else"])
    noise = SeededNoise([1])
    plain = list(rollout(student, first, 1, (1.0, 0.5), noise, 8))
    switched = list(
        rollout(student, first, 1, (1.0, 0.5), SeededNoise([1]), 8, switch=lambda i, _: second if i == 2 else None)
    )
    assert torch.equal(torch.cat(plain[:2]), torch.cat(switched[:2]))
    assert gap(switched[2], plain[2]) > 1e-3
    cache = student.empty_cache()
    for block in plain[:2]:
        cache = student.commit(block, second, cache)
    recached = student.recache(plain[:2], second, 4)
    assert recached.seen == cache.seen == 4
    assert all(torch.equal(a, b) for a, b in zip(recached.keys, cache.keys, strict=True))


@torch.no_grad()
def test_given_first_frames_are_kept_and_seen(gap) -> None:
    student = tiny(blocks=(1, 2))
    text = student.encode_text(["a"])
    image = torch.randn(1, 1, *student.latent_shape)
    clip = torch.cat(list(rollout(student, text, 1, (1.0, 0.5), SeededNoise([1]), 5, given=image)), 1)
    assert torch.equal(clip[:, :1], image)
    other = torch.cat(list(rollout(student, text, 1, (1.0, 0.5), SeededNoise([1]), 5, given=-image)), 1)
    assert gap(other[:, 1:], clip[:, 1:]) > 1e-3
    with pytest.raises(ConfigError, match="2 given latent frames end inside block 1 of 2"):
        list(rollout(student, text, 1, (1.0,), SeededNoise([1]), 5, given=image.expand(-1, 2, -1, -1, -1)))


@torch.no_grad()
def test_recorded_noise_is_taken_as_it_is() -> None:
    student = tiny()
    text = student.encode_text(["a"])
    draws = {(i, s): torch.randn(1, 2, *student.latent_shape) for i in range(4) for s in range(2)}
    asked = []

    def noise(block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        asked.append((block, step))
        return draws[block, step]

    first = roll_clip(student, text, 1, (1.0, 0.5), noise, 8)
    assert asked == list(draws)
    assert torch.equal(first, roll_clip(student, text, 1, (1.0, 0.5), noise, 8))


@torch.no_grad()
def test_a_window_of_one_block_sees_no_past() -> None:
    student = tiny(window=2)
    text = student.encode_text(["a"])
    blocks = list(rollout(student, text, 1, (1.0, 0.5), SeededNoise([0]), 12))
    assert len(blocks) == 6
    assert student.commit(blocks[0], text, student.empty_cache()).frames == 0


def test_past_the_trained_length_is_one_line_of_advice() -> None:
    student = tiny()
    with pytest.raises(ConfigError, match=r"latent frame 10 is past the 8 frames.*student\.window"):
        list(rollout(student, student.encode_text(["a"]), 1, (1.0,), SeededNoise([0])))


@pytest.mark.parametrize(
    ("spec", "tensors", "parameters"),
    [(wan_1_3b(), 825, 1_418_996_800), (wan_14b(), 1095, 14_288_491_584)],
    ids=["1.3B", "14B"],
)
def test_sizes_of_the_public_models(spec: WanSpec, tensors: int, parameters: int) -> None:
    with torch.device("meta"):
        student = WanStudent(spec)
    state = student.state_dict()
    assert (len(state), sum(p.numel() for p in student.parameters())) == (tensors, parameters)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes(sizes_of_spec(spec))
    assert student.frame_tokens == 1560


def test_presets() -> None:
    assert preset("selfforcing").levels == pytest.approx((1.0, 0.9375, 0.833333, 0.625), abs=1e-6)
    assert [len(own) for own in PRESETS["causalforcing_frame_2step"].levels] == [4, 2]
    assert PRESETS["causvid"].levels == pytest.approx((1.0, 0.757, 0.522))
    spec = preset("longlive").apply(wan_1_3b())
    assert (spec.blocks, spec.window, spec.sink, spec.joint_recache, spec.relative_rope) == ((3,), 12, 3, True, False)
    assert preset("longlive_infinity").apply(spec) == replace(spec, relative_rope=True)
    with pytest.raises(ConfigError, match="choose one of selfforcing"):
        preset("nothing")
