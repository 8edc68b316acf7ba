"""Train for a reward of your own: any function of clips and prompts.

    python examples/own_reward.py [--tiny] [--out runs/examples/own-reward]

Two rewards with weights, in the discriminator's place: bright pictures, and little motion. About a minute on a CPU.
In a recipe the same is

    objective: {kind: afd, reward: rewards}
    rewards:
      bright: {kind: python, call: "own_reward:brightness"}
      calm: {kind: python, call: "own_reward:motion", weight: -0.5}

A reward behind an address is ``{kind: http, url: https://...}``; it gets clips as mp4 or PNG and answers scores in JSON.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import understudy as us

TINY: dict[str, Any] = {"steps": 2, "discriminator__warmup": 2, "pool": 8, "train__prompts": 2, "group": 4}


def brightness(clips: Sequence[us.Clip], prompts: Sequence[str]) -> list[float]:
    """Return one number for each clip: the mean of its pixels."""
    return [float(clip.frames.mean()) for clip in clips]


def motion(clips: Sequence[us.Clip], prompts: Sequence[str]) -> list[float]:
    """Return how much changes from frame to frame."""
    return [float(np.abs(np.diff(clip.frames.astype(np.int16), axis=0)).mean()) for clip in clips]


def mean_shade(student: us.Student) -> float:
    """Return the mean pixel of a few clips."""
    prompts = ["a small red ball is dropped", "a small blue ball is dropped"]
    clips = [student.draw(prompt, seed=seed) for prompt in prompts for seed in range(4)]
    return float(np.mean(brightness(clips, prompts)))


def main() -> None:
    """Train a few updates, and compare what is drawn before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two updates on two prompts: only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/own-reward"))
    options = parser.parse_args()
    run = us.Run(
        Path(__file__).parent / "small.yaml",
        reward={"bright": brightness, "calm": (-0.5, motion)},
        name="own reward",
        out=options.out,
        store=options.out / "store",
        on_event=print_rewards,
        **(TINY if options.tiny else {}),
    )
    run.train()
    print(f"mean pixel: {mean_shade(us.load('builtin:frame')):.1f} before, {mean_shade(run.student):.1f} after")


def print_rewards(event: us.Event) -> None:
    """Print the rewards of every fifth update; a logger of your own would stand here."""
    if event.kind == "figures" and "reward_bright" in event.values and event.step % 5 == 0:
        print(f"step {event.step}: bright {event.values['reward_bright']:.1f}, calm {event.values['reward_calm']:.2f}")


if __name__ == "__main__":
    main()
