"""From the cells' results to one table: JSON, CSV, Markdown; the cells themselves in one compressed file."""

import csv
import io
import json
import lzma
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from understudy.bench.long import line_of
from understudy.bench.statistics import Interval, over_seeds, over_seeds_and_prompts
from understudy.bench.suite import SuiteConfig
from understudy.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from understudy.reading import read_json

CELLS: Final = "cells.jsonl.xz"
METRICS: Final = (
    "law_error", "motion_distance", "gravity_error", "bounce_error", "spread", "look_error", "colour_error", "sharpness",
    "first_sharpness", "permanence", "prompt_ok", "rfd", "leak",
)  # fmt: skip
_SHOWN: Final = ("law_error", "motion_distance", "look_error", "sharpness", "first_sharpness", "permanence", "leak")
_BY_WORD: Final = ("law_error", "gravity_error", "bounce_error")
_DRIFT: Final = ("motion_distance", "magnitude", "look_error", "sharpness", "permanence")

Result = Mapping[str, Any]


def summarise(suite: SuiteConfig, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one entry for every setting, row and family: intervals by metric, differences, cost, regime, errors."""
    groups = _groups(results)
    entries = []
    for setting in suite.settings or {"all": {}}:
        for row, spec in suite.rows.items():
            group = groups.get((setting, row), [])
            good = [result for result in group if result.get("error") is None]
            others = {name: name for name in suite.beside}
            references = {k: groups.get((setting, name), []) for k, name in {"start": spec.against, **others}.items()}
            for family in _families(good) if group else []:
                found = {name: _metric(good, references, family, name, row) for name in METRICS}
                entries.append(
                    {
                        "setting": setting,
                        "row": row,
                        "family": family,
                        "seeds": sorted(result["seed"] for result in good),
                        "metrics": {name: metric for name, metric in found.items() if metric},
                        "seconds": float(np.mean([r["seconds"]["train"] for r in good])) if good else None,
                        "teacher_clips": max((r["teacher_clips"] for r in good), default=0),
                        "updates": max((r["updates"] for r in good), default=0),
                        "regimes": [r["regime"][0] for r in good if r.get("regime")],
                        "errors": [f"seed {r['seed']}: {r['error']}" for r in group if r.get("error") is not None],
                    }
                )
    return entries


def _groups(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the results by setting and row."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["setting"], result["row"]), []).append(result)
    return groups


def _families(good: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(["all", *(family for result in good for family in result["metrics"])]))


def _value(result: Result, family: str, name: str) -> float | None:
    """Return a metric of one cell, None where it has none."""
    if name == "leak":
        return result.get("leak") if family == "all" else None
    return (result["metrics"].get(family, {}).get(name) or {}).get("mean")


def _metric(
    good: Sequence[Result], references: Mapping[str, Sequence[Result]], family: str, name: str, row: str
) -> dict[str, Any]:
    """Return the intervals of a metric and of its differences to the references; empty where no cell has it."""
    values = [value for result in good if (value := _value(result, family, name)) is not None]
    if not values:
        return {}
    entry: dict[str, Any] = {"seeds": _plain(over_seeds(values))}
    if family == "all" and (table := _table(good, name)) is not None:
        entry["prompts"] = _plain(over_seeds_and_prompts(table))
    for reference, others in references.items():
        pairs = _paired(good, [result for result in others if result.get("error") is None])
        both = [(_value(a, family, name), _value(b, family, name)) for a, b in pairs]
        gaps = [a - b for a, b in both if a is not None and b is not None]
        if reference == row or not gaps:
            continue
        entry[f"vs_{reference}"] = {"seeds": _plain(over_seeds(gaps))}
        if family == "all" and (gap := _gap(pairs, name)) is not None:
            entry[f"vs_{reference}"]["prompts"] = _plain(over_seeds_and_prompts(gap))
    return entry


def _paired(good: Sequence[Result], others: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Return the cells of two rows seed by seed; one student that was not trained stands for all seeds."""
    mine, theirs = ({int(result["seed"]): result for result in row} for row in (good, others))
    if _untrained(others):
        theirs = dict.fromkeys(mine, others[0])
    elif _untrained(good):
        mine = dict.fromkeys(theirs, good[0])
    return [(result, theirs[seed]) for seed, result in mine.items() if seed in theirs]


def _untrained(good: Sequence[Result]) -> bool:
    """Return whether a row is one student that was not trained: it has one seed."""
    return [result.get("updates") for result in good] == [0]


def by_words(suite: SuiteConfig, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the errors of the law on prompts with each of the suite's words: intervals, differences, prompts measured.

    A difference is taken on the prompts that have the metric in both rows, as not every rollout shows a bounce.
    """
    groups = _groups(result for result in results if result.get("error") is None)
    entries = []
    for (setting, row), good in groups.items():
        against = suite.rows[row].against
        pairs = _paired(good, groups.get((setting, against), [])) if against != row else []
        for word in suite.words:
            mine = [_with_word(result, word) for result in good]
            both = [(_with_word(a, word), _with_word(b, word)) for a, b in pairs]
            metrics = {}
            for name in _BY_WORD:
                table, gap = _table(mine, name), _gap(both, name)
                if table is None or not np.isfinite(table).any():
                    continue
                metrics[name] = {"measured": np.isfinite(table).sum(1).tolist(), **_both_intervals(table)}
                if gap is not None:
                    metrics[name]["vs_start"] = _both_intervals(gap)
            if metrics:
                entries.append({"setting": setting, "row": row, "word": word, "metrics": metrics})
    return entries


def _with_word(result: Result, word: str) -> Result:
    return {**result, "prompts": {p: values for p, values in result["prompts"].items() if word in p.split()}}


def _both_intervals(table: NDArray[np.float64]) -> dict[str, Any]:
    """Return the interval over seeds and that over seeds and prompts of values [S, P], NaN where one is missing."""
    means = [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else math.nan for row in table]
    return {"seeds": _plain(over_seeds(means)), "prompts": _plain(over_seeds_and_prompts(table))}


def _table(good: Sequence[Result], name: str, prompts: Iterable[str] | None = None) -> NDArray[np.float64] | None:
    """Return a metric per seed and prompt [S, P], NaN where it is missing; None for a metric of whole sets.

    Prompts are in the order given, or in that of the first cell.
    """
    rows = [result["prompts"] for result in good]
    if not rows or name not in next(iter(rows[0].values()), {}):
        return None
    prompts = list(rows[0] if prompts is None else prompts)
    return np.array(
        [[math.nan if (v := row.get(p, {}).get(name)) is None else v for p in prompts] for row in rows], dtype=float
    )


def _gap(pairs: Sequence[tuple[Result, Result]], name: str) -> NDArray[np.float64] | None:
    """Return the differences per seed and prompt [S, P], prompt by prompt; None if the rows have other prompts."""
    if not pairs or pairs[0][0]["prompts"].keys() != pairs[0][1]["prompts"].keys():
        return None
    mine, theirs = (_table([pair[side] for pair in pairs], name, pairs[0][0]["prompts"]) for side in (0, 1))
    return None if mine is None or theirs is None else mine - theirs


def _plain(interval: Interval) -> dict[str, float | int | None]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(interval).items()}


def write(suite: SuiteConfig, results: Sequence[Result], left_out: Sequence[str], head: Mapping[str, Any]) -> Path:
    """Write every cell, what made them (source.json) and the tables results.json, .csv and .md; return the last.

    All tables follow from the cells and source.json: a repository need not keep more than these two.
    """
    results = [
        _short(result) for result in results
    ]  # so that the tables follow from the kept cells to their last digit
    entries = summarise(suite, results)
    folder = suite.out
    teacher = next((r["teacher"] for r in results if r.get("teacher")), None)
    curves = [{k: r[k] for k in ("setting", "row", "seed", "long")} for r in results if r.get("long")]
    document = {
        "suite": suite.name,
        "about": suite.about,
        **head,
        "seeds": list(suite.seeds),
        "left_out": list(left_out),
        "teacher": teacher,
        "rows": entries,
        "long": curves,
        **({"words": by_words(suite, results)} if suite.words else {}),
    }
    write_json_atomic(folder / "results.json", document)
    write_text_atomic(folder / "results.csv", _csv(entries, suite.beside))
    write_json_atomic(folder / "source.json", {**head, "seeds": list(suite.seeds), "left_out": list(left_out)})
    _write_cells(folder, results)
    write_text_atomic(folder / "results.md", _markdown(suite, entries, document, left_out, head))
    return folder / "results.md"


def _short(value: Any) -> Any:
    """Return a JSON value with its numbers to five digits: what is behind that is noise, and half of the file."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _short(part) for key, part in value.items()}
    return [_short(part) for part in value] if isinstance(value, (list, tuple)) else value


def _csv(entries: Iterable[Mapping[str, Any]], beside: Iterable[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sides = ("", "vs_start", *(f"vs_{name}" for name in beside))
    columns = [f"{side}{'_' if side else ''}{key}" for side in sides for key in ("mean", "low", "high")]
    writer.writerow(["setting", "row", "family", "metric", "seeds", *columns])
    for entry in entries:
        for name, metric in entry["metrics"].items():
            cells: list[Any] = []
            for side in sides:
                found = (metric.get(side, {}) if side else metric).get("seeds", {})
                cells += [found.get(key) for key in ("mean", "low", "high")]
            writer.writerow([entry["setting"], entry["row"], entry["family"], name, len(entry["seeds"]), *cells])
    return out.getvalue()


def _markdown(
    suite: SuiteConfig,
    entries: Sequence[Mapping[str, Any]],
    document: Mapping[str, Any],
    left_out: Sequence[str],
    head: Mapping[str, Any],
) -> str:
    lines = [f"# {suite.name}", "", suite.about, ""]
    lines += [f"Seeds {', '.join(map(str, suite.seeds))}. {head.get('command', '')}. {head.get('hardware', '')}.", ""]
    lines += [
        "Mean over seeds with its 95 % t interval in square brackets. Differences are paired by seed; bold where 0 lies "
        "outside. In round brackets, of one seed: a bootstrap over its prompts, which says nothing about other seeds.",
        "",
    ]
    for setting in suite.settings or {"all": {}}:
        here = [e for e in entries if e["setting"] == setting and e["family"] == "all"]
        if not here:  # settings that --settings left out
            continue
        shown = [m for m in _SHOWN if any(m in e["metrics"] for e in here)]
        if setting != "all":
            lines += [f"## {setting}", ""]
        lines += _rows(["row", "seeds", *shown], [[e["row"], len(e["seeds"]), *_cells(e, shown, None)] for e in here])
        for reference in ("start", *suite.beside):
            rows = [[e["row"], *_cells(e, shown, f"vs_{reference}")] for e in here if e["row"] != reference]
            if any(cell != "-" for row in rows for cell in row[1:]):
                lines += [f"Difference to {reference}:", "", *_rows(["row", *shown], rows)]
        families = [e for e in entries if e["setting"] == setting and e["family"] != "all"]
        if families:
            two = ["law_error", "motion_distance"]
            rows = [[e["row"], e["family"], *_cells(e, two, None), *_cells(e, two, "vs_start")] for e in families]
            heads = ["row", "family", *two, *(f"{m} against start" for m in two)]
            lines += ["By motion family:", "", *_rows(heads, rows)]
        lines += _words([entry for entry in document.get("words", ()) if entry["setting"] == setting])
        cost = [
            [e["row"], _number(e["seconds"]), e["updates"], e["teacher_clips"], ", ".join(e["regimes"]) or "-"]
            for e in here
        ]
        lines += ["Cost and the discriminator's regime, seed by seed:", ""]
        lines += _rows(["row", "seconds of training", "updates", "teacher clips", "regimes"], cost)
        for entry in here:
            lines += [f"- {entry['row']} failed: {error}" for error in entry["errors"]]
    lines += _drifts(document["long"])
    lines += [f"- left out: {line}" for line in left_out]
    return "\n".join(lines).rstrip() + "\n"


def _words(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the errors by words of the prompts."""
    rows = [
        [e["row"], e["word"], *_cells(e, _BY_WORD, None), *_cells(e, _BY_WORD, "vs_start")]
        for e in sorted(entries, key=lambda entry: str(entry["word"]))
    ]
    heads = ["row", "word", *_BY_WORD, *(f"{m} against start" for m in _BY_WORD)]
    return ["By words of the prompts:", "", *_rows(heads, rows)] if rows else []


def _drifts(curves: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of long clips: the mean over seeds of some metrics in some of their parts."""
    runs: dict[tuple[str, str], list[Sequence[Mapping[str, Any]]]] = {}
    for curve in curves:
        for window, parts in curve["long"].items():
            runs.setdefault(line_of(curve["row"], window), []).append(parts)
    rows = []
    for (row, window), seeds in runs.items():
        count = len(seeds[0])
        for part in sorted({0, 1, count // 2, count - 1}):
            means = [
                over_seeds(
                    [value for parts in seeds if (value := (parts[part].get(name) or {}).get("mean")) is not None]
                )
                for name in _DRIFT
            ]
            rows.append([row, window, len(seeds), part + 1, *(f"{m.mean:.3f}" for m in means)])
    if not rows:
        return []
    return ["Part by part of a long clip, each as long as the training clips:", "",
            *_rows(["row", "window", "seeds", "part", *_DRIFT], rows)]  # fmt: skip


def _cells(entry: Mapping[str, Any], metrics: Iterable[str], side: str | None) -> list[str]:
    cells = []
    for name in metrics:
        metric = entry["metrics"].get(name, {})
        metric = metric.get(side, {}) if side else metric
        cells.append(_cell(metric.get("seeds"), metric.get("prompts"), side is not None))
    return cells


def _cell(seeds: Mapping[str, Any] | None, prompts: Mapping[str, Any] | None, difference: bool) -> str:
    """Return the mean with its interval over seeds; of one seed, in round brackets, with that over prompts."""
    if not seeds or seeds["mean"] is None:
        return "-"
    sign = "+" if difference else ""
    mean = f"{seeds['mean']:{sign}.3f}"
    if seeds["low"] is not None:
        text = f"{mean} [{seeds['low']:{sign}.3f}, {seeds['high']:{sign}.3f}]"
        return f"**{text}**" if difference and (seeds["low"] > 0 or seeds["high"] < 0) else text
    if prompts and prompts["low"] is not None:
        return f"{mean} ({prompts['low']:{sign}.3f}, {prompts['high']:{sign}.3f})"
    return mean


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _rows(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def read(paths: Iterable[Path]) -> list[Result]:
    """Return the results that are there, as written by cells."""
    return [read_json(path) for path in paths if path.is_file()]


def _write_cells(folder: Path, results: Iterable[Result]) -> None:
    lines = (json.dumps(result, separators=(",", ":")) for result in results)
    write_bytes_atomic(folder / CELLS, lzma.compress("".join(f"{line}\n" for line in lines).encode()))


def read_cells(folder: Path) -> list[Result]:
    """Return every cell that ``write`` kept in ``folder``, prompt by prompt; none where it has not written yet."""
    path = folder / CELLS
    if not path.is_file():
        return []
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
