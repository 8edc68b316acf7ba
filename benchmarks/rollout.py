"""Cached rollout against recomputing the past, and the cost per block of a video ten times longer with a window.

    python benchmarks/rollout.py [BUNDLE] [--threads 1] [--batch 8] [--json FILE]

Prints ratios of paired runs: timings of one run mean little on a shared machine. Memory is the size of the cache, which
is all that could grow.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from understudy import flow
from understudy.students.bundle import load_bundle
from understudy.students.rollout import SeededNoise, rollout
from understudy.students.transformer.model import Cache, CausalVideoTransformer, Text


@torch.no_grad()
def recomputed(
    student: CausalVideoTransformer, text: Text, levels: tuple[float, ...], noise: SeededNoise, frames: int
) -> Tensor:
    """Roll out without a cache: every network call runs the whole past again. Returns [B, F, C, h, w]."""
    batch, size = len(text.tokens), student.block_frames
    past = torch.empty(batch, 0, *student.latent_shape)
    for index in range(frames // size):
        shape = (batch, size, *student.latent_shape)
        eps = noise(index, 0, shape)
        x0 = torch.zeros_like(eps)
        for step, level in enumerate(levels):
            t = torch.full(shape[:2], level)
            x_t = flow.interpolate(x0, eps if step == 0 else noise(index, step, shape), t)
            everything = torch.cat([past, x_t], 1)
            all_levels = torch.full(everything.shape[:2], level)
            v = student.teacher_forced(everything, everything, all_levels, text)[:, -size:]
            x0 = flow.x0_from_velocity(x_t, v, t)
        past = torch.cat([past, x0], 1)
    return past


@torch.no_grad()
def seconds_per_block(
    student: CausalVideoTransformer, text: Text, levels: tuple[float, ...], blocks: int
) -> list[float]:
    """Return the seconds each of ``blocks`` blocks took, the commit of the one before included."""
    seconds, began = [], time.perf_counter()
    stream = rollout(student, text, len(text.tokens), levels, SeededNoise(range(len(text.tokens))))
    for _ in range(blocks):
        next(stream)
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
    return seconds


@torch.no_grad()
def cache_bytes(student: CausalVideoTransformer, text: Text, blocks: int) -> list[int]:
    """Return the size of the cache in bytes after each of ``blocks`` commits."""
    cache: Cache = student.empty_cache()
    sizes = []
    for _ in range(blocks):
        cache = student.commit(torch.zeros(len(text.tokens), student.block_frames, *student.latent_shape), text, cache)
        sizes.append(sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values)))
    return sizes


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="builtin:frame")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = load_bundle(options.bundle)
    student, spec = bundle.student, bundle.student.spec
    with torch.no_grad():
        text = student.encode_text(["a small red ball is dropped"] * options.batch)
    ratios = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        recomputed(student, text, bundle.levels, SeededNoise(range(options.batch)), spec.max_frames)
        middle = time.perf_counter()
        list(
            rollout(
                student,
                text,
                options.batch,
                bundle.levels,
                SeededNoise(range(options.batch)),
                spec.max_frames,
            )
        )
        ratios.append((middle - began) / (time.perf_counter() - middle))
    windowed = bundle.with_window(spec.max_frames, 0).student
    blocks = 10 * spec.max_frames // spec.block_frames
    full = spec.max_frames // spec.block_frames  # from here on the window is full and every block costs the same
    runs = [seconds_per_block(windowed, text, bundle.levels, blocks) for _ in range(options.repeats)]
    best = [min(run[i] for run in runs) for i in range(blocks)]
    early, late = (
        statistics.median(best[full : full + blocks // 4]),
        statistics.median(best[-(blocks // 4) :]),
    )
    sizes = cache_bytes(windowed, text, blocks)
    result = {
        "recomputed_over_cached": {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
        },
        "late_over_early_block": late / early,
        "milliseconds_per_block": 1000 * late,
        "cache_bytes_full": sizes[full],
        "cache_bytes_last": sizes[-1],
        "blocks": blocks,
        "batch": options.batch,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    print(
        f"recomputing the past costs {statistics.median(ratios):.2f}x the cached rollout "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"{blocks} blocks with a window: late blocks cost {late / early:.3f}x the early ones (flat: 0.95 to 1.05)")
    print(f"cache: {sizes[full]} bytes when the window is full, {sizes[-1]} at the end")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
