"""Means and 95 % intervals over seeds and prompts: pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_DRAWS: Final = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval from ``n`` values; low and high are NaN where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; never without an interval."""
        return self.low > 0 or self.high < 0


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, exact to three digits."""
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.37 / freedom + 2.8 / freedom**2


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean of one value per seed with its t interval."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(finite))
    if len(finite) < 2:
        return Interval(mean, math.nan, math.nan, len(finite))
    reach = t_quantile(len(finite) - 1) * float(np.std(finite, ddof=1)) / math.sqrt(len(finite))
    return Interval(mean, mean - reach, mean + reach, len(finite))


def over_seeds_and_prompts(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """Return the mean of values [seeds, prompts] with a bootstrap interval that redraws both seeds and prompts."""
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    rng, (seeds, prompts) = np.random.default_rng(seed), values.shape
    rows = rng.integers(seeds, size=(_DRAWS, seeds))
    columns = rng.integers(prompts, size=(_DRAWS, prompts))
    means = values[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), seeds * prompts)
