import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from understudy.objectives import gauges

STATISTICS = {"brightness", "contrast", "saturation", "sharpness", "fine_grain", "corner", "flicker"}


def videos(count: int = 60, seed: int = 0) -> Tensor:
    """Clips [N, 4, 3, 10, 10] whose trivial statistics vary from clip to clip."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.rand(count, 1, 3, 10, 10, generator=generator)
    change = torch.rand(count, 4, 3, 10, 10, generator=generator)
    mix = 0.4 * torch.rand(count, 1, 1, 1, 1, generator=generator)
    level = 0.2 * torch.rand(count, 1, 1, 1, 1, generator=generator)
    return 0.2 + 0.4 * ((1 - mix) * scene + mix * change) + level


class TestPairAccuracy:
    def test_is_the_share_ranked_right(self) -> None:
        real, fake = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 3.0, 2.0, 1.0])
        assert gauges.pair_accuracy(real, fake) == 0.75
        assert gauges.pair_accuracy(fake, real) == 0.25

    def test_a_tie_is_not_a_win(self) -> None:
        assert gauges.pair_accuracy(torch.ones(4), torch.ones(4)) == 0


class TestCorrelation:
    def test_known_answers(self) -> None:
        scores = torch.tensor([[1.0, 2.0, 3.0], [5.0, 1.0, 3.0]])
        assert gauges.correlation(scores, 4 * scores - 7) == pytest.approx(1, abs=1e-6)
        assert gauges.correlation(scores, -scores) == pytest.approx(-1, abs=1e-6)
        statistic = torch.tensor([[1.0, 0.0, 1.0], [1.0, 2.0, 3.0]])  # 0 in the first group, -1/2 in the second
        assert gauges.correlation(scores, statistic) == pytest.approx(-0.25, abs=1e-6)

    def test_differences_between_prompts_do_not_count(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scores, statistic = torch.randn(2, 400, 8, generator=generator)
        prompt = 50 * torch.randn(400, 1, generator=generator)
        assert abs(gauges.correlation(scores + prompt, statistic + prompt)) < 0.1

    def test_flat_groups_say_nothing(self) -> None:
        lively, flat = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 2.0, 2.0]])
        assert gauges.correlation(flat, lively) == 0
        assert gauges.correlation(lively, flat) == 0
        assert gauges.correlation(torch.cat([lively, flat]), torch.cat([lively, lively])) == pytest.approx(1)

    def test_single_rollouts_have_none(self) -> None:
        assert gauges.correlation(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.0]])) == 0

    @given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-100, 100))
    def test_is_bounded_and_blind_to_units(self, seed: int, scale: float, shift: float) -> None:
        a, b = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = gauges.correlation(a, b)
        assert -1 <= found <= 1
        assert gauges.correlation(b, a) == pytest.approx(found)
        assert gauges.correlation(a, scale * b + shift) == pytest.approx(found, abs=1e-6)


class TestStatistics:
    def test_names_and_shapes(self) -> None:
        found = gauges.statistics(videos(5))
        assert set(found) == STATISTICS
        assert all(value.shape == (5,) for value in found.values())
        assert all(bool(value.isfinite().all()) for value in found.values())

    def test_flat_grey_has_nothing_but_brightness(self) -> None:
        found = gauges.statistics(torch.full((2, 3, 3, 10, 10), 0.25))
        assert found.pop("brightness").tolist() == pytest.approx([0.25] * 2)
        for name, value in found.items():
            assert value.abs().max() < 1e-6, name

    def test_each_one_follows_its_own_change(self) -> None:
        x = videos(4)
        before = gauges.statistics(x)
        pushed = {
            "brightness": x + 0.1,
            "contrast": 1.5 * x,
            "saturation": x.mean(2, keepdim=True) + 1.5 * (x - x.mean(2, keepdim=True)),
            "sharpness": 1.2 * x,
            "fine_grain": x + 0.1 * (torch.arange(10) % 2) * (-1.0) ** torch.arange(10).reshape(10, 1),
            "flicker": x + 0.2 * (torch.arange(4) % 2).reshape(4, 1, 1, 1),
        }
        corner = x.clone()
        corner[..., :2, -2:] += 0.3  # top right
        pushed["corner"] = corner
        for name, video in pushed.items():
            after = gauges.statistics(video)
            assert bool((after[name] > before[name] + 1e-4).all()), name
        # The corner alone, not the others, is what the mark in it changes most.
        other = x.clone()
        other[..., -2:, :2] += 0.3
        assert bool((gauges.statistics(other)["corner"] < before["corner"]).all())

    def test_motion_is_no_statistic(self) -> None:
        x = videos(4)
        forward, backward = gauges.statistics(x), gauges.statistics(x.flip(1))
        for name in STATISTICS:
            torch.testing.assert_close(forward[name], backward[name], rtol=0, atol=1e-5)


class TestShortcutProbe:
    def test_same_source_cannot_be_told_apart(self) -> None:
        found = gauges.shortcut_probe(videos(80, 0), videos(80, 1))
        assert set(found) == STATISTICS
        assert all(0.5 <= value < 0.63 for value in found.values())
        assert gauges.shortcut_warning(found) is None

    def test_same_clips_are_a_coin_toss(self) -> None:
        assert gauges.shortcut_probe(videos(), videos()) == pytest.approx(dict.fromkeys(STATISTICS, 0.5))

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_brightness_shift_is_found_and_named(self, sign: int) -> None:
        found = gauges.shortcut_probe(videos(60, 0) + 0.3 * sign, videos(60, 1))
        assert found["brightness"] == pytest.approx(1, abs=1e-6)
        assert max(value for name, value in found.items() if name != "brightness") < 0.65
        warning = gauges.shortcut_warning(found)
        assert warning is not None
        assert "\n" not in warning
        assert "brightness alone" in warning
        assert "AUC 1.00" in warning
        assert "discriminator.rerender" in warning

    def test_a_watermark_is_found_in_its_corner(self) -> None:
        marked = videos(60, 0)
        marked[..., :2, -2:] += 0.3
        found = gauges.shortcut_probe(marked, videos(60, 1))
        assert max(found, key=lambda name: found[name]) == "corner"
        assert "corner alone" in (gauges.shortcut_warning(found) or "")

    def test_sides_can_be_of_different_numbers(self) -> None:
        found = gauges.shortcut_probe(videos(7), videos(20, 1))
        assert all(0.5 <= value <= 1 for value in found.values())

    def test_warning_has_a_limit(self) -> None:
        assert gauges.shortcut_warning({"contrast": 0.89, "flicker": 0.5}) is None
        assert "contrast" in (gauges.shortcut_warning({"contrast": 0.91, "flicker": 0.5}) or "")
        assert gauges.shortcut_warning({"contrast": 0.7}, limit=0.6) is not None


def steps(accuracy: float, unseen: float | None = None) -> list[dict]:
    early = [{"phase": "warm-up", "pair_accuracy": 0.99}] + [{"phase": "update", "pair_accuracy": 0.8}] * 20
    late = {"phase": "update", "pair_accuracy": accuracy} | ({} if unseen is None else {"unseen_accuracy": unseen})
    return early + [late] * 10


@pytest.mark.parametrize(
    ("rows", "regime"),
    [
        (steps(0.1), "hacked"),
        (steps(0.5), "saturated"),
        (steps(0.8), "informative"),
        (steps(0.99), "too strong"),
        (steps(0.99, 0.5), "memorised"),
        (steps(0.99, 0.8), "informative"),
        ([{"phase": "update", "loss": 1.0}], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_regime_of_a_run_is_named_from_its_records(rows, regime) -> None:
    name, why = gauges.name_regime(rows)
    assert name == regime
    assert why
    assert (name in gauges.ADVICE) == (name != "unknown")


def test_a_discriminator_that_learns_nothing_and_is_caught_up_with_is_hacked() -> None:
    def rows(rate: float) -> list[dict[str, object]]:
        accuracies = [0.9] * 5 + [0.7] * 5 + [0.55] * 5
        return [{"phase": "update", "pair_accuracy": a, "d_rate": rate} for a in accuracies]

    assert gauges.name_regime(rows(0.0))[0] == "hacked"
    assert gauges.name_regime(rows(5e-4))[0] == "saturated"  # it learns, and cannot tell the sides apart


def test_a_discriminator_that_rests_because_it_is_right_is_not_saturated() -> None:
    lazy = [{**row, "unseen_accuracy": 0.55, "d_rested": float(i % 4 > 0)} for i, row in enumerate(steps(0.65))]
    busy = [{**row, "d_rested": 0.0} for row in lazy]
    assert gauges.name_regime(lazy)[0] == "informative"
    assert "rested in" in gauges.name_regime(lazy)[1]
    assert gauges.name_regime(busy)[0] == "saturated"


@pytest.mark.parametrize(
    ("losses", "paired", "regime"),
    [
        ([0.7] * 30, True, "informative"),
        ([0.9] * 3 + [0.6] * 27, True, "informative"),  # a few bad steps are noise
        ([0.7] * 10 + [1.9] * 10 + [0.6] * 10, True, "unstable"),  # even if it found itself again
        ([0.7] * 10 + [math.nan] * 10, True, "unstable"),
        ([1.35] * 30, True, "unstable"),
        ([1.35] * 30, False, "informative"),  # two entropies
        ([1.9] * 9, True, "informative"),  # too short to say
    ],
)
def test_a_warm_up_worse_than_guessing_is_unstable(losses, paired, regime) -> None:
    warm_up = [{"phase": "warm-up", "d_loss": loss} for loss in losses]
    assert gauges.name_regime(warm_up + steps(0.8), paired)[0] == regime


@given(st.floats(0, 1) | st.floats(1e-5, 1e-3), st.floats(0, 1))
def test_the_controlled_rate_stays_in_its_limits_and_turns_the_right_way(rate, accuracy) -> None:
    low, high = 1e-5, 1e-3
    after = gauges.controlled_rate(rate, accuracy, (0.7, 0.9), (low, high))
    wanted = rate * 1.2 if accuracy < 0.7 else rate / 1.2 if accuracy > 0.9 else rate
    assert after == pytest.approx(min(max(wanted, low), high))


def test_the_controller_reaches_a_good_rate_from_far_away() -> None:
    rate = 0.0
    for _ in range(30):
        rate = gauges.controlled_rate(rate, 0.5, (0.7, 0.9), (1e-5, 1e-3))
    assert rate == 1e-3
