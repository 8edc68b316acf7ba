import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.discriminators.active import choose_prompts, rank_prompts
from understudy.errors import ConfigError

SCORES = st.dictionaries(st.text(min_size=1), st.lists(st.floats(-10, 10), min_size=1, max_size=4), max_size=8)


@given(scores=SCORES, budget=st.integers(0, 10), shift=st.integers(-3, 3))
def test_furthest_come_first_whatever_the_offset(scores: dict[str, list[float]], budget: int, shift: int) -> None:
    ranked = rank_prompts(scores)
    assert sorted(ranked) == sorted(scores)
    means = [math.fsum(scores[prompt]) / len(scores[prompt]) for prompt in ranked]
    assert all(a <= b + 1e-12 for a, b in pairwise(means))
    assert choose_prompts(scores, budget) == ranked[:budget]
    assert rank_prompts(dict(reversed(scores.items()))) == ranked


def test_what_cannot_be_ranked_is_refused() -> None:
    for scores in ({"a": []}, {"a": [math.nan]}):
        with pytest.raises(ConfigError, match="cannot be ranked"):
            rank_prompts(scores)
    with pytest.raises(ConfigError, match="cannot be -1"):
        choose_prompts({"a": [0.0]}, -1)
