"""One table from several finished runs: mean over prompts with its interval, per run and arm.

    python benchmarks/seeds.py RUN [RUN ...] --out benchmarks/results/quickstart

Writes OUT.json and OUT.md from the runs' own summary.json; nothing is computed that the runs did not measure.
"""

import argparse
import json
from pathlib import Path
from typing import Any

METRICS = (
    "law_error",
    "motion_distance",
    "gravity_error",
    "bounce_error",
    "look_error",
    "colour_error",
    "mass_error",
    "sharpness",
    "first_sharpness",
    "permanence",
    "prompt_ok",
)


def cell(metric: dict[str, Any] | None) -> str:
    """Return "mean [low, high]" of one metric."""
    if not metric or metric["mean"] is None:
        return "-"
    return f"{metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main() -> None:
    """Read the summaries and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(options.runs):
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        arms = {summary["objective"]: summary["end"], **summary["arms"]}
        if number == 0:
            arms = {"start": summary["start"], "teacher": summary["teacher_floor"], **arms}
        rows += [
            {
                "arm": name,
                "seed": summary["seed"],
                "updates": summary["steps"],
                "seconds": summary["seconds"].get(name),
                "hardware": summary["hardware"],
                "metrics": {metric: values.get(metric) for metric in METRICS},
            }
            for name, values in arms.items()
        ]
    head = ["arm", "seed", "seconds", *METRICS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        fixed = row["arm"] in ("start", "teacher")
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
        cells = [row["arm"], "-" if fixed else str(row["seed"]), seconds, *(cell(row["metrics"][m]) for m in METRICS)]
        lines.append("| " + " | ".join(cells) + " |")
    options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
