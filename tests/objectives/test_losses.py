import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from understudy import flow
from understudy.objectives import losses

SHAPE = (3, 2, 4, 2, 2)
seeds = st.integers(0, 2**31)
betas = st.floats(0.05, 2.0)
weights = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda w: torch.tensor(w, dtype=torch.float64))
scopes = st.sampled_from(["group", "batch"])


def draw(seed: int, count: int) -> list[Tensor]:
    """Velocities [3, 2, 4, 2, 2] in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(count)]


def draw_scores(seed: int, prompts: int = 4, group: int = 5) -> Tensor:
    """Scores [P, K] in double precision."""
    return torch.randn(prompts, group, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Tensor, v: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), v)[0]


class TestForwardProcessLoss:
    @given(seeds, betas, weights, weights)
    def test_value_at_the_old_policy_does_not_depend_on_the_weight(
        self, seed: int, beta: float, w: Tensor, other: Tensor
    ) -> None:
        old, target = draw(seed, 2)
        value = losses.forward_process_loss(old, old, target, w, beta)
        torch.testing.assert_close(value, losses.forward_process_loss(old, old, target, other, beta))
        torch.testing.assert_close(value, losses.frame_error(old, target) / beta)
        assert value.shape == SHAPE[:2]

    @given(seeds, betas, weights)
    def test_gradient_at_the_old_policy_is_2w_minus_1_times_the_plain_one(
        self, seed: int, beta: float, w: Tensor
    ) -> None:
        old, target = draw(seed, 2)
        v = old.clone().requires_grad_()
        found = gradient(losses.forward_process_loss(v, old, target, w, beta), v)
        plain = gradient(losses.frame_error(v, target), v)
        expected = (2 * w - 1).reshape(3, 1, 1, 1, 1) * plain
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    @given(seeds, betas)
    def test_undecided_weight_gives_no_gradient_at_the_old_policy(self, seed: int, beta: float) -> None:
        old, target = draw(seed, 2)
        v = old.clone().requires_grad_()
        half = torch.full((3,), 0.5, dtype=torch.float64)
        found = gradient(losses.forward_process_loss(v, old, target, half, beta), v)
        # Two equal terms of opposite sign; what remains is the rounding of the mixtures, far below any gradient.
        assert found.abs().max() < 1e-14

    @pytest.mark.parametrize("beta", [1.0, 0.5, 0.25])
    def test_undecided_weight_gives_exactly_no_gradient(self, beta: float) -> None:
        old, target = (x.mul(8).round().div(8) for x in draw(5, 2))  # no mixture needs rounding
        v = old.clone().requires_grad_()
        half = torch.full((3,), 0.5, dtype=torch.float64)
        found = gradient(losses.forward_process_loss(v, old, target, half, beta), v)
        assert torch.equal(found, torch.zeros_like(found))

    @given(seeds, betas, weights)
    def test_minimiser_is_the_documented_one(self, seed: int, beta: float, w: Tensor) -> None:
        old, target, step = draw(seed, 3)
        move = (2 * w - 1).reshape(3, 1, 1, 1, 1) * (target - old) / beta
        v = (old + move).requires_grad_()
        lowest = losses.forward_process_loss(v, old, target, w, beta)
        assert gradient(lowest, v).abs().max() < 1e-10
        # Away from it the loss grows by beta |step|^2: a bowl, not a saddle.
        away = losses.forward_process_loss(v + step, old, target, w, beta)
        torch.testing.assert_close(away - lowest, beta * step.square().flatten(2).mean(2), rtol=1e-6, atol=1e-9)

    def test_branches_are_those_of_the_paper(self) -> None:
        v, old, target = draw(9, 3)
        ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        plus, minus = 0.9 * old + 0.1 * v, 1.1 * old - 0.1 * v
        positive = losses.forward_process_loss(v, old, target, ones, 0.1)
        negative = losses.forward_process_loss(v, old, target, zeros, 0.1)
        torch.testing.assert_close(positive, (plus - target).square().flatten(2).mean(2) / 0.1)
        torch.testing.assert_close(negative, (minus - target).square().flatten(2).mean(2) / 0.1)

    def test_a_step_follows_good_rollouts_and_leaves_bad_ones(self) -> None:
        old, target = draw(3, 2)
        v = old.clone().requires_grad_()
        w = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
        moved = old - 0.1 * gradient(losses.forward_process_loss(v, old, target, w, 0.5), v)
        change = (losses.frame_error(moved, target) - losses.frame_error(old, target)).mean(1)
        assert change[0] < -1e-4
        assert abs(change[1]) < 1e-12
        assert change[2] > 1e-4


@given(seeds, weights)
def test_positive_loss_has_no_negative_branch(seed: int, w: Tensor) -> None:
    v, target = draw(seed, 2)
    v.requires_grad_()
    loss = losses.positive_loss(v, target, w)
    torch.testing.assert_close(loss, w[:, None] * losses.frame_error(v, target))
    downhill = -(gradient(loss, v) * (v - target)).flatten(1).sum(1)
    assert bool((downhill <= 0).all())  # never away from a rollout, however bad


class TestTiltedWeight:
    @given(seeds, st.floats(0.1, 10))
    def test_its_mean_is_one_and_its_ratios_are_those_of_the_exponential(self, seed: int, temperature: float) -> None:
        a = draw_scores(seed)
        w = losses.tilted_weight(a, temperature)
        torch.testing.assert_close(w.mean(1), torch.ones(4, dtype=torch.float64))
        ratios = (w / w[:, :1]).log()
        torch.testing.assert_close(ratios, (a - a[:, :1]) / temperature, rtol=1e-6, atol=1e-6)

    def test_it_goes_from_all_alike_to_the_best_alone(self) -> None:
        a = draw_scores(0)
        torch.testing.assert_close(losses.tilted_weight(a, 1e9), torch.ones_like(a), rtol=1e-6, atol=1e-6)
        best = losses.tilted_weight(a, 1e-3)
        assert bool((best.argmax(1) == a.argmax(1)).all())
        torch.testing.assert_close(best.amax(1), torch.full((4,), 5.0, dtype=torch.float64))


class TestRectifiedLoss:
    @given(seeds, weights)
    def test_its_gradient_at_the_old_policy_is_w_minus_1_times_the_plain_one(self, seed: int, w: Tensor) -> None:
        old, target = draw(seed, 2)
        v = old.clone().requires_grad_()
        found = gradient(losses.rectified_loss(v, old, target, w), v)
        plain = gradient(losses.frame_error(v, target), v)
        torch.testing.assert_close(found, (w - 1).reshape(3, 1, 1, 1, 1) * plain, rtol=1e-9, atol=1e-12)

    @given(seeds)
    def test_where_the_old_velocity_is_the_mean_it_is_minimal_at_the_weighted_mean(self, seed: int) -> None:
        """Three clips behind one noised state, as likely as each other: v_old is the mean of their velocities."""
        (target,) = draw(seed, 1)
        w = losses.tilted_weight(draw_scores(seed, 1, 3), 1.0)[0]
        old = target.mean(0, keepdim=True).expand_as(target)
        best = (w.reshape(3, 1, 1, 1, 1) * target).mean(0, keepdim=True)
        v = best.clone().requires_grad_()
        found = gradient(losses.rectified_loss(v.expand_as(target), old, target, w), v)
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


class TestRewardCovariance:
    @given(seeds)
    def test_it_is_the_covariance_prompt_by_prompt(self, seed: int) -> None:
        x0 = torch.randn(12, *SHAPE[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        a = losses.advantage(draw_scores(seed, 4, 3))
        found = losses.reward_covariance(x0, a)
        assert found.shape == (4, *SHAPE[1:])
        for p in range(4):
            both = torch.cat([a[p, None], x0[3 * p : 3 * p + 3].flatten(1).T])
            torch.testing.assert_close(found[p].flatten(), torch.cov(both, correction=0)[0, 1:])

    @given(seeds)
    def test_what_all_clips_share_does_not_matter(self, seed: int) -> None:
        x0 = torch.randn(6, *SHAPE[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        a = losses.advantage(draw_scores(seed, 2, 3))
        moved = losses.reward_covariance(x0 + 7, a)
        torch.testing.assert_close(moved, losses.reward_covariance(x0, a), rtol=1e-9, atol=1e-9)


class TestAdvantage:
    @given(seeds, scopes)
    def test_mean_is_zero_in_every_group(self, seed: int, scope: str) -> None:
        found = losses.advantage(draw_scores(seed), scope)
        assert found.mean(1).abs().max() < 1e-12

    @given(seeds)
    def test_spread_is_one_where_it_is_taken(self, seed: int) -> None:
        scores = draw_scores(seed) * torch.tensor([[0.1], [1], [5], [20]])
        ones = torch.ones(4, dtype=torch.float64)
        torch.testing.assert_close(losses.advantage(scores, "group").square().mean(1), ones)
        whole = losses.advantage(scores, "batch").square()
        torch.testing.assert_close(whole.mean(), ones[0])
        assert whole.mean(1)[3] > 10 * whole.mean(1)[0]  # a lively prompt weighs more than a flat one

    @given(seeds, scopes, st.floats(-50, 50), st.floats(0.01, 100))
    def test_shift_and_positive_scale_of_the_scores_do_not_matter(
        self, seed: int, scope: str, shift: float, scale: float
    ) -> None:
        scores = draw_scores(seed)
        found = losses.advantage(scores * scale + shift, scope)
        torch.testing.assert_close(found, losses.advantage(scores, scope), rtol=1e-7, atol=1e-9)

    @given(seeds, scopes)
    def test_prompts_are_not_compared_with_each_other(self, seed: int, scope: str) -> None:
        scores = draw_scores(seed)
        easier = scores + torch.tensor([[0.0], [3], [-7], [100]])
        expected = losses.advantage(scores, scope)
        torch.testing.assert_close(losses.advantage(easier, scope), expected, rtol=1e-7, atol=1e-9)

    @given(seeds, scopes)
    def test_single_rollouts_are_compared_with_the_batch(self, seed: int, scope: str) -> None:
        scores = draw_scores(seed, prompts=6, group=1)
        found = losses.advantage(scores, scope)
        expected = (scores - scores.mean()) / scores.std(correction=0)
        torch.testing.assert_close(found, expected)
        assert found.abs().max() > 0.5

    @pytest.mark.parametrize("scope", ["group", "batch"])
    @pytest.mark.parametrize("shape", [(4, 5), (4, 8), (6, 1), (1, 1), (1, 4)])
    @pytest.mark.parametrize("value", [0.0, 3.3, 59.82, -1e4])
    def test_flat_batch_teaches_nothing(self, scope: str, shape: tuple[int, int], value: float) -> None:
        advantages = losses.advantage(torch.full(shape, value), scope)
        assert torch.equal(advantages, torch.zeros(shape))
        assert torch.equal(losses.weight(advantages, 5.0), torch.full(shape, 0.5))

    @pytest.mark.parametrize("scope", ["group", "batch"])
    def test_flat_group_teaches_nothing_beside_lively_ones(self, scope: str) -> None:
        scores = draw_scores(0)
        scores[1] = 2.5
        found = losses.advantage(scores, scope)
        assert torch.equal(found[1], torch.zeros(5, dtype=torch.float64))
        assert found[[0, 2, 3]].abs().min(1).values.max() > 0

    @pytest.mark.parametrize("scope", ["group", "batch"])
    def test_broken_scores_are_not_taken_for_a_flat_batch(self, scope: str) -> None:
        scores = draw_scores(0)
        scores[2, 1] = math.nan
        assert losses.advantage(scores, scope)[2].isnan().all()


class TestWeight:
    def test_limit_five_is_the_papers(self) -> None:
        a = torch.tensor([-7.0, -5.0, -2.5, -1.0, 0.0, 1.0, 2.5, 5.0, 7.0])
        expected = a.clamp(-5, 5) / 10 + 0.5
        torch.testing.assert_close(losses.weight(a, 5.0), expected)
        by_hand = [0, 0, 0.25, 0.4, 0.5, 0.6, 0.75, 1, 1]
        assert expected.tolist() == pytest.approx(by_hand)

    @given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(0.1, 10))
    def test_weights_are_shares_in_the_order_of_the_advantages(self, values: list[float], limit: float) -> None:
        a = torch.tensor(sorted(values), dtype=torch.float64)
        w = losses.weight(a, limit)
        assert w.min() >= 0
        assert w.max() <= 1
        assert bool((w.diff() >= 0).all())
        torch.testing.assert_close(losses.weight(-a, limit), 1 - w)

    def test_saturated_share_counts_both_ends(self) -> None:
        assert losses.saturated_share(torch.tensor([0.0, 0.2, 0.5, 1.0])) == 0.5
        assert losses.saturated_share(torch.tensor([1e-6, 0.5, 1 - 1e-6])) == 0
        advantages = torch.tensor([[-3.0, 0.5], [0.1, 2.0]])
        assert losses.saturated_share(losses.weight(advantages, 1.0)) == 0.5
        assert losses.saturated_share(losses.weight(advantages, 5.0)) == 0


class TestPairedLoss:
    @given(st.floats(-30, 30), st.floats(-30, 30))
    def test_value_is_minus_the_log_likelihood_of_the_ranking(self, real: float, fake: float) -> None:
        a, b = torch.tensor([real], dtype=torch.float64), torch.tensor([fake], dtype=torch.float64)
        loss = losses.paired_loss(a, b)
        expected = math.log1p(math.exp(fake - real))
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        # P(real over fake) + P(fake over real) = 1
        both = (-loss).exp() + (-losses.paired_loss(b, a)).exp()
        assert both.item() == pytest.approx(1)
        assert (losses.paired_loss(b, a) - loss).item() == pytest.approx(real - fake, abs=1e-8)

    def test_limits(self) -> None:
        real, fake = torch.tensor([0.0, 500.0, -500.0]), torch.zeros(3)
        assert losses.paired_loss(real, fake).tolist() == pytest.approx([math.log(2), 0, 500])

    @given(st.floats(-8, 8), st.floats(-8, 8))
    def test_gradient_lifts_the_teacher_and_lowers_the_student(self, real: float, fake: float) -> None:
        a = torch.tensor([real], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([fake], dtype=torch.float64, requires_grad=True)
        up, down = torch.autograd.grad(losses.paired_loss(a, b).sum(), (a, b))
        assert up.item() < 0 < down.item()
        assert up.item() == pytest.approx(-down.item())
        assert down.item() == pytest.approx(1 / (1 + math.exp(real - fake)))

    def test_one_value_per_pair(self) -> None:
        real, fake = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])
        loss = losses.paired_loss(real, fake)
        assert loss.shape == (3,)
        assert loss[0] > loss[1] > loss[2]


class TestGradientPenalty:
    def test_constant_discriminator_is_free(self) -> None:
        score = torch.full((4,), 2.0)
        assert torch.equal(losses.gradient_penalty(score, score, 0.1), torch.zeros(4))

    @given(st.floats(-10, 10), st.floats(-5, 5), st.floats(0.01, 1))
    def test_grows_with_the_square_of_the_slope(self, slope: float, e: float, sigma: float) -> None:
        assume(abs(slope * e) > 1e-3)
        x = torch.tensor([0.3, -1.2], dtype=torch.float64)

        def penalty(steepness: float) -> Tensor:
            return losses.gradient_penalty(steepness * x, steepness * (x + sigma * e), sigma)

        # Exact for a linear score, whatever the size of the finite step.
        torch.testing.assert_close(penalty(slope), torch.full((2,), (slope * e) ** 2, dtype=torch.float64))
        torch.testing.assert_close(penalty(3 * slope), 9 * penalty(slope))

    def test_is_the_squared_gradient_norm_on_average(self) -> None:
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(6, dtype=torch.float64, generator=generator)
        x = torch.randn(20_000, 6, dtype=torch.float64, generator=generator)
        e = torch.randn(20_000, 6, dtype=torch.float64, generator=generator)
        found = losses.gradient_penalty(x @ direction, (x + 0.1 * e) @ direction, 0.1).mean()
        assert found.item() == pytest.approx(direction.square().sum().item(), rel=0.05)


def test_frame_error_is_a_mean_per_frame() -> None:
    a, b = torch.zeros(2, 3, 4, 2, 2), torch.zeros(2, 3, 4, 2, 2)
    b[1, 2] = 3.0
    b[0, 0, 0, 0, 0] = 4.0
    error = losses.frame_error(a, b)
    assert error.shape == (2, 3)
    assert error[1, 2] == 9
    assert error[0, 0] == 1
    assert error.sum() == 10
    assert torch.equal(error, losses.frame_error(b, a))


def test_level_weight_turns_a_velocity_error_into_an_x0_error() -> None:
    x_t, v, other = draw(0, 3)
    t = torch.linspace(0.02, 1, 6, dtype=torch.float64).reshape(3, 2)
    in_x0 = losses.frame_error(flow.x0_from_velocity(x_t, v, t), flow.x0_from_velocity(x_t, other, t))
    weighted = losses.level_weight(t, "x0") * losses.frame_error(v, other)
    torch.testing.assert_close(weighted, in_x0 / (t + 0.1))
    assert torch.equal(losses.level_weight(t, "velocity"), torch.ones_like(t))


@given(seeds)
def test_noised_state_lies_on_the_path_of_the_students_own_clip(seed: int) -> None:
    x0, noise = draw(seed, 2)
    t = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x_t, target = losses.noised_state(x0, noise, t)
    torch.testing.assert_close(target, noise - x0)
    torch.testing.assert_close(flow.x0_from_velocity(x_t, target, t), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(flow.noise_from_velocity(x_t, target, t), noise, rtol=0, atol=1e-12)


def test_unpaired_loss_is_two_entropies() -> None:
    real, fake = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    expected = -torch.sigmoid(real).log() - (1 - torch.sigmoid(fake)).log()
    assert torch.allclose(losses.unpaired_loss(real, fake), expected, atol=1e-5)


@given(st.integers(0, 99))
def test_the_clipped_ratio_has_the_policy_gradient_at_one_and_none_past_the_limit(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(5, generator=generator)
    log_ratio = torch.zeros(5, 3, requires_grad=True)
    losses.clipped_ratio_loss(log_ratio, a, 0.2).sum().backward()
    assert torch.allclose(log_ratio.grad, -a[:, None].expand(5, 3))
    far = torch.sign(a)[:, None].expand(5, 3).clone().requires_grad_(True)  # already gone where A asks to go
    losses.clipped_ratio_loss(far, a, 0.2).sum().backward()
    assert torch.equal(far.grad, torch.zeros(5, 3))


@given(st.integers(0, 99), st.floats(0.01, 1))
def test_a_moved_clip_is_its_step_away_along_the_gradient(seed, step) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, gradient = torch.randn(2, 3, 2, 4, 2, 2, generator=generator)
    gradient[1] = 0
    way = losses.moved(x0, gradient, step) - x0
    assert float(way[0].square().mean().sqrt()) == pytest.approx(step, rel=1e-3)
    assert float((way[0] * gradient[0]).sum()) > 0
    assert torch.equal(way[1:2], torch.zeros_like(way[1:2]))


def test_distribution_matching_stands_still_where_the_scores_agree_and_goes_to_the_real_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, real = torch.randn(2, 3, 2, 4, 2, 2, generator=generator)
    assert torch.equal(losses.distribution_matching_target(x0, real, real), x0)
    way = losses.distribution_matching_target(x0, real, x0) - x0
    assert torch.allclose(
        way / (real - x0), (1 / (x0 - real).abs().mean((1, 2, 3, 4))).view(-1, 1, 1, 1, 1).expand_as(x0)
    )


def test_straight_through_keeps_the_value_and_passes_the_gradient() -> None:
    value, through = torch.randn(4), torch.randn(4, requires_grad=True)
    out = losses.straight_through(value, through)
    assert torch.allclose(out, value)
    out.sum().backward()
    assert torch.equal(through.grad, torch.ones(4))
