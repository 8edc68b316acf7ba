"""Intervals over seeds and prompts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.bench.statistics import Interval, over_seeds, over_seeds_and_prompts, t_quantile

numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def test_the_t_interval_of_a_known_sample() -> None:
    found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.high - found.mean == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert found.excludes_zero


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 2, True), (-2, -0.1, True), (-1, 1, False), (0, 1, False), (-1, 0, False)]
)
def test_zero_is_excluded_from_either_side_and_never_by_touching(low: float, high: float, excluded: bool) -> None:
    assert Interval(0.0, low, high, 3).excludes_zero is excluded


@given(numbers, st.floats(-50, 50))
def test_shifting_the_values_shifts_the_interval(values, shift) -> None:
    a, b = over_seeds(values), over_seeds([value + shift for value in values])
    assert b.low - a.low == pytest.approx(shift, abs=1e-6)
    assert b.high - a.high == pytest.approx(shift, abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = over_seeds([2.0, math.nan])
    assert (found.mean, found.n) == (2.0, 1)
    assert math.isnan(found.low)
    assert not found.excludes_zero


def test_the_quantile_goes_on_smoothly_past_the_table() -> None:
    values = [t_quantile(freedom) for freedom in range(1, 200)]
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert t_quantile(60) == pytest.approx(2.000, abs=2e-3)


def test_redrawing_covers_what_seeds_and_prompts_add() -> None:
    rng = np.random.default_rng(0)
    prompts_only = np.repeat(rng.normal(0, 1, (1, 40)), 5, axis=0)
    both = prompts_only + rng.normal(0, 1, (5, 1))
    narrow, wide = over_seeds_and_prompts(prompts_only), over_seeds_and_prompts(both)
    assert wide.high - wide.low > narrow.high - narrow.low > 0


def test_prompts_that_miss_a_value_are_left_out() -> None:
    found = over_seeds_and_prompts(np.array([[1.0, math.nan, 3.0], [1.0, 5.0, 3.0]]))
    assert found.mean == 2.0
