"""The table of all metrics: start, end, other arms and the teacher's own figures, each with its interval."""

from collections.abc import Mapping

from understudy.evaluation.report.curves import DASHES
from understudy.evaluation.report.labels import GROUPS, METRICS, Label, arm_name, label
from understudy.evaluation.report.markup import Html, el, join
from understudy.evaluation.report.record import Reading, Readings, Record, Summary
from understudy.evaluation.report.verdict import Outcome, compare, figure, percent

_WIDE, _LINE, _EDGE = 144, 11, 6  # px of the interval pictures
_INTRODUCTION = (
    "Mean over held-out clips, its 95\u202f% interval below. ✓ better and ✗ worse than the start, where the intervals "
    "are apart; no mark: no clear change. The teacher’s own clips, measured alike, show how far motion can go; their "
    "look may be another one and is left out."
)


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
    clear: list[str] = []
    rest: list[str] = []
    for name in names:
        (clear if label(name).headline or _moved(name, columns) else rest).append(name)
    parts = [el("p", _INTRODUCTION, class_="soft")]
    if clear:
        parts.append(_table(clear, columns, arms, "numbers-title"))
    if rest:
        head = el("summary", f"{len(rest)} metrics without a clear change in any arm", id="rest-title")
        parts.append(el("details", head, _table(rest, columns, arms, "rest-title"), open=not clear))
    return join(*parts)


def _moved(metric: str, columns: Mapping[str, Readings]) -> bool:
    """Say whether any arm is clearly better or worse than the start."""
    start, floor = columns["start"].get(metric), columns.get("teacher", {}).get(metric)
    ends = [values.get(metric) for arm, values in columns.items() if arm not in ("start", "teacher")]
    return any(compare(metric, start, end, floor) in ("better", "worse") for end in ends)


def _table(names: list[str], columns: Mapping[str, Readings], arms: list[str], title: str) -> Html:
    titles = [el("span", "Metric"), el("span", "95\u202f% intervals")]
    titles += [join(dot(arm, arms), _head(arm)) for arm in columns]
    heads = [el("th", text, scope="col", role="columnheader") for text in titles]
    bodies = []
    for group, text in GROUPS.items():
        rows = [_row(name, columns, arms) for name in names if label(name).group == group]
        if rows:
            head = el("th", text, scope="rowgroup", role="rowheader", colspan=len(columns) + 2, class_="group")
            bodies.append(el("tbody", el("tr", head, role="row"), *rows, role="rowgroup"))
    top = el("thead", el("tr", *heads, role="row"), role="rowgroup")
    # The roles say what the elements are anyhow: a narrow screen's style takes the table apart, and their meaning with it.
    table = el("table", top, *bodies, class_="metrics", role="table", aria_labelledby=title)
    return el("div", table, class_="wide", tabindex="0", role="region", aria_labelledby=title)


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


def _row(metric: str, columns: Mapping[str, Readings], arms: list[str]) -> Html:
    what, start = label(metric), columns["start"].get(metric)
    floor = columns.get("teacher", {}).get(metric)
    unit = el("span", f" ({what.unit})", class_="unit") if what.unit else ""
    name = el("th", el("b", what.text), unit, el("small", f"{_aim(what)}{what.meaning}"), scope="row", role="rowheader")
    values = {arm: found[metric] for arm, found in columns.items() if metric in found}
    like = max(abs(one.mean) for one in values.values())
    cells = []
    for arm in columns:
        judged = arm not in ("start", "teacher")
        mark = compare(metric, start, values.get(arm), floor) if judged else "unjudged"
        cells.append(_cell(arm, values.get(arm), start, mark, like, colour(arm, arms)))
    return el("tr", name, el("td", _strip(values, arms), role="cell", class_="strip"), *cells, role="row")


def _aim(what: Label) -> str:
    if what.better:
        return "↓ Lower is better. " if what.better == "lower" else "↑ Higher is better. "
    if what.target == "teacher":
        return "→ Right is what the teacher has. "
    return "" if what.target is None else f"→ {what.target:g} is right. "


def _cell(arm: str, value: Reading | None, start: Reading | None, mark: Outcome, like: float, paint: str) -> Html:
    parts: list[str] = ["–"]
    if value is not None:
        parts = [el("b", figure(value.mean, like))]
        if value.low is not None and value.high is not None:
            parts.append(el("small", f"{figure(value.low, like)} to {figure(value.high, like)}"))
        if mark in ("better", "worse"):
            share = percent(start.mean, value.mean) if start else ""
            sign = "✓" if mark == "better" else "✗"
            parts.append(el("span", f"{sign} {mark} {share}".rstrip(), class_=f"chip {mark}"))
    # The arm's name and colour are for narrow screens, where the head of the table does not show.
    return el("td", *parts, role="cell", data_arm=_head(arm), style=f"--arm: {paint}")


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
