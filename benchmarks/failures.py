"""Clips of runs that failed on purpose, and what their gauges said, from `understudy bench failures`.

    python benchmarks/failures.py runs/bench/failures --pictures docs/failures --out benchmarks/results/failures

Writes a moving picture of four held-out prompts for every row, and a table of the figures that give each pattern away.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from understudy.recipes.files import load_recipe
from understudy.run.prompts import held_out_prompts
from understudy.students.bundle import load_bundle
from understudy.students.generate import draw_clips

METRICS = ("law_error", "motion_distance", "magnitude", "spread", "sharpness", "look_error", "permanence")
GAUGES = ("pair_accuracy", "margin", "score_spread", "drift")
SHOWN, SCALE = 4, 2


def main() -> None:
    """Draw and tabulate every row that has a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.pictures.mkdir(parents=True, exist_ok=True)
    prompts = held_out_prompts(load_recipe("bench/base", ()))
    chosen = [prompts[i] for i in np.linspace(0, len(prompts) - 1, SHOWN).round().astype(int)]
    rows = []
    for path in sorted(options.suite.glob("all/*/seed-0/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name, trained = result["row"], path.parent / "student"
        bundle = load_bundle(trained if trained.is_dir() else "builtin:frame")
        clips = draw_clips(bundle, chosen, list(range(SHOWN)))
        film = np.concatenate([clip.frames for clip in clips], axis=2)
        film = film.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        frames = [Image.fromarray(frame) for frame in film]
        frames[0].save(
            options.pictures / f"{name.replace(' ', '-')}.webp",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / bundle.form.fps),
            loop=0,
            quality=80,
        )
        rows.append({"row": name, "regime": result.get("regime"), **_figures(result, path.parent / "metrics.jsonl")})
    head = ["row", "regime", *METRICS, *(f"late {gauge}" for gauge in GAUGES)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in head) + " |" for row in rows]
    options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _figures(result: dict[str, Any], metrics: Path) -> dict[str, float | None]:
    measured = result["metrics"]["all"]
    found = {name: measured.get(name, {}).get("mean") for name in METRICS}
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.is_file() else []
    late = [step for step in steps if step["phase"] == "update"][-20:]
    for gauge in GAUGES:
        values = [step[gauge] for step in late if step.get(gauge) is not None]
        found[f"late {gauge}"] = float(np.mean(values)) if values else None
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value[0] if isinstance(value, list) else value)


if __name__ == "__main__":
    main()
