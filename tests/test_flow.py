import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from understudy import flow

SHAPE = (2, 3, 4, 2, 2)
seeds = st.integers(0, 2**31)
levels = st.floats(0.05, 0.95)


def draw(seed: int, count: int = 2) -> list[Tensor]:
    """Latents [2, 3, 4, 2, 2] in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(count)]


def per_frame(level: float) -> Tensor:
    """A different level [2, 3] for every frame, the first one ``level``."""
    return level ** torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3).div(2).add(0.5)


@given(seeds, levels)
def test_state_and_velocity_give_back_both_ends(seed: int, level: float) -> None:
    x0, noise = draw(seed)
    t = per_frame(level)
    x_t, v = flow.interpolate(x0, noise, t), flow.velocity_target(x0, noise)
    torch.testing.assert_close(flow.x0_from_velocity(x_t, v, t), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.noise_from_velocity(x_t, v, t), noise, rtol=0, atol=1e-12)


@given(seeds, levels)
def test_each_end_gives_back_any_velocity(seed: int, level: float) -> None:
    x_t, v = draw(seed)  # any prediction, not only the path's own velocity
    t = per_frame(level).clamp(min=0.01)
    x0, noise = flow.x0_from_velocity(x_t, v, t), flow.noise_from_velocity(x_t, v, t)
    torch.testing.assert_close(flow.velocity_from_x0(x_t, x0, t), v, rtol=0, atol=1e-11)
    torch.testing.assert_close(flow.velocity_from_noise(x_t, noise, t), v, rtol=0, atol=1e-11)
    torch.testing.assert_close(flow.interpolate(x0, noise, t), x_t, rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.velocity_target(x0, noise), v, rtol=0, atol=1e-11)


def test_path_starts_at_data_and_ends_at_noise() -> None:
    x0, noise = draw(0)
    assert torch.equal(flow.interpolate(x0, noise, torch.zeros(2, 3, dtype=torch.float64)), x0)
    assert torch.equal(flow.interpolate(x0, noise, torch.ones(2, 3, dtype=torch.float64)), noise)


def test_velocity_is_the_slope_of_the_path() -> None:
    x0, noise = draw(1)
    a, b = torch.full((2, 3), 0.3, dtype=torch.float64), torch.full((2, 3), 0.7, dtype=torch.float64)
    slope = (flow.interpolate(x0, noise, b) - flow.interpolate(x0, noise, a)) / 0.4
    torch.testing.assert_close(slope, flow.velocity_target(x0, noise), rtol=0, atol=1e-12)


def test_every_frame_has_its_own_level() -> None:
    x0, noise = draw(2)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(2, 3)
    whole = flow.interpolate(x0, noise, t)
    for b in range(2):
        for f in range(3):
            by_hand = (1 - t[b, f]) * x0[b, f] + t[b, f] * noise[b, f]
            torch.testing.assert_close(whole[b, f], by_hand, rtol=0, atol=1e-15)
    assert flow.expand(t, x0).shape == (2, 3, 1, 1, 1)
    assert flow.expand(t[:, 0], x0).shape == (2, 1, 1, 1, 1)


def test_shift_five_is_the_papers() -> None:
    warped = flow.warp(torch.tensor([1, 0.75, 0.5, 0.25], dtype=torch.float64), 5)
    torch.testing.assert_close(warped, torch.tensor([1, 15 / 16, 5 / 6, 5 / 8], dtype=torch.float64))
    assert flow.sampler_levels(4, 5.0) == pytest.approx((1, 0.9375, 0.8333, 0.625), abs=5e-5)


@given(st.floats(0.2, 20), st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True))
def test_warp_keeps_the_order_and_the_ends(shift: float, points: list[float]) -> None:
    t = torch.tensor(sorted(points), dtype=torch.float64)
    warped = flow.warp(t, shift)
    gaps = t.diff() > 1e-9  # closer ones may meet in rounding
    assert bool((warped.diff()[gaps] > 0).all())
    assert bool((warped.diff() >= -1e-15).all())
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(flow.warp(ends, shift), ends)
    torch.testing.assert_close(flow.warp(warped, 1 / shift), t, rtol=0, atol=1e-12)
    assert bool((warped >= t - 1e-15).all()) if shift >= 1 else bool((warped <= t + 1e-15).all())


def test_warp_by_one_changes_nothing() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.equal(flow.warp(t, 1.0), t)


@given(st.integers(1, 50), st.floats(0.5, 10))
def test_sampler_falls_from_one_and_leaves_out_zero(steps: int, shift: float) -> None:
    found = flow.sampler_levels(steps, shift)
    assert len(found) == steps
    assert found[0] == 1
    assert list(found) == sorted(set(found), reverse=True)
    assert found[-1] > 0


def test_unshifted_sampler_is_uniform() -> None:
    assert flow.sampler_levels(4) == (1.0, 0.75, 0.5, 0.25)


def test_drawn_levels_are_the_samplers_own() -> None:
    given_levels = flow.sampler_levels(4, 5.0)
    drawn = flow.draw_levels(given_levels, (50, 8), torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 8)
    assert drawn.dtype == torch.float32
    values, counts = drawn.unique(return_counts=True)
    # Bit for bit what the student is conditioned on when it samples.
    assert torch.equal(values, torch.tensor(given_levels[::-1], dtype=torch.float32))
    assert counts.min() > 60  # 100 expected of each
    assert (drawn == drawn[:, :1]).all(1).sum() < 5  # one draw per frame, not per sample


def test_continuous_levels_fill_their_range() -> None:
    drawn = flow.draw_continuous((400, 10), 3.0, 0.02, torch.Generator().manual_seed(0))
    low = float(flow.warp(torch.tensor(0.02), 3.0))
    assert drawn.shape == (400, 10)
    assert low <= drawn.min() < low + 0.01
    assert 0.999 < drawn.max() <= 1
    uniform = flow.warp(drawn, 1 / 3)
    assert uniform.mean() == pytest.approx(0.51, abs=0.02)
    assert uniform.std() == pytest.approx(0.98 / 12**0.5, abs=0.01)


def test_draws_follow_their_generator() -> None:
    def both(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [
            flow.draw_levels((1.0, 0.5, 0.25), (3, 4), generator),
            flow.draw_continuous((3, 4), generator=generator),
        ]

    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(both(3), both(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(both(3), both(4), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_levels_drawn_for_a_block_are_its_own() -> None:
    levels = ((1.0, 0.75, 0.5), (0.25,))
    drawn = flow.draw_levels(levels, (200, 4), torch.Generator().manual_seed(0))
    assert set(drawn[:, 0].tolist()) == {1.0, 0.75, 0.5}
    assert set(drawn[:, 1:].flatten().tolist()) == {0.25}
    frames = flow.per_frame(drawn, (1, 3, 3, 2))
    assert frames.shape == (200, 9)
    assert torch.equal(frames[:, 0], drawn[:, 0])
    assert torch.equal(frames[:, 4:7], drawn[:, 2:3].expand(-1, 3))


def test_the_density_of_a_re_noising_step_is_the_normal_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, x0 = torch.randn(2, 2, 3, 4, 2, 2, generator=generator)
    t = torch.full((2, 3), 0.5)
    normal = torch.distributions.Normal(0.5 * x0, 0.5)
    difference = normal.log_prob(x_t).flatten(2).sum(2) - flow.renoise_log_prob(x_t, x0, t)
    assert torch.allclose(difference, difference[0, 0].expand(2, 3), atol=1e-4)  # the constant that is left out


@pytest.mark.parametrize("levels", [(1.0,), (1.0, 0.5), (1.0, 0.9375, 0.8333, 0.625)])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_other_numbers_of_steps_follow_the_same_schedule(levels: tuple[float, ...], steps: int) -> None:
    other = flow.with_steps(levels, steps)
    assert (len(other), other[0]) == (steps, 1.0)
    assert all(a > b for a, b in zip(other, (*other[1:], 0.0), strict=True))
    if steps == len(levels):
        assert other == levels
    if steps % len(levels) == 0:
        assert other[:: steps // len(levels)] == levels
