"""How long the causal Wan student takes for a cached block and for a rollout.

    python benchmarks/wan.py [--size tiny|1.3b] [--preset selfforcing] [--device cpu] [--repeat 5] [--json FILE]

Weights are random: time does not depend on them. ``1.3b`` is the public shape, 480x832 and 21 latent frames, in bfloat16
on a GPU; on a CPU only ``tiny`` is practical. Figures are medians, with the FLOPs that ``students.cost`` estimates.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from understudy import flow
from understudy.students.cost import WanCost
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, preset, wan_1_3b

FRAMES = 21
SIZES = {
    "tiny": WanSpec(
        dim=96,
        ffn_dim=256,
        layers=4,
        heads=4,
        text_dim=64,
        text_len=32,
        freq_dim=64,
        height=16,
        width=24,
        text="words",
    ),
    "1.3b": wan_1_3b(text="words"),
}


def main() -> None:
    """Time the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--preset", default="selfforcing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    chosen, device = preset(options.preset), torch.device(options.device)
    with device:
        student = WanStudent(chosen.apply(SIZES[options.size])).eval().requires_grad_(False)
    if device.type == "cuda":
        student = student.to(torch.bfloat16)
    cost = WanCost(student.spec, FRAMES)
    size, past = cost.blocks[-1]
    flops = {
        "velocity": cost.velocity(size, past),
        "commit": cost.commit(size, past),
        "rollout": cost.rollout(chosen.levels),
    }
    found: dict[str, Any] = {}
    for name, run in _parts(student, chosen.levels).items():
        seconds = _median(run, options.repeat, device)
        found[name] = {"ms": 1e3 * seconds, "tflops_per_second": flops[name] / seconds / 1e12}
        print(f"{name:9s} {1e3 * seconds:10.2f} ms   {flops[name] / seconds / 1e12:8.3f} TFLOP/s (estimated FLOPs)")
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        print(f"peak memory {found['peak_gib']:.1f} GiB")
    if options.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {options.threads} thread(s)"
        about = {"size": options.size, "preset": options.preset, "device": name, "torch": torch.__version__}
        options.json.write_text(json.dumps({**about, **found}, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _parts(student: WanStudent, levels: flow.Levels) -> dict[str, Callable[[], object]]:
    """Return what is timed: the last block's velocity and commit, and a whole rollout."""
    text, cache = student.encode_text(["a red ball falls"]), student.empty_cache()
    weight = student.patch_embedding.weight
    sizes = [size for size, _ in WanCost(student.spec, FRAMES).blocks]
    shape = student.latent_shape
    for size in sizes[:-1]:
        cache = student.commit(torch.randn(1, size, *shape, device=weight.device), text, cache)
    block = torch.randn(1, sizes[-1], *shape, device=weight.device)
    level = torch.full((1, sizes[-1]), flow.levels_of_block(levels, len(sizes) - 1)[-1], device=weight.device)
    return {
        "velocity": lambda: student.velocity(block, level, text, cache),
        "commit": lambda: student.commit(block, text, cache),
        "rollout": lambda: roll_clip(student, text, 1, levels, SeededNoise([0]), FRAMES),
    }


@torch.no_grad()
def _median(run: Callable[[], object], repeat: int, device: torch.device) -> float:
    """Return the median seconds of ``run`` after one call that does not count."""
    seconds = []
    for _ in range(repeat + 1):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
