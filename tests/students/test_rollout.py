from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.students.base import StudentModule
from understudy.students.rollout import RecordedNoise, SeededNoise, Start, roll_chain, roll_clip, rollout
from understudy.students.transformer.model import CausalVideoTransformer

MakeStudent = Callable[..., CausalVideoTransformer]

LEVELS = flow.sampler_levels(4, 5.0)
PROMPTS = ("a red ball falls", "ball", "a ball", "")
SHAPE = (4, 2, 2)


class Stub(StudentModule):
    """A student that knows what to draw: its velocity leads every state to frame ``k``'s own target exactly."""

    device = torch.device("cpu")
    latent_shape = (4, 2, 2)
    block_list = (1,)

    def __init__(self, target: Tensor, block_frames: int = 1, exact: bool = True) -> None:
        super().__init__()
        self.target, self.block_list, self.exact = target, (block_frames,), exact
        self.calls: list[str] = []
        self.states: list[tuple[Tensor, Tensor]] = []
        self.committed: list[Tensor] = []

    def encode_text(self, prompts: Sequence[str]) -> None:
        return None

    def empty_cache(self) -> int:
        return 0

    def velocity(self, noisy: Tensor, levels: Tensor, text: None, cache: int) -> Tensor:
        self.calls.append(f"velocity {cache}")
        self.states.append((noisy, levels))
        if not self.exact:
            return torch.zeros_like(noisy)
        return flow.velocity_from_x0(noisy, self.target[:, cache : cache + noisy.shape[1]], levels)

    def commit(self, clean: Tensor, text: None, cache: int) -> int:
        self.calls.append(f"commit {cache}")
        self.committed.append(clean)
        return cache + clean.shape[1]


def target(frames: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, frames, *SHAPE, generator=torch.Generator().manual_seed(7))


def run(
    student: CausalVideoTransformer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    frames: int = 6,
    levels: Sequence[float] = LEVELS,
    start: Start | None = None,
) -> Tensor:
    with torch.no_grad():
        text = student.encode_text(prompts)
    return roll_clip(student, text, len(prompts), levels, SeededNoise(seeds), frames, start)


class TestSampler:
    def test_block_is_refined_at_every_level_and_committed_before_the_next(self) -> None:
        stub = Stub(target(), block_frames=2)
        list(rollout(stub, None, 2, LEVELS[:3], SeededNoise([0, 1]), 6))
        velocities = [["velocity 0"] * 3, ["velocity 2"] * 3, ["velocity 4"] * 3]
        # No pass is spent on a last block that nothing follows.
        assert stub.calls == [*velocities[0], "commit 0", *velocities[1], "commit 2", *velocities[2]]

    def test_states_are_renoised_predictions(self) -> None:
        truth = target(frames=1)
        stub = Stub(truth)
        (block,) = rollout(stub, None, 2, LEVELS, SeededNoise([3, 4]), 1)
        torch.testing.assert_close(block, truth, rtol=0, atol=1e-5)
        noise = SeededNoise([3, 4])
        for step, (level, (state, levels)) in enumerate(zip(LEVELS, stub.states, strict=True)):
            assert torch.equal(levels, torch.full((2, 1), level))
            fresh = noise(0, step, (2, 1, *SHAPE))
            expected = fresh if step == 0 else flow.interpolate(truth, fresh, levels)
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-5)
        assert torch.equal(stub.states[0][0], SeededNoise([3, 4])(0, 0, (2, 1, *SHAPE)))

    def test_clean_block_is_what_is_committed(self) -> None:
        stub = Stub(target())
        blocks = list(rollout(stub, None, 2, LEVELS, SeededNoise([0, 1]), 6))
        assert len(stub.committed) == 5
        assert all(torch.equal(a, b) for a, b in zip(stub.committed, blocks, strict=False))

    @pytest.mark.parametrize(("frames", "blocks"), [(1, 1), (2, 1), (3, 2), (6, 3)])
    def test_frames_are_rounded_up_to_blocks(self, frames: int, blocks: int) -> None:
        yielded = list(rollout(Stub(target(), 2), None, 2, (1.0,), SeededNoise([0, 1]), frames))
        assert [block.shape for block in yielded] == [(2, 2, *SHAPE)] * blocks
        clip = roll_clip(Stub(target(), 2), None, 2, (1.0,), SeededNoise([0, 1]), frames)
        assert torch.equal(clip, torch.cat(yielded, dim=1)[:, :frames])

    def test_clip_is_the_blocks_in_order(self) -> None:
        clip = roll_clip(Stub(target(), 3), None, 2, LEVELS, SeededNoise([0, 1]), 6)
        torch.testing.assert_close(clip, target(), rtol=0, atol=1e-5)


class TestStream:
    def test_blocks_are_drawn_only_when_asked_for(self) -> None:
        stub = Stub(target())
        stream = rollout(stub, None, 2, (1.0, 0.5), SeededNoise([0, 1]))
        assert isinstance(stream, Iterator)
        assert stub.calls == []
        next(stream)
        assert stub.calls == ["velocity 0", "velocity 0"]
        next(stream)
        assert stub.calls[2:] == ["commit 0", "velocity 1", "velocity 1"]

    def test_has_no_end_of_its_own(self, make_student: MakeStudent) -> None:
        student = make_student(window=3)
        with torch.no_grad():
            text = student.encode_text(PROMPTS[:2])
        stream = rollout(student, text, 2, LEVELS[:1], SeededNoise([0, 1]))
        blocks = list(islice(stream, 40))
        assert len(blocks) == 40
        assert all(bool(block.isfinite().all()) for block in blocks)
        assert not torch.equal(blocks[-1], blocks[-2])

    def test_a_stream_begins_like_the_finished_clip(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        clip = run(student, PROMPTS[:2], [5, 6])
        with torch.no_grad():
            text = student.encode_text(PROMPTS[:2])
        stream = rollout(student, text, 2, LEVELS, SeededNoise([5, 6]))
        assert torch.equal(torch.cat(list(islice(stream, 3)), dim=1), clip)

    def test_past_the_trained_length_is_one_line_of_advice(self, make_student: MakeStudent) -> None:
        student = make_student()
        stream = rollout(student, student.encode_text(PROMPTS[:1]), 1, LEVELS[:1], SeededNoise([0]))
        assert len(list(islice(stream, 6))) == 6  # all that it was trained on
        with pytest.raises(ConfigError, match=r"latent frame 7 .* 6 frames .* set student\.window") as caught:
            next(stream)
        assert "\n" not in str(caught.value)

    def test_no_gradient_is_kept_and_none_is_switched_off_outside(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        text = student.encode_text(PROMPTS[:2])
        assert text.tokens.requires_grad
        stream = rollout(student, text, 2, LEVELS, SeededNoise([0, 1]), 6)
        for block in stream:
            assert not block.requires_grad
            assert block.grad_fn is None
            assert torch.is_grad_enabled()  # between blocks the caller's own mode holds
        assert not roll_clip(student, text, 2, LEVELS, SeededNoise([0, 1]), 4).requires_grad


class TestSeededNoise:
    def test_each_sample_is_as_in_any_batch(self) -> None:
        shape = (3, 2, *SHAPE)
        together = SeededNoise([11, 12, 13])
        alone = [SeededNoise([seed]) for seed in (11, 12, 13)]
        for block in range(3):
            for step in range(2):
                whole = together(block, step, shape)
                rows = [noise(block, step, (1, *shape[1:])) for noise in alone]
                assert torch.equal(whole, torch.cat(rows))

    def test_seeds_blocks_and_steps_all_differ(self) -> None:
        noise = SeededNoise([1, 2])
        drawn = [noise(block, step, (2, 1, *SHAPE)) for block in range(2) for step in range(2)]
        rows = torch.cat(drawn).flatten(1)
        distance = torch.cdist(rows, rows) + 100 * torch.eye(len(rows))
        assert distance.min() > 1

    def test_is_standard_normal(self) -> None:
        drawn = SeededNoise(range(50))(0, 0, (50, 4, 16, 8, 8))
        assert abs(drawn.mean().item()) < 0.01
        assert abs(drawn.std().item() - 1) < 0.01

    def test_leaves_the_global_generator_alone(self) -> None:
        state = torch.get_rng_state()
        SeededNoise([1], [2], 1)(0, 0, (1, 1, *SHAPE))
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_group_shares_its_opening_only(self) -> None:
        shape = (4, 1, *SHAPE)
        noise = SeededNoise([1, 2, 3, 4], [9, 9, 9, 8], prefix_blocks=2)
        for block in range(4):
            for step in range(2):
                a, b, c, d = noise(block, step, shape)
                assert torch.equal(a, b) == torch.equal(b, c) == (block < 2)
                assert not torch.equal(c, d)
        # What follows the opening is the sample's own, the same for every opening.
        plain, shared = SeededNoise([1]), SeededNoise([1], [9], prefix_blocks=1)
        first = plain(0, 0, (1, 1, *SHAPE))
        shared(0, 0, (1, 1, *SHAPE))
        assert torch.equal(shared(1, 0, (1, 1, *SHAPE)), first)

    @pytest.mark.parametrize("prefix", [((), 3), ((9, 9), 0)])
    def test_no_prefix_shares_nothing(self, prefix: tuple[tuple[int, ...], int]) -> None:
        noise = SeededNoise([1, 2], *prefix)
        a, b = noise(0, 0, (2, 1, *SHAPE))
        assert not torch.equal(a, b)
        assert torch.equal(a, SeededNoise([1])(0, 0, (1, 1, *SHAPE))[0])


class TestBatch:
    @pytest.mark.parametrize("spec", [{}, {"block_frames": 2}, {"block_frames": 3, "window": 4}])
    def test_each_clip_is_as_in_the_batch(self, make_student: MakeStudent, spec: dict[str, int]) -> None:
        student = make_student(**spec)
        whole = run(student, PROMPTS, [1, 2, 3, 4])
        for b, prompt in enumerate(PROMPTS):
            alone = run(student, [prompt], [b + 1])
            torch.testing.assert_close(alone[0], whole[b], rtol=0, atol=1e-5)

    def test_same_seeds_give_the_same_clip(self, make_student: MakeStudent) -> None:
        student = make_student()
        first = run(student, PROMPTS[:2], [1, 2])
        assert torch.equal(first, run(student, PROMPTS[:2], [1, 2]))
        assert (first - run(student, PROMPTS[:2], [1, 3])).abs().amax((1, 2, 3, 4)).tolist()[1] > 0.1

    def test_group_with_one_opening_begins_alike_and_parts(self, make_student: MakeStudent) -> None:
        student = make_student(block_frames=2)
        text = student.encode_text(["a red ball"] * 3)
        noise = SeededNoise([1, 2, 3], [7] * 3, prefix_blocks=1)
        clip = roll_clip(student, text, 3, LEVELS, noise, 6)
        torch.testing.assert_close(clip[1:, :2], clip[:1, :2].expand(2, -1, -1, -1, -1), rtol=0, atol=1e-5)
        assert (clip[1:, 2:] - clip[:1, 2:]).abs().amax((1, 2, 3, 4)).min() > 0.1


class TestStart:
    def test_a_low_level_returns_nearly_what_was_given(self, make_student: MakeStudent) -> None:
        latents = torch.randn(2, 6, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        student = make_student(block_frames=2)
        errors = [
            (run(student, PROMPTS[:2], [1, 2], levels=(level,), start=Start(latents)) - latents).abs().max()
            for level in (1e-3, 1e-1)
        ]
        assert errors[0] < 0.02
        assert errors[1] > 5 * errors[0]

    def test_every_block_starts_from_its_own_latents(self) -> None:
        latents = target()
        stub = Stub(latents, block_frames=2, exact=False)  # zero velocity: shows the states themselves
        clip = roll_clip(stub, None, 2, (0.25,), SeededNoise([1, 2]), 6, Start(latents))
        noise = SeededNoise([1, 2])
        eps = torch.cat([noise(block, 0, (2, 2, *SHAPE)) for block in range(3)], dim=1)
        torch.testing.assert_close(clip, 0.75 * latents + 0.25 * eps, rtol=0, atol=1e-6)

    def test_an_exact_student_needs_no_luck(self) -> None:
        truth = target()
        clip = roll_clip(Stub(truth, 2), None, 2, (0.8, 0.4), SeededNoise([1, 2]), 6, Start(truth + 0.5))
        torch.testing.assert_close(clip, truth, rtol=0, atol=1e-5)

    def test_context_is_what_was_drawn_again(self) -> None:
        stub = Stub(target(), block_frames=2)
        roll_clip(stub, None, 2, (0.5,), SeededNoise([1, 2]), 6, Start(target() + 3))
        torch.testing.assert_close(torch.cat(stub.committed, dim=1), target()[:, :4], rtol=0, atol=1e-5)


class TestErrors:
    def one_line(self, caught: pytest.ExceptionInfo[ConfigError], *words: str) -> None:
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words), message

    @pytest.mark.parametrize(("batch", "seeds"), [(3, [1]), (1, [1, 2, 3]), (2, [1, 2, 3])])
    def test_every_sample_needs_its_seed(self, batch: int, seeds: list[int]) -> None:
        # One seed for several samples would broadcast: all of them would share their noise.
        with pytest.raises(ConfigError) as caught:
            roll_clip(Stub(target(batch=batch)), None, batch, LEVELS, SeededNoise(seeds), 6)
        self.one_line(caught, str(batch), str(len(seeds)))

    @pytest.mark.parametrize("frames", [1, 4, 5])
    def test_start_has_to_be_as_long_as_the_clip(self, make_student: MakeStudent, frames: int) -> None:
        student = make_student(block_frames=2)
        with pytest.raises(ConfigError) as caught:
            run(student, PROMPTS[:2], [1, 2], levels=(0.5,), start=Start(torch.zeros(2, frames, 4, 4, 4)))
        self.one_line(caught, str(frames))


class TestBlockList:
    def test_first_blocks_of_another_size_then_the_last_repeats(self) -> None:
        stub = Stub(target(frames=9), block_frames=3)
        stub.block_list = (1, 2, 3)
        blocks = list(rollout(stub, None, 2, LEVELS[:1], SeededNoise([0, 1]), 9))
        assert [block.shape[1] for block in blocks] == [1, 2, 3, 3]
        torch.testing.assert_close(torch.cat(blocks, dim=1), target(frames=9), rtol=0, atol=1e-5)

    def test_every_block_has_its_own_levels(self) -> None:
        stub = Stub(target(frames=3))
        list(rollout(stub, None, 2, ((1.0, 0.9, 0.5), (1.0, 0.5)), SeededNoise([0, 1]), 3))
        assert [round(float(t[0, 0]), 3) for _, t in stub.states] == [1.0, 0.9, 0.5, 1.0, 0.5, 1.0, 0.5]


def test_a_chain_keeps_the_states_from_which_the_parallel_pass_gives_the_samplers_own_predictions(make_student) -> None:
    student, levels = make_student(block_frames=2), (1.0, 0.75, 0.5)
    text = student.encode_text(["a red ball falls"] * 2)
    latents, states, times = roll_chain(student, text, 2, levels, SeededNoise([1, 2]), 6)
    assert states.shape == (3, *latents.shape)
    assert [float(t.unique()) for t in times] == [1.0, 0.75, 0.5]
    v = student.teacher_forced(latents, states[-1], times[-1], text)
    assert torch.allclose(flow.x0_from_velocity(states[-1], v, times[-1]), latents, atol=1e-4)
    assert torch.equal(latents, roll_clip(student, text, 2, levels, SeededNoise([1, 2]), 6))


def test_a_chain_of_blocks_with_more_steps_keeps_the_last_ones(make_student) -> None:
    student, levels = make_student(block_frames=2), ((1.0, 0.9, 0.5), (1.0, 0.5))
    text = student.encode_text(["a red ball falls"] * 2)
    latents, states, times = roll_chain(student, text, 2, levels, SeededNoise([1, 2]), 6)
    assert states.shape == (2, *latents.shape)
    expected = [[0.9, 0.9, 1, 1, 1, 1], [0.5] * 6]
    torch.testing.assert_close(times, torch.tensor(expected)[:, None].expand(-1, 2, -1))
    v = student.teacher_forced(latents, states[-1], times[-1], text)
    assert torch.allclose(flow.x0_from_velocity(states[-1], v, times[-1]), latents, atol=1e-4)


class TestRecordedNoise:
    def test_a_recorder_keeps_what_it_draws_and_the_record_repeats_the_rollout(self, make_student) -> None:
        student = make_student(block_frames=2)
        text = student.encode_text(PROMPTS[:2])
        recorder = RecordedNoise(source=SeededNoise([1, 2]))
        first = roll_clip(student, text, 2, (1.0, 0.5), recorder, 4)
        assert list(recorder.draws) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert torch.equal(first, roll_clip(student, text, 2, (1.0, 0.5), SeededNoise([1, 2]), 4))
        again = RecordedNoise(recorder.draws)
        for _ in range(2):  # a record is not used up
            assert torch.equal(first, roll_clip(student, text, 2, (1.0, 0.5), again, 4))

    def test_what_is_not_recorded_is_said(self) -> None:
        stub = Stub(target(frames=3))
        noise = RecordedNoise({(0, 0): torch.zeros(2, 1, *SHAPE)})
        with pytest.raises(ConfigError, match="no noise is recorded for block 1, step 0"):
            list(rollout(stub, None, 2, (1.0,), noise, 3))
        with pytest.raises(
            ConfigError, match=r"block 0, step 0 is \[2, 1, 4, 2, 2\], the rollout needs \[1, 1, 4, 2, 2\]"
        ):
            list(rollout(stub, None, 1, (1.0,), noise, 3))
