"""The table of all metrics: start, end, other arms and the teacher's own figures, each with its interval."""

from collections.abc import Mapping

from understudy.evaluation.report.curves import DASHES
from understudy.evaluation.report.labels import GROUPS, METRICS, Label, arm_name, label
from understudy.evaluation.report.markup import Html, el, join
from understudy.evaluation.report.record import Reading, Readings, Record, Summary
from understudy.evaluation.report.verdict import compare, figure, percent

_WIDE, _LINE, _EDGE = 144, 11, 6  # px of the interval pictures


def metrics_table(record: Record, summary: Summary, arms: list[str]) -> Html | None:
    """Return the table, None when nothing was measured."""
    columns: dict[str, Readings] = {"start": summary.start, record.main: summary.end}
    columns |= {arm: summary.arms[arm] for arm in arms if arm in summary.arms}
    columns["teacher"] = summary.floor
    columns = {arm: values for arm, values in columns.items() if values or arm in ("start", record.main)}
    known = dict.fromkeys([*METRICS, *(name for values in columns.values() for name in values)])
    names = [name for name in known if name != "rfd_floor" and any(name in values for values in columns.values())]
    if not names:
        return None
    heads = [el("th", "Metric", scope="col"), el("th", "95\u202f% intervals", scope="col")]
    heads += [el("th", dot(arm, arms), _head(arm), scope="col") for arm in columns]
    bodies = []
    for group, title in GROUPS.items():
        rows = [_row(name, columns, record.main, arms) for name in names if label(name).group == group]
        if rows:
            head = el("tr", el("th", title, scope="rowgroup", colspan=len(columns) + 2, class_="group"))
            bodies.append(el("tbody", head, *rows))
    text = (
        "Mean over held-out clips, with its 95\u202f% interval in grey. ▲ better and ▼ worse than the start, where the "
        "intervals are apart; no mark: no clear change. The teacher's own clips, measured alike, show how far one can go."
    )
    table = el("table", el("thead", el("tr", *heads)), *bodies, class_="metrics")
    box = el("div", table, class_="wide", tabindex="0", role="region", aria_labelledby="numbers-title")
    return join(el("p", text, class_="soft"), box)


def colour(arm: str, arms: list[str]) -> str:
    """Return the CSS colour of an arm; ``arms`` are those that were trained, in order."""
    if arm in arms:
        return f"var(--arm-{arms.index(arm) % len(DASHES)})"
    return f"var(--arm-{arm})" if arm in ("start", "teacher") else "var(--soft)"


def dot(arm: str, arms: list[str]) -> Html:
    """Return a spot in the colour of an arm, to stand before its name."""
    return el("span", class_="dot", style=f"--arm: {colour(arm, arms)}", aria_hidden="true")


def _head(arm: str) -> str:
    return "Teacher itself" if arm == "teacher" else arm_name(arm)


def _row(metric: str, columns: Mapping[str, Readings], main: str, arms: list[str]) -> Html:
    what = label(metric)
    floor = columns.get("teacher", {}).get(metric)
    start = columns["start"].get(metric)
    unit = f" ({what.unit})" if what.unit else ""
    name = el("th", el("b", what.text), unit, el("small", f"{_aim(what)}{what.meaning}"), scope="row")
    cells = []
    for arm, values in columns.items():
        mark = compare(metric, start, values.get(metric), floor) if arm not in ("start", "teacher") else "unjudged"
        cells.append(_cell(values.get(metric), start, mark))
    strip = _strip({arm: values[metric] for arm, values in columns.items() if metric in values}, arms)
    return el("tr", name, el("td", strip, class_="strip"), *cells)


def _aim(what: Label) -> str:
    if what.better:
        return "↓ Lower is better. " if what.better == "lower" else "↑ Higher is better. "
    if what.target == "teacher":
        return "→ Right is what the teacher has. "
    return "" if what.target is None else f"→ {what.target:g} is right. "


def _cell(value: Reading | None, start: Reading | None, mark: str) -> Html:
    if value is None:
        return el("td", el("span", "–", aria_label="not measured"))
    parts: list[str] = [el("b", figure(value.mean))]
    if value.low is not None and value.high is not None:
        parts.append(el("small", f"{figure(value.low, value.mean)} to {figure(value.high, value.mean)}"))
    if mark in ("better", "worse"):
        share = percent(start.mean, value.mean) if start else ""
        parts.append(el("span", f"{'▲' if mark == 'better' else '▼'} {mark} {share}".rstrip(), class_=f"chip {mark}"))
    return el("td", *parts)


def _strip(values: Mapping[str, Reading], arms: list[str]) -> Html:
    """Draw the intervals of one metric on one scale, an arm a line; the numbers stand beside it, so it is decoration."""
    ends = [end for one in values.values() for end in (one.low, one.mean, one.high) if end is not None]
    low, high = min(ends), max(ends)
    if high <= low:
        return Html("")

    def at(value: float) -> float:
        return round(_EDGE + (value - low) / (high - low) * (_WIDE - 2 * _EDGE), 1)

    drawn: list[Html] = []
    for n, (arm, one) in enumerate(values.items()):
        y, paint = n * _LINE + _EDGE, colour(arm, arms)
        if one.low is not None and one.high is not None:
            drawn.append(
                el(
                    "line",
                    x1=at(one.low),
                    x2=at(one.high),
                    y1=y,
                    y2=y,
                    style=f"stroke: {paint}",
                    stroke_width=2,
                )
            )
        drawn.append(el("circle", cx=at(one.mean), cy=y, r=3.5, style=f"fill: {paint}"))
    height = len(values) * _LINE + 1
    return el("svg", *drawn, viewBox=f"0 0 {_WIDE} {height}", aria_hidden="true")
