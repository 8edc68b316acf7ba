"""The controller of the discriminator's rate beside the best constant, seed by seed, from the cells of the suite regimes.

    python benchmarks/controller.py --out benchmarks/results/controller.md

The suite's own tables compare rows inside one setting; here the constant of one setting is taken from all of them.
"""

import argparse
from pathlib import Path

from understudy.bench.results import read_cells
from understudy.bench.statistics import over_seeds
from understudy.files import write_text_atomic

SUITE = Path(__file__).parent / "results" / "bench" / "regimes"
BEST = ("good", "afd")
STARTS = {"zero": "0", "low": "1e-5", "good": "5e-4"}
METRICS = ("law_error", "motion_distance", "look_error", "sharpness")


def main() -> None:
    """Write one line for every start and metric: mean with its controller, difference to the constant, its seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {(cell["setting"], cell["row"], cell["seed"]): cell["metrics"]["all"] for cell in read_cells(SUITE)}
    lines = [
        "The controller less the constant rate 5e-4, paired by seed, 95 % t intervals (`benchmarks/controller.py`).",
        "",
        "| from | metric | controlled | less the constant | seed by seed |",
        "|---|---|---|---|---|",
    ]
    for setting, rate in STARTS.items():
        seeds = sorted(s for where, row, s in found if (where, row) == (setting, "controlled") and (*BEST, s) in found)
        for metric in METRICS:
            own = [found[setting, "controlled", seed][metric]["mean"] for seed in seeds]
            gaps = [value - found[*BEST, seed][metric]["mean"] for value, seed in zip(own, seeds, strict=True)]
            gap, digits = over_seeds(gaps), 4 if metric == "look_error" else 3
            parts = [f"{value:+.{digits}f}" for value in (gap.mean, gap.low, gap.high, *gaps)]
            lines.append(
                f"| {rate} | {metric} | {over_seeds(own).mean:.{digits}f} | {parts[0]} [{parts[1]}, {parts[2]}] "
                f"| {', '.join(parts[3:])} |"
            )
    write_text_atomic(options.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
