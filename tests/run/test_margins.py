import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.run.margins import furthest_first, margins

SCORES = st.lists(st.floats(-10, 10), min_size=1, max_size=4)


@given(scores=st.dictionaries(st.text(min_size=1), st.tuples(SCORES, SCORES, st.integers(-9, 9)), max_size=8))
def test_a_prompt_s_own_offset_changes_nothing(scores: dict[str, tuple[list[float], list[float], int]]) -> None:
    found = margins({p: t for p, (t, _, _) in scores.items()}, {p: o for p, (_, o, _) in scores.items()})
    moved = margins(
        {p: [x + c for x in t] for p, (t, _, c) in scores.items()},
        {p: [x + c for x in o] for p, (_, o, c) in scores.items()},
    )
    assert all(math.isclose(found[p], moved[p], abs_tol=1e-9) for p in scores)
    ranked = furthest_first(found)
    assert sorted(ranked) == sorted(scores)
    assert all(found[a] >= found[b] for a, b in pairwise(ranked))
    assert furthest_first(dict(reversed(found.items()))) == ranked


def test_only_prompts_with_clips_of_both_sides_are_ranked() -> None:
    assert margins({"a": [2.0, 4.0], "b": [], "c": [1.0]}, {"a": [1.0], "b": [0.0], "d": [1.0]}) == {"a": 2.0}


def test_what_cannot_be_ranked_is_refused() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ConfigError, match="cannot be ranked"):
            margins({"a": [value]}, {"a": [0.0]})
