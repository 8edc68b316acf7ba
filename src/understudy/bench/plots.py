"""Plots of a suite's results: points by row, curves over settings, drift over a long clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from understudy.bench.long import TEACHER, line_of
from understudy.reading import read_json

_PANELS: Final = ("law_error", "motion_distance", "look_error", "sharpness")
_STYLES: Final = ("-", "--", "-.", ":")


def draw(folder: Path) -> list[Path]:
    """Draw results.json of ``folder`` into PNG files beside it; return them."""
    document = read_json(folder / "results.json")
    entries = [entry for entry in document["rows"] if entry["family"] == "all" and entry["metrics"]]
    if not entries:
        return []
    settings = list(dict.fromkeys(entry["setting"] for entry in entries))
    made = [_by_row(entries, folder / "rows.png")] if len(settings) == 1 else [_over(entries, settings, folder)]
    if document["long"]:
        made.append(_drift(document["long"], folder / "drift.png"))
    return made


def _value(entry: Mapping[str, Any], metric: str) -> tuple[float, float, float] | None:
    found = entry["metrics"].get(metric, {}).get("seeds")
    if not found or found["mean"] is None:
        return None
    mean = found["mean"]
    return mean, mean if found["low"] is None else found["low"], mean if found["high"] is None else found["high"]


def _span(entries: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float]:
    """Return the limits of an axis: all means, and intervals of three seeds or more.

    Those of two seeds are so wide (t = 12.7) that nothing else would be seen; they run out of the picture.
    """
    found = [(value, entry["metrics"][metric]["seeds"]["n"]) for entry in entries if (value := _value(entry, metric))]
    ends = [end for value, seeds in found for end in (value if seeds > 2 else value[:1])] or [0.0]
    room = 0.08 * (max(ends) - min(ends)) or 0.5
    return min(ends) - room, max(ends) + room


def _by_row(entries: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure, axes = plt.subplots(
        1, len(_PANELS), figsize=(3.4 * len(_PANELS), 1 + 0.32 * len(entries)), sharey=True, layout="constrained"
    )
    for axis, metric in zip(axes, _PANELS, strict=True):
        for y, entry in enumerate(entries):
            if (value := _value(entry, metric)) is not None:
                mean, low, high = value
                axis.plot([low, high], [y, y], color="0.6", lw=2)
                axis.plot(mean, y, "o", color="C0" if entry["row"].startswith("afd") else "0.25")
        axis.set_xlim(_span(entries, metric))
        axis.set_title(metric.replace("_", " "))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(entries)), [entry["row"] for entry in entries])
    axes[0].invert_yaxis()
    return _save(figure, path)


def _over(entries: Sequence[Mapping[str, Any]], settings: Sequence[str], folder: Path) -> Path:
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(4 * len(_PANELS), 3.6), layout="constrained")
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    for axis, metric in zip(axes, _PANELS, strict=True):
        for row in rows:
            found = {e["setting"]: v for e in entries if e["row"] == row and (v := _value(e, metric))}
            x = [i for i, setting in enumerate(settings) if setting in found]
            values = [found[settings[i]] for i in x]
            means = [value[0] for value in values]
            reach = [[m - v[1] for m, v in zip(means, values, strict=True)], [v[2] - v[0] for v in values]]
            axis.errorbar(x, means, yerr=reach, marker="o", capsize=3, label=row, alpha=0.85)
        axis.set_xticks(range(len(settings)), settings, rotation=30, ha="right")
        axis.set_ylim(_span(entries, metric))
        axis.set_title(metric.replace("_", " "))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(rows), fontsize="small")
    return _save(figure, folder / "settings.png")


def _drift(curves: Sequence[Mapping[str, Any]], path: Path) -> Path:
    metrics = ("motion_distance", "magnitude", "look_error", "sharpness")
    figure, axes = plt.subplots(1, len(metrics), figsize=(4 * len(metrics), 3.6), layout="constrained")
    lines: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for curve in curves:
        for window, parts in curve["long"].items():
            lines.setdefault(line_of(curve["row"], window), []).append(parts)
    rows, windows = (list(dict.fromkeys(name[i] for name in lines if name[1] != TEACHER)) for i in (0, 1))
    for axis, metric in zip(axes, metrics, strict=True):
        for (row, window), runs in lines.items():
            by_part = zip(*runs, strict=False)
            means = []
            for parts in by_part:
                values = [p[metric]["mean"] for p in parts if p.get(metric, {}).get("mean") is not None]
                means.append(sum(values) / len(values) if values else float("nan"))
            if window == TEACHER:
                look: dict[str, Any] = {"color": "0.2", "lw": 3, "alpha": 0.5, "label": window}
            else:
                look = {"color": f"C{rows.index(row)}", "ls": _STYLES[windows.index(window) % len(_STYLES)],
                        "label": f"{row}, {window}"}  # fmt: skip
            axis.plot(range(1, len(means) + 1), means, **look)
        axis.set_title(metric.replace("_", " "))
        axis.set_xlabel("part of one training length")
        axis.grid(alpha=0.3)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
