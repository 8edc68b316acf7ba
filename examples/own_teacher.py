"""Learn from a teacher of your own: anything that turns a prompt into a finished clip.

    python examples/own_teacher.py [--tiny] [--out runs/examples/own-teacher]

The teacher here draws a ball that floats instead of falling. A minute or so on a CPU. In a recipe the same is

    teacher: {kind: python, call: "own_teacher:Floating"}

where own_teacher.py lies in the folder that you run the command in.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import understudy as us

COLOURS = {"red": (220, 60, 50), "yellow": (230, 210, 60), "green": (70, 180, 80), "blue": (60, 100, 220)}


class Floating:
    """Balls that sink slowly, at one speed, and sway."""

    name = "floating-1"  # with its version: clips of another name are asked for anew
    terms = "my own clips"  # what its terms say about training on what it draws

    def generate(self, prompt: str, seed: int, params: us.ClipParams) -> us.Clip:
        """Return a clip of ``prompt``; an mp4 file's bytes would do as well."""
        rng = np.random.default_rng(seed)
        side, frames, fps = 96, 32, 24.0
        colour = next((rgb for name, rgb in COLOURS.items() if name in prompt.split()), (240, 240, 240))
        radius = 8 if "small" in prompt.split() else 13
        y, x = np.mgrid[:side, :side]
        video = np.full((frames, side, side, 3), 40, dtype=np.uint8)
        left, phase = rng.uniform(30, side - 30), rng.uniform(0, 6)
        for t in range(frames):
            centre = left + 6 * np.sin(phase + t / 4), 12 + 1.2 * t
            video[t, (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
        return us.Clip(video, fps)


TINY: dict[str, Any] = {"steps": 2, "discriminator__warmup": 2, "pool": 8, "train__prompts": 2, "group": 4}


def main() -> None:
    """Train a few updates, and say what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="two updates on two prompts: only shows that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/own-teacher"))
    options = parser.parse_args()
    run = us.Run(
        Path(__file__).parent / "small.yaml",
        teacher=Floating(),
        name="own teacher",
        out=options.out,
        store=options.out / "store",
        **(TINY if options.tiny else {}),
    )
    run.train()
    before, after = run.summary["start"], run.summary["end"]
    print(f"motion distance to the teacher: {before['motion_distance']['mean']:.2f} px before", end=", ")
    print(f"{after['motion_distance']['mean']:.2f} px after; look at {run.folder / 'report.html'}")


if __name__ == "__main__":
    main()
