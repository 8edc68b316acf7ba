"""What a difference between two rows of a suite is: seed with its own seed, prompt with its own prompt, ours less theirs."""

from typing import Any

import pytest

from understudy.bench.results import summarise
from understudy.bench.suite import SuiteConfig

SUITE: dict[str, Any] = {
    "name": "s",
    "out": "o",
    "seeds": [1, 2, 3],
    "rows": {"start": {"recipe": "r"}, "ours": {"recipe": "r"}},
}


def cell(row: str, seed: int, law: float, prompts: dict[str, float]) -> dict[str, Any]:
    return {
        "setting": "all", "row": row, "seed": seed, "error": None, "leak": None, "updates": 5, "teacher_clips": 5,
        "metrics": {"all": {"law_error": {"mean": law}}}, "seconds": {"train": 1.0}, "regime": None,
        "prompts": {prompt: {"law_error": value} for prompt, value in prompts.items()},
    }  # fmt: skip


def gap(cells: list[dict[str, Any]]) -> dict[str, Any]:
    entries = {entry["row"]: entry for entry in summarise(SuiteConfig(**SUITE), cells)}
    found: dict[str, Any] = entries["ours"]["metrics"]["law_error"]["vs_start"]
    return found


def test_differences_are_paired_by_seed_whatever_order_cells_come_in() -> None:
    """Every seed of ours is one better than the same seed of theirs: a difference without any spread."""
    ours = [cell("ours", seed, 10.0 * seed - 1, {}) for seed in (3, 1, 2)]
    theirs = [cell("start", seed, 10.0 * seed, {}) for seed in (1, 2, 3)]
    found = gap(ours + theirs)["seeds"]
    assert (found["mean"], found["n"]) == (-1.0, 3)
    assert found["low"] == found["high"] == pytest.approx(-1.0)


def test_a_seed_that_only_one_row_has_is_left_out() -> None:
    ours = [cell("ours", seed, 10.0 * seed - 1, {}) for seed in (2, 3)]
    theirs = [cell("start", seed, 10.0 * seed, {}) for seed in (1, 2)]
    found = gap(ours + theirs)["seeds"]
    assert (found["mean"], found["n"]) == (-1.0, 1)


def test_differences_are_paired_by_prompt_whatever_order_prompts_come_in() -> None:
    ours = [cell("ours", seed, 5.0, {"b": 19.0, "a": 9.0}) for seed in (1, 2)]
    theirs = [cell("start", seed, 5.0, {"a": 10.0, "b": 20.0}) for seed in (1, 2)]
    found = gap(ours + theirs)["prompts"]
    assert (found["mean"], found["low"], found["high"], found["n"]) == (-1.0, -1.0, -1.0, 4)
