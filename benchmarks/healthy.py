"""Reference curves of healthy runs: what each gauge did, over the steps, in runs whose students got better.

    python benchmarks/healthy.py METRICS [METRICS ...] --out src/understudy/assets/healthy.json --picture docs/healthy.png

METRICS are the metrics.jsonl of runs that differ in their seeds alone, as `understudy bench main`
leaves them.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from understudy.objectives.reference import BUCKETS, reference


def main() -> None:
    """Read the runs, write the file, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    options = parser.parse_args()
    runs = [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in options.metrics]
    healthy = reference(runs)
    options.out.write_text(json.dumps(healthy, indent=1) + "\n", encoding="utf-8")
    panels = [(phase, gauge) for phase in BUCKETS for gauge in healthy["phases"][phase]]
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.6), layout="constrained")
    for axis, (phase, gauge) in zip(axes, panels, strict=True):
        band, size = healthy["phases"][phase][gauge], BUCKETS[phase]
        x = [size * (i + 0.5) for i in range(len(band["mean"]))]
        axis.fill_between(x, band["low"], band["high"], alpha=0.3)
        axis.plot(x, band["mean"])
        axis.set_title(f"{gauge.replace('_', ' ')}, {phase}", fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(options.picture, dpi=100)


if __name__ == "__main__":
    main()
