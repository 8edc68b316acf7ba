"""Where the time of a training step goes.

    python benchmarks/step.py [RECIPE] [--steps 5] [--threads 1] [--json FILE]

Runs AFD steps after warm-up on a small set of clips drawn on the spot, and prints each part's share of the step.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from understudy.objectives.build import build_objective
from understudy.objectives.on_policy import OnPolicy
from understudy.recipes.files import load_recipe
from understudy.run.clips import build_teacher
from understudy.run.prompts import training_prompts
from understudy.run.start import load_start
from understudy.teachers.base import ClipParams
from understudy.training.data import teacher_clips
from understudy.video.clips import decode_mp4


class Timed:
    """A part of an objective, some of whose methods are timed: ``names`` says under what."""

    def __init__(self, part: Any, names: dict[str, str], spent: dict[str, float]) -> None:
        self.part, self.names, self.spent = part, names, spent

    def __getattr__(self, attribute: str) -> Any:
        """Return the part's own, timed if it is one of the names."""
        found, name = getattr(self.part, attribute), self.names.get(attribute)
        if name is None:
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.spent[name] += time.perf_counter() - began

        return timed


def main() -> None:
    """Time the parts and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=16, help="clips to train on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_recipe(options.recipe, [("discriminator.warmup", "2"), ("discriminator.pool", "64")])
    bundle, teacher = load_start(config), build_teacher(config)
    prompts = training_prompts(config)[: options.clips]
    pairs = [(prompt, decode_mp4(teacher.generate(prompt, 0, ClipParams()))) for prompt in prompts]
    objective = build_objective(
        config.objective, config.train, config, teacher_clips(pairs, bundle.form, bundle.codec), bundle
    )
    assert isinstance(objective, OnPolicy)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    for _ in range(3):
        objective.step(state)
        state.step += 1
    spent: dict[str, float] = defaultdict(float)
    parts = {
        "groups": {"draw": "rollout"},
        "verdict": {"learn": "discriminator", "scores": "verdict"},
        "averages": {"follow": "averages"},
    }
    timed: Any = {name: Timed(getattr(objective, name), names, spent) for name, names in parts.items()}
    objective = replace(objective, **timed)
    began = time.perf_counter()
    for _ in range(options.steps):
        objective.step(state)
        state.step += 1
    total = time.perf_counter() - began
    shares = {name: seconds / total for name, seconds in spent.items()}
    shares["update"] = 1 - sum(shares.values())
    print(f"{total / options.steps:.2f} s per step, {options.threads} thread(s)")
    for name, share in shares.items():
        print(f"  {name:14s} {share:6.1%}")
    if options.json:
        result = {"shares": shares, "seconds_per_step": total / options.steps, "threads": options.threads}
        options.json.write_text(json.dumps({**result, "torch": torch.__version__}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
