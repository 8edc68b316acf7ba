"""Fewer and worse clips on purpose: what a method makes of a teacher that is not clean."""

from collections.abc import Sequence

import numpy as np

from understudy.recipes.config import DamageConfig
from understudy.video.clips import Clip, decode_mp4, encode_mp4, resample

Pairs = list[tuple[str, Clip]]


def limited(pairs: Sequence[tuple[str, Clip]], limit: int | None, seed: int) -> Pairs:
    """Return ``limit`` of the (prompt, clip) pairs, drawn by ``seed`` and spread over the prompts.

    A smaller limit with the same seed takes a part of what a larger one takes.
    """
    if limit is None or limit >= len(pairs):
        return list(pairs)
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    turns: dict[str, int] = {}
    ranked = []
    for place, row in enumerate(order.tolist()):
        prompt = pairs[row][0]
        turns[prompt] = turns.get(prompt, 0) + 1
        ranked.append((turns[prompt], place, row))  # every prompt's first clip before any second one
    kept = sorted(row for _, _, row in sorted(ranked)[:limit])
    return [pairs[row] for row in kept]


def damaged(pairs: Sequence[tuple[str, Clip]], damage: DamageConfig, seed: int) -> Pairs:
    """Return the (prompt, clip) pairs with the harm that ``damage`` describes done to them; none leaves them as they are."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    order = np.random.default_rng([seed, 2]).permutation(len(prompts)).tolist()
    count = min(len(prompts), round(damage.wrong * len(prompts)))
    chosen = order[: max(2, count)] if count and len(prompts) > 1 else []
    moved = {prompts[a]: prompts[b] for a, b in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True)}
    return [(moved.get(prompt, prompt), _harmed(clip, damage)) for prompt, clip in pairs]


def _harmed(clip: Clip, damage: DamageConfig) -> Clip:
    frames, size = clip.frames, clip.size
    if damage.fps is not None and damage.fps < clip.fps:
        held = np.floor(np.arange(clip.length) * damage.fps / clip.fps) * clip.fps / damage.fps
        frames = frames[np.minimum(np.floor(held + 0.5).astype(int), clip.length - 1)]
    if damage.size is not None and damage.size < min(size):
        small = resample(Clip(frames, clip.fps), clip.fps, clip.length, (damage.size, damage.size), "stretch")
        frames = resample(small, clip.fps, clip.length, size, "stretch").frames
    if damage.watermark:
        side = max(2, min(size) // 5)
        mark = np.zeros((*size, 1))
        mark[-side - 2 : -2, 2 : side + 2] = damage.watermark
        mark[-side:-4, 4:side] = 0  # a frame, not a block
        frames = (frames * (1 - mark) + 250 * mark).round().astype(np.uint8)
    if damage.crf is not None:
        frames = decode_mp4(encode_mp4(Clip(np.ascontiguousarray(frames), clip.fps), damage.crf)).frames
    return Clip(np.ascontiguousarray(frames), clip.fps)
