"""Does a discriminator's score still rank rollouts by the law while the student learns? Several watch one run.

    python benchmarks/shadow.py --seed 1 --updates 50 --out benchmarks/results/shadow

One AFD run on the quickstart's split; its own discriminator gives the rewards. Shadows train beside it on the same
rollouts, each with a setting of its own, and reward nothing. Every ten updates, on fresh rollouts of training prompts:
the correlation of the score with minus the law error inside groups of one prompt that share their opening, and the pair
accuracy. All see the same rollouts, so differences between them are less noisy than the figures.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

import torch
from oracle import minus_law_error
from torch import Tensor
from understudy.training.afd import AFD, Rollouts, network_of

from understudy.objectives.build import build_objective
from understudy.objectives.gauges import correlation, pair_accuracy
from understudy.recipes.files import load_recipe
from understudy.run.clips import collect, training_clips
from understudy.run.process import keep_freed_memory
from understudy.run.start import load_start
from understudy.training.data import teacher_clips
from understudy.training.state import TrainState

SHADOWS: Final[dict[str, dict[str, Any]]] = {
    "own": {},
    "frozen after warm-up": {"discriminator.lr": 0},
    "one step per update": {"discriminator.steps": 1},
    "32 drawings": {"discriminator.redraws": 32},
    "16 pixels": {"discriminator.size": 16},
    "penalty 10": {"discriminator.penalty": 10},
    "noise 0.8": {"discriminator.noise": 0.8},
}
PROMPTS, GROUP = 24, 8


def main() -> None:
    """Warm all up, run, and write a line for every probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    watching = {name: _warmed_up(changes, options.seed) for name, changes in SHADOWS.items()}
    leader, state = watching["own"]
    shadows = [pair for name, pair in watching.items() if name != "own"]
    rows = [_probe(0, leader, state, watching)]
    roll, seen = leader._roll, []

    def watched(*args: Any, **kwargs: Any) -> Rollouts:
        seen.append(roll(*args, **kwargs))
        return seen[-1]

    leader._roll = watched  # type: ignore[method-assign]
    for update in range(1, options.updates + 1):
        leader.step(state)
        state.step += 1
        own = seen.pop()
        for objective, shadow in shadows:
            network = network_of(shadow)
            frames = objective._shown(own.judged, network)[0]
            for _ in range(objective.judge.steps):
                objective._discriminate(shadow, network, frames, own.prompts, own.index, objective.judge.lr)
        if update % 10 == 0:
            rows.append(_probe(update, leader, state, watching))
            seen.clear()
    options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _warmed_up(changes: dict[str, Any], seed: int) -> tuple[AFD, TrainState]:
    fields = [("seed", str(seed)), *((key, json.dumps(value)) for key, value in changes.items())]
    config = load_recipe("quickstart", fields)
    bundle = load_start(config)
    collect(config)
    data = teacher_clips(training_clips(config, bundle.form), bundle.form, bundle.codec)
    objective = build_objective(config.objective, config.train, config, data, bundle)
    assert isinstance(objective, AFD)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    while state.step < objective.warmup:
        objective.step(state)
        state.step += 1
    return objective, state


def _probe(
    update: int, leader: AFD, state: TrainState, watching: dict[str, tuple[AFD, TrainState]]
) -> dict[str, float | dict[str, dict[str, float]]]:
    generator = torch.Generator().manual_seed(1000 + update)
    own = leader._roll(state.policy("old"), network_of(state), generator, PROMPTS, GROUP, 1)
    errors = -minus_law_error(leader, state, own).reshape(PROMPTS, GROUP)
    found = {}
    for name, (objective, shadow) in watching.items():
        network = network_of(shadow)
        with torch.no_grad():
            frames, text = objective._shown(own.judged, network)[0], network.encode_text(own.prompts)
            scores: Tensor = network.logits(frames, text)
            real = objective._shown_by_teacher(objective.data, own.index, torch.Generator().manual_seed(update))
            accuracy = pair_accuracy(network.logits(real, text), scores)
        found[name] = {"correlation": correlation(scores.reshape(PROMPTS, GROUP), -errors), "pairs": accuracy}
    line = "  ".join(f"{name} {value['correlation']:.2f} ({value['pairs']:.2f})" for name, value in found.items())
    print(
        f"update {update}: law error {errors.mean():.2f} (in groups +-{errors.std(1).mean():.2f})  {line}", flush=True
    )
    return {
        "update": update,
        "law_error": float(errors.mean()),
        "spread": float(errors.std(1).mean()),
        "watching": found,
    }


if __name__ == "__main__":
    main()
