"""What would a perfect verdict reach? AFD of a suite whose reward is minus the true law error.

    python benchmarks/oracle.py --seed 0 --set objective.shared_share=0.5 --out benchmarks/results/oracle.jsonl

No black box allows this: it needs the world's law. It bounds what any discriminator can bring in the same number of updates
and tells whether the verdict or the update holds a run back. The reward stands in the recipe, in the discriminator's place.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from understudy.bench import cell as bench
from understudy.bench.suite import cells, load_suite
from understudy.evaluation.law import law_error
from understudy.evaluation.parse import track
from understudy.run.clips import collect
from understudy.run.process import keep_freed_memory
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.physics import Law
from understudy.video.clips import Clip

SHOWN: Final = ("law_error", "motion_distance", "look_error", "sharpness", "permanence")
REWARD: Final = {
    "objective.reward": "rewards",
    "rewards.law.kind": "python",
    "rewards.law.call": "oracle:minus_law_error",
}


def minus_law_error(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
    """Return minus the true law error in pixels of every clip."""
    scenes = [parse(prompt) for prompt in prompts]
    return [
        -law_error(track(clip.frames, scene), scene, Law(), clip.fps).error
        for clip, scene in zip(clips, scenes, strict=True)
    ]


def main() -> None:
    """Run one cell and append a line of its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=Path("main"))
    parser.add_argument("--setting", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = {key: json.loads(value) for key, value in (change.split("=", 1) for change in options.set)}
    suite = load_suite(options.suite)
    row = suite.rows["afd"].model_copy(update={"set": {**REWARD, **changes}})
    out = options.runs / suite.name / "-".join([*(f"{key}={value}" for key, value in changes.items()), "oracle"])
    narrowed = suite.model_copy(update={"rows": {"afd": row}, "seeds": (options.seed,), "out": out})
    cell = next(cell for cell in cells(narrowed, options.suite)[0] if cell.setting == options.setting)
    keep_freed_memory()
    collect(cell.config)
    cell.folder.mkdir(parents=True, exist_ok=True)
    figures = bench.do(cell)["metrics"]["all"]
    place = {"suite": suite.name, "setting": options.setting, "set": changes}
    line = {**place, "seed": options.seed, **{name: figures[name] for name in SHOWN}}
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
