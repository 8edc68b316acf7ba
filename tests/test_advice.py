"""The advice follows from the facts, and the facts from the clips."""

import math

import numpy as np
import pytest

from understudy.advice import Facts, advise, look_at
from understudy.students.bundle import load_bundle
from understudy.students.generate import own_and_hasty


@pytest.mark.parametrize(
    ("facts", "method"),
    [
        (Facts(30, 0.6, 500, 0.5, 0.1, 0.01), "kind sft:"),
        (Facts(4, 0.7, 500, 0.5, 0.1, 0.01), "kind sft:"),
        (Facts(1, math.nan, 12, 0.5, 0.1, 0.01), "kind afd:"),
        (Facts(2, 0.9, 12, 0.5, 0.1, 0.01), "kind afd:"),
        (Facts(2, 0.9, 500, 0.5, 0.6, 0.01), "kind afd:"),
        (Facts(2, 0.9, 500, 0.1, 0.1, 0.01), "sft first"),
        (Facts(2, 0.9, 500, 0.6, 0.1, 0.01), "afd keeps the picture"),
        (Facts(2, 0.9, 500, 0.1, 0.1, 0.2), "afd keeps the picture"),
        (Facts(2, 0.9, 500, math.nan, math.nan, 0.01), "afd keeps the picture"),
        (Facts(30, 0.6, 12, 0.5, 0.1, 0.01), "compare both"),
    ],
)
def test_the_method_follows_from_the_facts(facts, method) -> None:
    assert method in advise(facts)[0]


def test_another_look_is_said() -> None:
    assert "plain sft would copy" in advise(Facts(2, 0.9, 500, 0.5, 0.1, 0.2))[1]


def test_a_close_call_is_said() -> None:
    lines = [advise(Facts(4, hasty, 500, 0.5, 0.1, 0.01)) for hasty in (0.72, 0.79, 0.81, 0.9)]
    assert ["it may be either" in line[1] for line in lines] == [False, True, True, False]
    assert lines[1][0] != lines[2][0]


def test_what_prompts_leave_open_is_read_from_the_clips() -> None:
    rng = np.random.default_rng(0)

    def clips(shared: bool) -> dict[str, list[np.ndarray]]:
        found = {}
        for prompt in "abcdefgh":
            base = rng.integers(0, 255, (8, 6, 6, 3), dtype=np.uint8)
            found[prompt] = [base if shared else rng.integers(0, 255, base.shape, dtype=np.uint8) for _ in range(3)]
        return found

    own = np.zeros((2, 8, 6, 6, 3), dtype=np.uint8)
    told, left = (look_at(clips(shared), own, own, 2, 24, 1) for shared in (True, False))
    assert told.opening < 0.05
    assert left.opening > 0.8
    assert left.later > 0.8
    assert told.look > 0.3
    assert math.isnan(look_at({k: v[:1] for k, v in clips(True).items()}, own, own, 2, 8, 1).opening)


@pytest.mark.parametrize(("name", "sharp"), [("builtin:frame", True), ("builtin:base", False)])
def test_a_distilled_student_draws_sharply_in_one_step(name, sharp) -> None:
    bundle = load_bundle(name)
    prompts = ["a small red ball is dropped", "a large blue ball is thrown to the left"]
    own, hasty = own_and_hasty(bundle, prompts, [0, 1])
    facts = look_at({"p": list(own)}, own, hasty, len(bundle.levels), 500, 1)
    assert ("kind sft:" in advise(facts)[0]) != sharp
