"""Train by an objective of your own: rollouts, verdict and averages are the package's, the update is yours.

    python examples/own_objective.py [--tiny] [--out runs/examples/own-objective]

The update here is rejection sampling: of every prompt's rollouts the better half is imitated. About a minute on a CPU.
In a recipe the same is

    objective: {kind: python, call: "own_objective:build", settings: {share: 0.5}}
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import understudy as us
from understudy import flow
from understudy.objectives.update import draw_states
from understudy.training.update import Loss, Parts

TINY: dict[str, Any] = {"steps": 2, "discriminator__warmup": 2, "pool": 8, "train__prompts": 2, "group": 4}


def build(inputs: us.Inputs, section: Any, share: float = 0.5) -> us.Objective:
    """Return the objective: everything but the update as the section says."""
    return inputs.on_policy(section, inputs.verdict(section), BestOf(share, inputs.start.levels))


@dataclass(frozen=True)
class BestOf:
    """Flow matching on the best ``share`` of every group's rollouts [B, F, C, h, w], at the sampler's ``levels``."""

    share: float
    levels: flow.Levels
    scored: bool = True  # it asks for scores

    def loss(self, state: us.TrainState, own: us.Rollouts, scores: Tensor) -> tuple[Loss, dict[str, float]]:
        """Return the loss of a slice of the batch, and figures to record; ``scores`` are [P, K]."""
        kept = max(1, round(self.share * own.group))
        floor = scores.sort(dim=1, descending=True).values[:, kept - 1 : kept]
        chosen = (scores >= floor).float().flatten().to(own.latents)
        t, noise = draw_states(state, own, self.levels, "sampler")
        x_t = flow.interpolate(own.latents, noise, t)
        student, opening = state.policy("student"), own.opening(state.policy("student"))

        def of(rows: slice) -> Parts:
            text = student.encode_text(own.prompts[rows])
            velocity = student.teacher_forced(own.latents[rows], x_t[rows], t[rows], text)
            gap = (velocity - (noise - own.latents)[rows]).square()[:, opening:].mean((1, 2, 3, 4))
            loss = (chosen[rows] * gap).mean()
            yield loss, {"loss": loss.item()}

        return of, {"chosen": float(chosen.mean())}


def main() -> None:
    """Train a few updates, and say what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two updates on two prompts: only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/own-objective"))
    options = parser.parse_args()
    run = us.Run(
        Path(__file__).parent / "small.yaml",
        objective=build,
        name="own objective",
        out=options.out,
        store=options.out / "store",
        **(TINY if options.tiny else {}),
    )
    run.train()
    before, after = run.summary["start"]["law_error"]["mean"], run.summary["end"]["law_error"]["mean"]
    print(f"law error: {before:.2f} px before, {after:.2f} px after; look at {run.folder / 'report.html'}")


if __name__ == "__main__":
    main()
