"""Fewer and worse clips on purpose."""

import numpy as np

from understudy.collection.damage import damaged, limited
from understudy.recipes.config import DamageConfig
from understudy.video.clips import Clip


def pairs(count: int = 12) -> list[tuple[str, Clip]]:
    rng = np.random.default_rng(0)
    return [(f"p{i // 2}", Clip(rng.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8), 24.0)) for i in range(count)]


def test_smaller_limits_nest_and_spread_over_prompts() -> None:
    clips = pairs()
    six, three = limited(clips, 6, 1), limited(clips, 3, 1)
    assert len({prompt for prompt, _ in six}) == 6
    assert {id(clip) for _, clip in three} <= {id(clip) for _, clip in six}
    assert limited(clips, None, 1) == clips
    assert [id(c) for _, c in limited(clips, 3, 2)] != [id(c) for _, c in three]


def test_nothing_is_done_by_default() -> None:
    clips = pairs()
    for (a, x), (b, y) in zip(clips, damaged(clips, DamageConfig(), 0), strict=True):
        assert a == b
        assert np.array_equal(x.frames, y.frames)


def test_wrong_clips_change_prompts_of_a_share_only() -> None:
    clips = pairs(40)
    moved = damaged(clips, DamageConfig(wrong=0.2), 0)
    wrong = {a for (a, _), (b, _) in zip(clips, moved, strict=True) if a != b}
    assert len(wrong) == 4
    assert {p for p, _ in moved} == {p for p, _ in clips}


def test_each_harm_does_what_it_says() -> None:
    clips = pairs(2)
    held = damaged(clips, DamageConfig(fps=8), 0)[0][1].frames
    assert all(np.array_equal(held[i], held[i - i % 3]) for i in range(12))
    small = damaged(clips, DamageConfig(size=8), 0)[0][1]
    assert small.size == (32, 32)
    assert (
        np.abs(np.diff(small.frames.astype(int), axis=1)).mean()
        < np.abs(np.diff(clips[0][1].frames.astype(int), axis=1)).mean()
    )
    marked = damaged(clips, DamageConfig(watermark=1.0), 0)[0][1].frames
    changed = (marked != clips[0][1].frames).any(axis=(0, 3))
    assert 0 < changed.mean() < 0.1
    crushed = damaged(clips, DamageConfig(crf=40), 0)[0][1]
    assert crushed.length == 12
    assert not np.array_equal(crushed.frames, clips[0][1].frames)
