"""Does a discriminator's score still rank rollouts by the law while the student learns? Several watch one run.

    python benchmarks/shadow.py --seed 1 --updates 50 --out benchmarks/results/shadow

One AFD run on the quickstart's split; its own discriminator gives the rewards. Shadows train beside it on the same
rollouts, each with a setting of its own, and reward nothing. Every ten updates, on fresh rollouts of training prompts:
the correlation of the score with minus the law error inside groups of one prompt that share their opening, and the pair
accuracy. All see the same rollouts, so differences between them are less noisy than the figures.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from oracle import minus_law_error
from torch import Tensor

from understudy.codecs.base import to_frames
from understudy.objectives.adversary import Adversary, network_of
from understudy.objectives.build import build_objective
from understudy.objectives.gauges import correlation, pair_accuracy
from understudy.objectives.on_policy import OnPolicy
from understudy.objectives.rollouts import Groups, Rollouts, shown
from understudy.objectives.verdict import Verdict, View
from understudy.recipes.files import load_recipe
from understudy.run.clips import collect, training_clips
from understudy.run.process import keep_freed_memory
from understudy.run.start import load_start
from understudy.training.data import teacher_clips
from understudy.training.state import TrainState
from understudy.video.clips import Clip

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


@dataclass(frozen=True)
class Watcher:
    """A discriminator with all that it learns with, and the groups of its run."""

    adversary: Adversary
    state: TrainState
    groups: Groups

    def frames(self, own: Rollouts) -> Tensor:
        """Return rollouts as its network looks at them [B, T', 3, H', W']."""
        return shown(own.judged, self.adversary.codec, self.adversary.view(self.state))[0]

    def learn(self, own: Rollouts) -> None:
        """Learn from another run's rollouts."""
        frames, config = self.frames(own), self.adversary.config
        for _ in range(config.steps):
            self.adversary.train_on(self.state, frames, own.index, config.lr)


class Watched(Verdict):
    """A verdict beside which shadows learn from the same rollouts."""

    def __init__(self, inner: Verdict, shadows: list[Watcher]) -> None:
        self.inner, self.shadows, self.warmup = inner, shadows, inner.warmup

    def view(self, state: TrainState) -> View | None:
        """Return what the watched one keeps of clips."""
        return self.inner.view(state)

    def learn(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Let all of them learn."""
        values = self.inner.learn(state, own)
        for shadow in self.shadows:
            shadow.learn(own)
        return values

    def scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the watched one's scores [P, K]."""
        return self.inner.scores(state, own)


def main() -> None:
    """Warm all up, run, and write a line for every probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--every", type=int, default=10, help="updates between two probes")
    parser.add_argument("--shadows", type=int, default=len(SHADOWS) - 1, help="how many of the shadows")
    parser.add_argument("--recipe", type=Path, default=Path("quickstart"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    names = list(SHADOWS)[: 1 + options.shadows]
    made = {name: _warmed_up(options.recipe, SHADOWS[name], options.seed) for name in names}
    watching = {name: watcher for name, (_, watcher) in made.items()}
    objective, leader = made["own"]
    watched = Watched(objective.verdict, [watcher for name, watcher in watching.items() if name != "own"])
    objective = replace(objective, verdict=watched)
    rows = [_probe(0, leader, watching)]
    for update in range(1, options.updates + 1):
        objective.step(leader.state)
        leader.state.step += 1
        if update % options.every == 0:
            rows.append(_probe(update, leader, watching))
    options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _warmed_up(recipe: Path, changes: dict[str, Any], seed: int) -> tuple[OnPolicy, Watcher]:
    fields = [("seed", str(seed)), *((key, json.dumps(value)) for key, value in changes.items())]
    config = load_recipe(recipe, fields)
    bundle = load_start(config)
    collect(config)
    data = teacher_clips(training_clips(config, bundle.form), bundle.form, bundle.codec)
    objective = build_objective(config.objective, config.train, config, data, bundle)
    assert isinstance(objective, OnPolicy)
    assert isinstance(objective.verdict, Adversary)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    while state.step < objective.warmup:
        objective.step(state)
        state.step += 1
    return objective, Watcher(objective.verdict, state, objective.groups)


def _probe(update: int, leader: Watcher, watching: dict[str, Watcher]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1000 + update)
    policy, view = leader.state.policy("old"), leader.adversary.view(leader.state)
    own = leader.groups.draw(policy, generator, 0, view, size=(PROMPTS, GROUP))
    with torch.no_grad():
        films = to_frames(leader.adversary.codec.decode(own.latents).clamp(0, 1))
    clips = [Clip(film, leader.adversary.fps) for film in films]
    errors = -torch.tensor(minus_law_error(clips, own.prompts)).reshape(PROMPTS, GROUP)
    found = {}
    for name, watcher in watching.items():
        network, adversary = network_of(watcher.state), watcher.adversary
        with torch.no_grad():
            text = network.encode_text(own.prompts)
            scores = network.logits(watcher.frames(own), text)
            real = adversary.draw_real(adversary.data, own.index, torch.Generator().manual_seed(update))
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
