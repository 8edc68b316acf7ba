"""Curves of healthy runs as a file, and where another run of the same kind leaves them."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

GAUGES: Final = ("pair_accuracy", "margin", "score_spread", "drift", "grad_norm")
"""Gauges that have a reference curve."""
BUCKETS: Final = {"warm-up": 10, "update": 5}
"""Steps of each phase that one point of a curve is the mean of: single steps are too noisy to compare."""

Rows = Sequence[Mapping[str, Any]]
Curves = dict[str, dict[str, list[float]]]


def curves(rows: Rows) -> Curves:
    """Return for each phase and gauge the means of its buckets, of a run's recorded steps in their order."""
    found: Curves = {}
    for phase, size in BUCKETS.items():
        steps = [row for row in rows if row.get("phase") == phase]
        found[phase] = {}
        for gauge in GAUGES:
            values = [float(row[gauge]) for row in steps if row.get(gauge) is not None]
            means = [sum(values[i : i + size]) / size for i in range(0, len(values) - size + 1, size)]
            if means and len(values) == len(steps):
                found[phase][gauge] = means
    return found


def reference(runs: Sequence[Rows]) -> dict[str, Any]:
    """Return what healthy ``runs`` have in common: for each phase and gauge the mean, least and greatest of each bucket.

    The tolerance of a gauge is the widest gap between two of the runs in any bucket: one more seed may be as far off.
    """
    every = [curves(rows) for rows in runs]
    phases: dict[str, Any] = {}
    for phase in BUCKETS:
        shared = [gauge for gauge in GAUGES if all(gauge in run[phase] for run in every)]
        phases[phase] = {}
        for gauge in shared:
            points = list(zip(*(run[phase][gauge] for run in every), strict=True))
            phases[phase][gauge] = {
                "mean": [sum(point) / len(point) for point in points],
                "low": [min(point) for point in points],
                "high": [max(point) for point in points],
                "tolerance": max(max(point) - min(point) for point in points),
            }
    return {"runs": len(runs), "buckets": BUCKETS, "phases": phases}


def load_reference() -> dict[str, Any]:
    """Return the reference that ships: AFD of the small frame-wise student as in the quickstart."""
    text = (resources.files("understudy") / "assets" / "healthy.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def departures(rows: Rows, healthy: Mapping[str, Any]) -> list[str]:
    """Say in words where a run's curves leave the healthy ones by more than their tolerance; nothing: nowhere.

    The run may be unfinished; buckets past its end are not compared.
    """
    found = []
    for phase, gauges in curves(rows).items():
        for gauge, means in gauges.items():
            band = healthy["phases"].get(phase, {}).get(gauge)
            if band is None:
                continue
            reach = band["tolerance"]
            outside = [
                (i, value)
                for i, (value, low, high) in enumerate(zip(means, band["low"], band["high"], strict=False))
                if not low - reach <= value <= high + reach
            ]
            if outside:
                first, value = outside[0]
                size = BUCKETS[phase]
                found.append(
                    f"{gauge} is {value:.3g} in {phase} steps {first * size} to {(first + 1) * size - 1}, healthy runs have "
                    f"{band['low'][first]:.3g} to {band['high'][first]:.3g} ({len(outside)} of {len(means)} differ)"
                )
    return found
