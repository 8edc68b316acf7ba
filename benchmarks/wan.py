"""How long the causal Wan student takes for a block and for a rollout, and how near that is to a matrix product's speed.

    python benchmarks/wan.py [--size recordings|1.3b] [--preset selfforcing] [--device cuda] [--compile] [--json FILE]

Weights are random: time does not depend on them. ``1.3b`` is the public shape, 480x832 in 21 latent frames, in bfloat16 on
a GPU; ``recordings`` is the tiny shape of tests/data, 9 latent frames, for a CPU. A block is its denoising steps and the
pass that adds it to the cache. Figures are medians, of processor time with one thread on a CPU. FLOPs are counted by
``run.cost``, which the tests hold against torch's counter. The ceiling is a product of two square matrices measured in
the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from understudy import flow
from understudy.run.cost import WanCost
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.wan.model import WanStudent, compile_layers
from understudy.students.wan.spec import WanSpec, preset, wan_1_3b

RECORDINGS = WanSpec(
    dim=64,
    ffn_dim=128,
    layers=2,
    heads=2,
    text_dim=48,
    text_len=16,
    freq_dim=32,
    height=8,
    width=12,
    text="words",
)
SIZES = {"recordings": (RECORDINGS, 9), "1.3b": (wan_1_3b(text="words"), 21)}
ATTENTION = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def main() -> None:
    """Time the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="recordings")
    parser.add_argument("--preset", default="selfforcing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", choices=ATTENTION, default="default")
    parser.add_argument("--compile", action="store_true", help="let torch compile what lies between attentions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    chosen, device = preset(options.preset), torch.device(options.device)
    spec, frames = SIZES[options.size]
    with device:
        student = WanStudent(chosen.apply(spec)).eval().requires_grad_(False)
    if device.type == "cuda":
        student = student.to(torch.bfloat16)
    if options.compile:
        compile_layers(student)
    ceiling = matrix_speed(device)
    found: dict[str, Any] = {
        "size": options.size,
        "preset": options.preset,
        "device": name_of(device, options.threads),
        "torch": torch.__version__,
        "attention": options.attention,
        "compiled": options.compile,
        "matrix_tflops_per_second": ceiling / 1e12,
    }
    print(f"{found['device']}: a matrix product runs at {ceiling / 1e12:.3g} TFLOP/s")
    backend = ATTENTION[options.attention]
    with nullcontext() if backend is None else sdpa_kernel(backend):
        for name, (run, flops) in parts(student, chosen.levels, frames).items():
            seconds = median(run, options.repeat, device)
            share = flops / seconds / ceiling
            found[name] = {"ms": 1e3 * seconds, "tflop": flops / 1e12, "share_of_ceiling": share}
            print(f"{name:15s} {1e3 * seconds:10.2f} ms {flops / 1e12:10.4g} TFLOP  {share:6.1%} of the ceiling")
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        print(f"peak memory {found['peak_gib']:.1f} GiB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def parts(student: WanStudent, levels: flow.Levels, frames: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed with its FLOPs: the first, a middle and the last block, a step, a commit, a rollout."""
    cost, text = WanCost(student.spec, frames), student.encode_text(["a red ball falls"])
    device, shape = student.device, student.latent_shape
    caches = [student.empty_cache()]
    for size, _ in cost.blocks[:-1]:
        clean = torch.randn(1, size, *shape, device=device)
        caches.append(student.commit(clean, text, caches[-1]))
    caches = [cache if i in (0, len(caches) // 2, len(caches) - 1) else None for i, cache in enumerate(caches)]
    found: dict[str, tuple[Callable[[], object], int]] = {}

    def block(index: int) -> tuple[Callable[[], object], int]:
        (size, past), own = cost.blocks[index], flow.levels_of_block(levels, index)
        noisy = torch.randn(1, size, *shape, device=device)
        steps = [torch.tensor(level, device=device).expand(1, size) for level in own]

        @torch.no_grad()
        def run() -> None:
            x = noisy
            for t in steps:
                x = flow.x0_from_velocity(noisy, student.velocity(noisy, t, text, caches[index]), t)
            student.commit(x, text, caches[index])

        return run, len(own) * cost.velocity(size, past) + cost.commit(size, past)

    last = len(cost.blocks) - 1
    for name, index in (("first block", 0), ("middle block", len(caches) // 2), ("last block", last)):
        found[name] = block(index)
    (size, past), noisy = cost.blocks[last], torch.randn(1, cost.blocks[last][0], *shape, device=device)
    t = torch.tensor(flow.levels_of_block(levels, last)[-1], device=device).expand(1, size)
    found["velocity"] = lambda: student.velocity(noisy, t, text, caches[last]), cost.velocity(size, past)
    found["commit"] = lambda: student.commit(noisy, text, caches[last]), cost.commit(size, past)

    def roll() -> torch.Tensor:
        return roll_clip(student, student.encode_text(["a red ball falls"]), 1, levels, SeededNoise([0]), frames)

    found["rollout"] = roll, cost.rollout(levels)
    return found


def matrix_speed(device: torch.device) -> float:
    """Return the FLOPs per second of a square matrix product: bfloat16 on a GPU, single precision on a CPU."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (768, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / median(lambda: a @ b, 20, device)


@torch.no_grad()
def median(run: Callable[[], object], repeat: int, device: torch.device) -> float:
    """Return the median seconds of ``run`` after one call that does not count."""
    # The processor time of one thread says what the work takes also on a core that others use as well.
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(repeat + 1):
        wait(device)
        began = clock()
        run()
        wait(device)
        seconds.append(clock() - began)
    return statistics.median(seconds[1:])


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device, threads: int) -> str:
    """Return what the figures were measured on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {threads} thread(s)"


if __name__ == "__main__":
    main()
