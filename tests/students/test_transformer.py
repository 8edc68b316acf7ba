from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.transformer.model import Cache, CausalVideoTransformer, Text, TransformerSpec

MakeStudent = Callable[..., CausalVideoTransformer]

PROMPTS = ("a red ball falls", "ball")
FRAMES = 6
LEVELS = flow.sampler_levels(4, 5.0)

# Every block size, alone and with windows that are and are not whole blocks, smaller than the clip and as long as it.
PLAIN = [{"block_frames": 1}, {"block_frames": 2}, {"block_frames": 3}]
ROLLING = [
    {"block_frames": 1, "window": 2},
    {"block_frames": 1, "window": 4},
    {"block_frames": 2, "window": 2},
    {"block_frames": 2, "window": 4},
    {"block_frames": 2, "window": 5},
    {"block_frames": 3, "window": 4},
]
UNROLLED = [{"block_frames": 1, "window": 6}, {"block_frames": 2, "window": 6, "sink": 2}]
WITH_SINK = [
    {"block_frames": 1, "window": 3, "sink": 1},
    {"block_frames": 1, "window": 5, "sink": 3},
    {"block_frames": 2, "window": 5, "sink": 1},
]


def name(spec: dict[str, int]) -> str:
    return "-".join(f"{key.split('_')[0]}{value}" for key, value in spec.items())


def tensors(seed: int = 0, batch: int = 2, frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and noisy latents [B, F, 4, 4, 4] and levels [B, F], a different one for every frame."""
    generator = torch.Generator().manual_seed(seed)
    clean, noisy = torch.randn(2, batch, frames, 4, 4, 4, generator=generator)
    return clean, noisy, 0.05 + 0.95 * torch.rand(batch, frames, generator=generator)


def blocks(student: CausalVideoTransformer, frames: int = FRAMES) -> list[slice]:
    size = student.block_frames
    return [slice(low, low + size) for low in range(0, frames, size)]


@torch.no_grad()
def cached(student: CausalVideoTransformer, clean: Tensor, noisy: Tensor, levels: Tensor, text: Text) -> Tensor:
    """Velocities [B, F, C, h, w] block by block, each with a cache of the clean blocks before it."""
    cache, out = student.empty_cache(), []
    for block in blocks(student, clean.shape[1]):
        out.append(student.velocity(noisy[:, block], levels[:, block], text, cache))
        cache = student.commit(clean[:, block], text, cache)
    return torch.cat(out, dim=1)


def flat(cache: Cache) -> list[Tensor]:
    return [*cache.keys, *cache.values]


class Recorder:
    """A student that notes every state it is asked about, as a rollout really visits them."""

    def __init__(self, student: CausalVideoTransformer) -> None:
        self._student = student
        self.visits: list[tuple[Tensor, Tensor, Tensor, Cache]] = []

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._student, attribute)

    def velocity(self, noisy: Tensor, levels: Tensor, text: Text, cache: Cache) -> Tensor:
        v = self._student.velocity(noisy, levels, text, cache)
        self.visits.append((noisy, levels, v, cache))
        return v

    def step(self, noisy: Tensor, levels: Tensor, after: Tensor, text: Text, cache: Cache) -> Tensor:
        return CausalVideoTransformer.step(self, noisy, levels, after, text, cache)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class TestParallelEqualsCached:
    @pytest.mark.parametrize("spec", PLAIN + ROLLING + UNROLLED + WITH_SINK, ids=name)
    def test_at_any_states(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        parallel = student.teacher_forced(clean, noisy, levels, text)
        torch.testing.assert_close(parallel, cached(student, clean, noisy, levels, text), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("spec", PLAIN + ROLLING + UNROLLED + WITH_SINK, ids=name)
    def test_along_a_rollout(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        text = student.encode_text(PROMPTS)
        recorder = Recorder(student)
        clip = roll_clip(recorder, text, 2, LEVELS, SeededNoise([1, 2]), FRAMES)
        assert len(recorder.visits) == len(LEVELS) * FRAMES // student.block_frames
        for step, level in enumerate(LEVELS):
            visits = recorder.visits[step :: len(LEVELS)]
            noisy, levels, v = (torch.cat([visit[i] for visit in visits], dim=1) for i in range(3))
            # The student is told the very number that the warped schedule holds.
            assert torch.equal(levels, torch.full((2, FRAMES), level))
            parallel = student.teacher_forced(clip, noisy, levels, text)
            torch.testing.assert_close(parallel, v, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("spec", PLAIN, ids=name)
    def test_on_a_clip_shorter_than_the_trained_length(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec, max_frames=12)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        parallel = student.teacher_forced(clean, noisy, levels, text)
        torch.testing.assert_close(parallel, cached(student, clean, noisy, levels, text), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("spec", PLAIN, ids=name)
    def test_gradients_agree_too(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        with torch.enable_grad():
            text = student.encode_text(PROMPTS)
            student.teacher_forced(clean, noisy, levels, text).square().mean().backward()
            parallel = {n: p.grad for n, p in student.named_parameters()}
            student.zero_grad(set_to_none=True)
            text, cache, total = student.encode_text(PROMPTS), student.empty_cache(), torch.zeros(())
            for block in blocks(student):
                v = student.velocity(noisy[:, block], levels[:, block], text, cache)
                total = total + v.square().sum()
                cache = student.commit(clean[:, block], text, cache)
            (total / noisy.numel()).backward()
        for n, p in student.named_parameters():
            torch.testing.assert_close(p.grad, parallel[n], rtol=1e-3, atol=1e-5, msg=lambda m, n=n: f"{n}: {m}")
        assert max(float(g.abs().max()) for g in parallel.values() if g is not None) > 1e-2


class TestWhoSeesWhom:
    @pytest.mark.parametrize("spec", PLAIN + UNROLLED, ids=name)
    def test_later_blocks_are_never_seen(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        before = student.teacher_forced(clean, noisy, levels, text)
        for block in blocks(student):
            other_clean, other_noisy, other_levels = clean.clone(), noisy.clone(), levels.clone()
            other_clean[:, block.start :] += 1
            other_noisy[:, block.stop :] += 1
            other_levels[:, block.stop :] *= 0.5
            after = student.teacher_forced(other_clean, other_noisy, other_levels, text)
            torch.testing.assert_close(after[:, : block.stop], before[:, : block.stop], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("spec", PLAIN + UNROLLED, ids=name)
    def test_clean_past_is_seen(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        before = student.teacher_forced(clean, noisy, levels, text)
        for past in blocks(student):
            other = clean.clone()
            other[:, past] += 1
            change = (student.teacher_forced(other, noisy, levels, text) - before).abs().amax((0, 2, 3, 4))
            assert bool((change[past.stop :] > 1e-3).all())

    @pytest.mark.parametrize("spec", PLAIN + UNROLLED, ids=name)
    def test_noisy_past_is_never_seen(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        before = student.teacher_forced(clean, noisy, levels, text)
        for block in blocks(student):
            other_noisy, other_levels = noisy.clone(), levels.clone()
            other_noisy[:, block] += 1
            other_levels[:, block] *= 0.5
            after = student.teacher_forced(clean, other_noisy, other_levels, text)
            change = (after - before).abs().amax((0, 2, 3, 4))
            assert bool((change[block] > 1e-3).all())
            change[block] = 0
            assert change.max() <= 1e-6

    def test_a_window_hides_what_is_too_old(self, make_student: MakeStudent) -> None:
        student = make_student(depth=1, window=3)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        other = clean.clone()
        other[:, 1] += 1
        after, before = (cached(student, x, noisy, levels, text) for x in (other, clean))
        # One layer deep, frame 1 reaches the two frames that share a window of three with it.
        assert ((after - before).abs().amax((0, 2, 3, 4)) > 1e-6).tolist() == [False, False, True, True, False, False]

    def test_frames_of_a_block_see_each_other(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=3)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        before = student.teacher_forced(clean, noisy, levels, text)
        for changed in range(3):
            other = noisy.clone()
            other[:, changed] += 1
            change = (student.teacher_forced(clean, other, levels, text) - before).abs().amax((0, 2, 3, 4))
            assert change[:3].min() > 1e-3

    def test_prompt_is_seen_by_every_frame(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        clean, noisy, levels = tensors()
        a, b = (student.teacher_forced(clean, noisy, levels, student.encode_text([p] * 2)) for p in PROMPTS)
        assert (a - b).abs().amax((0, 2, 3, 4)).min() > 1e-3

    def test_order_of_the_past_matters(self, make_student: MakeStudent) -> None:
        student = make_student()
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        swapped = clean[:, [1, 0, 2, 3, 4, 5]]
        a, b = (cached(student, x, noisy, levels, text) for x in (clean, swapped))
        assert (a - b)[:, 2:].abs().max() > 1e-3

    def test_place_in_the_picture_matters(self, make_student: MakeStudent) -> None:
        student = make_student()
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        # The same patches, each in another place.
        moved = cached(student, clean.roll(2, -1), noisy.roll(2, -1), levels, text).roll(-2, -1)
        assert (moved - cached(student, clean, noisy, levels, text)).abs().max() > 1e-3


class TestLevels:
    def test_each_frame_is_told_its_own_level(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        clean, noisy, _ = tensors()
        text = student.encode_text(PROMPTS)
        mixed = torch.full((2, FRAMES), 0.9)
        mixed[0, 3] = 0.3
        uniform = torch.full((2, FRAMES), 0.9)
        change = student.teacher_forced(clean, noisy, mixed, text) - student.teacher_forced(clean, noisy, uniform, text)
        by_frame = change.abs().amax((2, 3, 4))
        # Its block mate sees the change through attention; other blocks and the other sample do not.
        assert by_frame[0, 2:4].min() > 1e-4
        by_frame[0, 2:4] = 0
        assert by_frame.max() <= 1e-6

    def test_level_is_read_finely(self, make_student: MakeStudent) -> None:
        student = make_student()
        _, noisy, _ = tensors(frames=1)
        text, cache = student.encode_text(PROMPTS), student.empty_cache()
        x0 = [
            flow.x0_from_velocity(noisy, student.velocity(noisy, t, text, cache), t)
            for t in (torch.full((2, 1), level) for level in LEVELS)
        ]
        assert all((a - b).abs().max() > 1e-2 for a, b in pairwise(x0))

    @pytest.mark.parametrize("level", [0.0, 1e-6, 0.5, 1.0])
    def test_any_level_gives_finite_velocities(self, make_student: MakeStudent, level: float) -> None:
        student = make_student()
        clean, noisy, _ = tensors()
        v = student.teacher_forced(clean, noisy, torch.full((2, FRAMES), level), student.encode_text(PROMPTS))
        assert bool(v.isfinite().all())

    @pytest.mark.parametrize("raw", [0.0, 0.7])
    def test_prediction_is_scaled_to_the_level(self, raw: float) -> None:
        student = CausalVideoTransformer(TransformerSpec(4, 4, 4, dim=32, depth=1, heads=2, max_frames=FRAMES))
        student.patch_out.bias.fill_(raw)  # at first the network's only say
        clean, noisy, levels = tensors()
        v = student.teacher_forced(clean, noisy, levels, student.encode_text(PROMPTS))
        t = flow.expand(levels, noisy)
        variance = t**2 + (1 - t) ** 2
        # For data of unit variance: the posterior mean of x_0, and the network's say in units of what is left open.
        expected = (1 - t) / variance * noisy + t / variance.sqrt() * raw
        torch.testing.assert_close(flow.x0_from_velocity(noisy, v, levels), expected, rtol=1e-4, atol=1e-5)


class TestCache:
    @pytest.mark.parametrize("spec", [*PLAIN, *ROLLING, *WITH_SINK], ids=name)
    def test_is_a_value(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        cache = student.empty_cache()
        for block in blocks(student):
            kept = [x.clone() for x in flat(cache)]
            first = student.velocity(noisy[:, block], levels[:, block], text, cache)
            longer = student.commit(clean[:, block], text, cache)
            again = student.velocity(noisy[:, block], levels[:, block], text, cache)
            assert longer is not cache
            assert longer.seen == cache.seen + student.block_frames
            assert len(flat(cache)) == len(kept)
            assert all(torch.equal(a, b) for a, b in zip(flat(cache), kept, strict=True))
            assert torch.equal(first, again)
            cache = longer

    def test_two_futures_grow_from_one_past(self, make_student: MakeStudent) -> None:
        student = make_student()
        clean, noisy, levels = tensors()
        text = student.encode_text(PROMPTS)
        past = student.commit(clean[:, :1], text, student.empty_cache())
        one = student.commit(clean[:, 1:2], text, past)
        other = student.commit(-clean[:, 1:2], text, past)
        a, b = (student.velocity(noisy[:, 2:3], levels[:, 2:3], text, cache) for cache in (one, other))
        assert (a - b).abs().max() > 1e-3
        straight = cached(student, clean, noisy, levels, text)
        torch.testing.assert_close(a, straight[:, 2:3], rtol=0, atol=1e-6)

    def test_holds_keys_and_values_of_every_layer(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        clean, _, _ = tensors()
        text = student.encode_text(PROMPTS)
        cache = student.empty_cache()
        assert (cache.frames, cache.seen, flat(cache)) == (0, 0, [])
        for block in blocks(student)[:2]:
            cache = student.commit(clean[:, block], text, cache)
        assert (cache.frames, cache.seen) == (4, 4)
        # 2 layers, keys and values: [B, heads, frames * 4 patches, 16]
        assert [tuple(x.shape) for x in flat(cache)] == [(2, 2, 16, 16)] * 4


@pytest.mark.parametrize("spec", ROLLING + WITH_SINK, ids=name)
class TestRollingWindow:
    def test_equals_a_cache_kept_by_hand(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        wide = make_student(block_frames=student.block_frames, max_frames=12)  # the same weights; forgets nothing
        room, sink = student.spec.window - student.block_frames, student.spec.sink
        clean, noisy, levels = tensors(frames=18)
        text = student.encode_text(PROMPTS)
        cache = student.empty_cache()
        drawn: list[list[Tensor]] = []  # of every frame its keys and values, layer by layer
        for block in blocks(student, 18):
            kept = drawn if len(drawn) <= room else drawn[:sink] + drawn[len(drawn) - (room - sink) :]
            layers = [torch.cat(parts, dim=2) for parts in zip(*kept, strict=True)]
            half = len(layers) // 2
            by_hand = Cache(tuple(layers[:half]), tuple(layers[half:]), len(kept))
            assert (cache.frames, cache.seen) == (len(kept), len(drawn))
            found = student.velocity(noisy[:, block], levels[:, block], text, cache)
            expected = wide.velocity(noisy[:, block], levels[:, block], text, by_hand)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            longer = [x.unflatten(2, (-1, 4)) for x in flat(wide.commit(clean[:, block], text, by_hand))]
            drawn += [[x[:, :, len(kept) + i] for x in longer] for i in range(student.block_frames)]
            cache = student.commit(clean[:, block], text, cache)

    def test_size_stays_the_same_for_ever(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        recorder = Recorder(student)
        text = student.encode_text(PROMPTS)
        clip = roll_clip(recorder, text, 2, LEVELS[:2], SeededNoise([1, 2]), 5 * student.spec.max_frames)
        assert clip.shape[1] == 30
        assert bool(clip.isfinite().all())
        assert clip[:, -6:].std() > 0.1
        sizes = [visit[3].frames for visit in recorder.visits]
        room = student.spec.window - student.block_frames
        assert sizes[-30 // student.block_frames :] == [room] * (30 // student.block_frames)
        last = recorder.visits[-1][3]
        assert {x.shape[2] for x in flat(last)} == {room * student.frame_tokens}
        assert last.seen == 30 - student.block_frames


def test_sink_frames_stay(make_student: MakeStudent) -> None:
    student = make_student(window=4, sink=2)
    clean, _, _ = tensors(frames=20)
    text = student.encode_text(PROMPTS)
    cache = student.empty_cache()
    caches = []
    for frame in range(20):
        cache = student.commit(clean[:, frame : frame + 1], text, cache)
        caches.append(cache)
    tokens = 2 * student.frame_tokens
    for first, last in zip(flat(caches[1]), flat(caches[-1]), strict=True):
        assert torch.equal(first, last[:, :, :tokens])
    # Without one, the first frames are gone.
    rolling = make_student(window=4)
    cache = rolling.empty_cache()
    for frame in range(20):
        cache = rolling.commit(clean[:, frame : frame + 1], text, cache)
    assert not torch.equal(flat(caches[1])[0], flat(cache)[0][:, :, :tokens])


def test_sink_frames_are_seen_for_ever(make_student: MakeStudent) -> None:
    clean, noisy, levels = tensors(frames=15)
    other = clean.clone()
    other[:, 0] += 1
    for sink, seen in ((1, True), (0, False)):
        student = make_student(depth=1, window=4, sink=sink)
        text = student.encode_text(PROMPTS)
        a, b = (cached(student, x, noisy, levels, text) for x in (clean, other))
        assert ((a - b)[:, -1].abs().max() > 1e-4) == seen


class TestBatch:
    def test_each_sample_alone_is_as_in_the_batch(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        clean, noisy, levels = tensors(batch=3)
        prompts = ["a red ball falls", "", "ball"]
        whole = student.teacher_forced(clean, noisy, levels, student.encode_text(prompts))
        for b in range(3):
            row = slice(b, b + 1)
            alone = student.teacher_forced(clean[row], noisy[row], levels[row], student.encode_text(prompts[row]))
            torch.testing.assert_close(alone, whole[row], rtol=0, atol=1e-5)

    def test_text_rows_can_be_picked(self, make_student: MakeStudent) -> None:
        student = make_student()
        text = student.encode_text(PROMPTS)
        picked = text.index(torch.tensor([1, 1, 0]))
        torch.testing.assert_close(picked.tokens, text.tokens[[1, 1, 0]])


def one_line(caught: pytest.ExceptionInfo[ConfigError], *words: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


class TestErrors:
    @pytest.mark.parametrize(
        "shape", [(2, 2, 4, 4, 5), (2, 2, 3, 4, 4), (2, 1, 4, 4, 4), (2, 3, 4, 4, 4), (2, 4, 4, 4, 4), (2, 0, 4, 4, 4)]
    )
    @pytest.mark.parametrize("method", ["velocity", "commit"])
    def test_wrong_block_says_what_is_right(self, make_student: MakeStudent, shape: Sequence[int], method: str) -> None:
        student = make_student(block_frames=2)
        text, cache = student.encode_text(PROMPTS), student.empty_cache()
        block = torch.zeros(*shape)
        arguments = (block, torch.ones(shape[:2]), text, cache) if method == "velocity" else (block, text, cache)
        with pytest.raises(ConfigError) as caught:
            getattr(student, method)(*arguments)
        one_line(caught, "[B, 2, 4, 4, 4]", f"got {list(shape)}")

    @pytest.mark.parametrize(
        ("clean", "noisy"),
        [
            ((2, 5, 4, 4, 4), (2, 5, 4, 4, 4)),  # not whole blocks
            ((2, 4, 4, 8, 2), (2, 4, 4, 8, 2)),  # as many patches, of another picture
            ((2, 4, 4, 4, 5), (2, 4, 4, 4, 5)),
            ((2, 4, 4, 4, 4), (2, 6, 4, 4, 4)),
        ],
    )
    def test_wrong_clip_says_what_is_right(
        self, make_student: MakeStudent, clean: Sequence[int], noisy: Sequence[int]
    ) -> None:
        student = make_student(block_frames=2)
        levels = torch.ones(tuple(noisy[:2]))
        with pytest.raises(ConfigError) as caught:
            student.teacher_forced(torch.zeros(*clean), torch.zeros(*noisy), levels, student.encode_text(PROMPTS))
        one_line(caught, "[B, F, 4, 4, 4]", "multiple of 2", f"{list(clean)}", f"{list(noisy)}")

    def test_past_the_trained_length_says_what_to_set(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        text = student.encode_text(PROMPTS)
        clean, noisy, levels = tensors(frames=8)
        cache = student.empty_cache()
        for block in blocks(student):
            cache = student.commit(clean[:, block], text, cache)
        with pytest.raises(ConfigError) as caught:
            student.velocity(noisy[:, 6:], levels[:, 6:], text, cache)
        one_line(caught, "latent frame 8", "6 frames", "set student.window")
        with pytest.raises(ConfigError, match=r"set student\.window"):
            student.commit(clean[:, 6:], text, cache)
        with pytest.raises(ConfigError, match=r"latent frame 8 is past the 6 frames.*set student\.window"):
            student.teacher_forced(clean, noisy, levels, text)

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"patch": 3}, "patch 3 does not divide the latent size 4x4"),
            ({"height": 6, "patch": 4}, "patch 4 does not divide the latent size 6x4"),
            ({"dim": 30}, "dim 30 must be an even multiple of heads 2"),
            ({"dim": 34, "heads": 4}, "dim 34 .* heads 4"),
            ({"window": 7}, r"window 7 .* max_frames \(6\)"),
            ({"window": 1, "block_frames": 2}, r"window 1 must hold .* a block \(2\)"),
            ({"window": 3, "sink": 3}, r"window 3 must hold the sink \(3\)"),
            ({"block_frames": 4}, "max_frames 6 must be a multiple of block_frames 4"),
        ],
    )
    def test_wrong_spec_is_refused(self, make_student: MakeStudent, spec: dict[str, int], words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            make_student(**spec)
        one_line(caught)

    def test_largest_and_smallest_windows_are_allowed(self, make_student: MakeStudent) -> None:
        for spec in ({"window": 6}, {"window": 2, "block_frames": 2}, {"window": 3, "sink": 2}):
            assert make_student(**spec).spec.window == spec["window"]


def test_config_rebuilds_the_student(make_student: MakeStudent) -> None:
    student = make_student(block_frames=2, window=4)
    twin = CausalVideoTransformer(TransformerSpec(**student.config()))
    twin.load_state_dict(student.state_dict())
    clean, noisy, levels = tensors(frames=4)
    a, b = (s.eval().teacher_forced(clean, noisy, levels, s.encode_text(PROMPTS)) for s in (student, twin))
    assert twin.spec == student.spec
    assert torch.equal(a, b)
