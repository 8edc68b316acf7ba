"""What one AFD update of the causal Wan student costs: time of the rollouts and of the update, and peak memory.

    python benchmarks/wan_step.py [--size tiny|1.3b] [--device cuda] [--clips 2] [--rank 256] [--recompute 0.2]
                                  [--whole] [--json FILE]

The objective is the one that ``understudy train`` runs, on random weights: LoRA on all linear layers of the blocks, current,
old, averaged and start policy on one bfloat16 base, block by block (``--whole``: in one pass over the clip). A small
discriminator and a stand-in for the autoencoder take their places, and are not in the figures. ``--clips`` rollouts make
one update, one clip in a micro-batch. ``tiny`` is for a CPU, where memory is not measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Rollouts
from understudy.recipes.config import LoraConfig, RunConfig, StudentConfig, TrainConfig
from understudy.run.cost import WanCost, memory, peak
from understudy.students.bundle import Bundle
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, preset, wan_1_3b
from understudy.training.data import TeacherClips
from understudy.training.state import TrainState
from understudy.training.update import student_update
from understudy.video.clips import ClipForm

TINY = WanSpec(
    dim=48,
    ffn_dim=96,
    layers=4,
    heads=2,
    text_dim=8,
    text_len=6,
    freq_dim=16,
    height=8,
    width=12,
    text="words",
)
SIZES = {"tiny": (TINY, 6), "1.3b": (wan_1_3b(text="words"), 21)}


class NoPixels(nn.Module):
    """A stand-in for the autoencoder: two small frames of three channels for each latent frame."""

    frames_per_latent = 2

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames [B, 2 F, 3, 32, 32] in [0, 1] of latents [B, F, C, h, w]."""
        small = nn.functional.adaptive_avg_pool2d(latents[:, :, :3].flatten(0, 1), 32).unflatten(0, latents.shape[:2])
        return torch.sigmoid(small).repeat_interleave(2, dim=1)


def main() -> None:
    """Do two updates and print what the second one took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--preset", default="selfforcing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument(
        "--recompute", type=float, default=0.2, help="share of the layers made anew in the backward pass"
    )
    parser.add_argument("--whole", action="store_true", help="one pass over the clip instead of block by block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    (spec, frames), chosen = SIZES[options.size], preset(options.preset)
    with device:
        student = WanStudent(chosen.apply(spec)).to(torch.bfloat16).eval()
    student.gradient_checkpointing = options.recompute
    cost, parameters = WanCost(student.spec, frames, options.rank), sum(p.numel() for p in student.parameters())
    objective = afd(student, chosen.levels, frames, options)
    needs = memory(cost, parameters, 3, 1, 1, True, True, not options.whole, options.recompute)
    found: dict[str, Any] = {
        "size": options.size,
        "preset": options.preset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {options.threads} thread(s)",
        "torch": torch.__version__,
        "clips": options.clips,
        "rank": options.rank,
        "recompute": options.recompute,
        "by_block": not options.whole,
        "estimated_gib": peak(needs) / 2**30,
        "estimated_update_of_rollout": cost.update(options.recompute, not options.whole) / cost.rollout(chosen.levels),
        **step(objective, student, options.clips, device),
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def afd(student: WanStudent, levels: Any, frames: int, options: argparse.Namespace) -> OnPolicy:
    """Return the objective of the recipe selfforcing_1.3b with a small discriminator on stand-in pixels."""
    settings = AFDConfig(
        group=options.clips,
        beta=0.1,
        prior=1e-4,
        prior_policy="start",
        shared_blocks=0,
        limit=5,
        scope="batch",
        space="velocity",
        by_block=not options.whole,
    )
    judge = DiscriminatorConfig(size=16, width=16, warmup=0, pool=1, rerender=None)
    train = TrainConfig(steps=2, prompts=1, accumulate=options.clips, warmup=0, lr=1e-5, bf16=True)
    latents = torch.randn(1, frames, *student.latent_shape, device=student.device)
    data = TeacherClips(("a red ball falls",), latents, ((0,),))
    lora = LoraConfig(rank=options.rank, alpha=options.rank)
    config = RunConfig(objective=settings, discriminator=judge, train=train, student=StudentConfig(lora=lora))
    codec: Any = NoPixels()
    bundle = Bundle(student, codec, levels, ClipForm(32, 32, 12.0, 2 * frames), "random weights")
    objective = build_objective(settings, train, config, data, bundle)
    assert isinstance(objective, OnPolicy)
    return objective


def step(objective: OnPolicy, start: WanStudent, clips: int, device: torch.device) -> dict[str, float]:
    """Return seconds and peak GiB of the rollouts and of the update, per clip, of a second step."""
    state = objective.initial_state(start)
    policy, view = state.policy("old"), objective.verdict.view(state)
    found: dict[str, float] = {}
    for _ in range(2):
        own, rolled, roll_peak = measured(
            lambda: objective.groups.draw(policy, state.generator, 0, view, size=(1, clips)), device
        )
        values, updated, update_peak = measured(lambda own=own: learn(objective, state, own), device)
        found = {
            "rollout_seconds": rolled / clips,
            "update_seconds": updated / clips,
            "update_of_rollout": updated / rolled,
            "loss": float(values["loss"]),
        }
        if device.type == "cuda":
            found |= {"rollout_peak_gib": roll_peak, "update_peak_gib": update_peak}
    return found


def learn(objective: OnPolicy, state: TrainState, own: Rollouts) -> dict[str, float]:
    """Do all of a step that comes after the rollouts, but for the discriminator's learning."""
    loss, said = objective.update.loss(state, own, objective.verdict.scores(state, own))
    values = said | student_update(state, objective.train, loss, len(own.prompts))
    objective.averages.follow(state, 0)
    return values


def measured(run: Callable[[], Any], device: torch.device) -> tuple[Any, float, float]:
    """Return what ``run`` returns, its seconds and the peak GiB of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    value = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    top = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return value, time.perf_counter() - began, top


if __name__ == "__main__":
    main()
