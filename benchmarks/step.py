"""Where the time of a training step goes.

    python benchmarks/step.py [RECIPE] [--steps 5] [--threads 1] [--json FILE]

Runs AFD steps after warm-up on a small set of clips drawn on the spot, and prints each part's share of the step.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from understudy.clips import decode_mp4
from understudy.objectives.build import build_objective
from understudy.recipes.files import load_recipe
from understudy.run.clips import build_teacher
from understudy.run.prompts import training_prompts
from understudy.run.start import load_start
from understudy.teachers.base import ClipParams
from understudy.training import afd
from understudy.training.data import teacher_clips


def main() -> None:
    """Time the parts and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_recipe(options.recipe, [("discriminator.warmup", "2"), ("discriminator.pool", "64")])
    bundle, teacher = load_start(config), build_teacher(config)
    prompts = training_prompts(config)[:16]
    pairs = [(prompt, decode_mp4(teacher.generate(prompt, 0, ClipParams()))) for prompt in prompts]
    objective = build_objective(
        config.objective, config.train, config, teacher_clips(pairs, bundle.form, bundle.codec), bundle
    )
    assert isinstance(objective, afd.AFD)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    for _ in range(3):
        objective.step(state)
        state.step += 1
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "rollout": (objective, "_roll"),
        "discriminator": (objective, "_discriminate"),
        "verdict": (objective, "_scores"),
    }
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, _timed(getattr(owner, attribute), name, spent))
    update = afd.student_update
    afd.student_update = _timed(update, "update", spent)  # type: ignore[assignment]
    began = time.perf_counter()
    for _ in range(options.steps):
        objective.step(state)
        state.step += 1
    total = time.perf_counter() - began
    shares = {name: seconds / total for name, seconds in spent.items()}
    shares["other"] = 1 - sum(shares.values())
    print(f"{total / options.steps:.2f} s per step, {options.threads} thread(s)")
    for name, share in shares.items():
        print(f"  {name:14s} {share:6.1%}")
    if options.json:
        result = {"shares": shares, "seconds_per_step": total / options.steps, "threads": options.threads}
        options.json.write_text(json.dumps({**result, "torch": torch.__version__}, indent=2) + "\n", encoding="utf-8")


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    return wrapped


if __name__ == "__main__":
    main()
