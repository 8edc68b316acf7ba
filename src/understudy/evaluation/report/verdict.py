"""Who is better at what, in words that the numbers carry: better only where the intervals are apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from understudy.evaluation.report.labels import METRICS, Label, arm_name, label
from understudy.evaluation.report.record import Reading, Readings, Record, Summary

Outcome = Literal["better", "worse", "unclear", "unjudged"]

_HELD, _NEARLY_HELD = 0.05, 0.10  # relative loss of an appearance figure
_SLIM: Final = "\u202f"  # narrow no-break space


@dataclass(frozen=True)
class Verdict:
    """The first lines of the report.

    Attributes:
        tone: "good", "mixed", "bad" or "open".
        lead: one sentence.
        changes: what moved, one line a metric.
        appearance: what became of the picture, "" when it was not measured.
    """

    tone: Literal["good", "mixed", "bad", "open"]
    lead: str
    changes: list[str]
    appearance: str


@dataclass(frozen=True)
class Comparison:
    """Two arms: the metrics at which the first is better, worse, and where neither is, each in words."""

    first: str
    second: str
    better: list[str]
    worse: list[str]
    unclear: list[str]


def compare(metric: str, before: Reading | None, after: Reading | None, floor: Reading | None = None) -> Outcome:
    """Say what ``after`` is against ``before``: better or worse only when their intervals do not touch."""
    if before is None or after is None:
        return "unjudged"
    first, second = _merit(label(metric), before, floor), _merit(label(metric), after, floor)
    if first is None or second is None:
        return "unjudged"
    if second[1] < first[0]:
        return "better"
    return "worse" if second[0] > first[1] else "unclear"


def verdict(record: Record, summary: Summary) -> Verdict:
    """Sum up the main arm against the start."""
    start, end = summary.start, summary.end
    both = [name for name in METRICS if name in start and name in end]
    headline = [name for name in both if METRICS[name].headline and METRICS[name].group == "motion"]
    subject = "motion"
    if not headline:
        headline = [name for name in both if METRICS[name].headline and METRICS[name].group == "distribution"]
        subject = "likeness to the teacher's clips"
    outcomes = [compare(name, start[name], end[name], summary.floor.get(name)) for name in headline]
    changes = [_change(name, summary) for name in headline]
    appearance, loss = _appearance(start, end)
    arm = arm_name(record.main)
    if not headline:
        return Verdict("open", "Nothing was measured both at the start and at the end.", [], appearance)
    if "better" in outcomes and "worse" in outcomes:
        return Verdict(
            "mixed",
            f"A mixed result for {subject}: better at one figure, worse at another.",
            changes,
            appearance,
        )
    if "worse" in outcomes:
        return Verdict("bad", f"{_upper(subject)} got worse: {arm} did not work in this run.", changes, appearance)
    if "better" not in outcomes:
        if "unclear" not in outcomes:
            return Verdict("open", f"No verdict on {subject}: the figures have no intervals.", changes, appearance)
        return Verdict("open", f"No clear change in {subject}: the intervals overlap.", changes, appearance)
    part = "" if outcomes.count("better") == len(outcomes) else " at one figure, with no clear change at another"
    if loss is None:
        return Verdict("good", f"{_upper(subject)} got better{part}.", changes, appearance)
    if loss <= _NEARLY_HELD:
        return Verdict("good", f"{_upper(subject)} got better{part}, and the picture stayed.", changes, appearance)
    return Verdict("mixed", f"{_upper(subject)} got better{part}, but the picture got worse.", changes, appearance)


def comparisons(record: Record, summary: Summary) -> list[Comparison]:
    """Compare the main arm with every other one, then every arm with the start."""
    main, floor = record.main, summary.floor
    others = [arm for arm in ordered(summary.arms) if arm != main]
    found = [_compare_arms(main, arm, summary.end, summary.arms[arm], floor) for arm in others]
    found.append(_compare_arms(main, "start", summary.end, summary.start, floor))
    found += [_compare_arms(arm, "start", summary.arms[arm], summary.start, floor) for arm in others]
    return [one for one in found if one.better or one.worse or one.unclear]


def ordered(arms: Iterable[str]) -> list[str]:
    """Return arms in the order of the report: supervised fine-tuning, the random control, the others as they came."""
    known = ["sft", "random"]
    return sorted(dict.fromkeys(arms), key=lambda arm: known.index(arm) if arm in known else len(known))


def figure(value: float, like: float | None = None) -> str:
    """Return ``value`` with three significant digits or so; with ``like``, as many decimals as that would have."""
    size = abs(value if like is None else like)
    if 0 < size < 0.001:
        text = f"{value:.1e}"
    else:
        decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
        text = f"{value:,.{decimals}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "−")


def with_unit(text: str, unit: str) -> str:
    """Return ``text`` with ``unit`` after a space that does not break."""
    return f"{text}\u00a0{unit}" if unit else text


def percent(before: float, after: float) -> str:
    """Return the relative change in words, "" where it has no meaning."""
    if before <= 0:
        return ""
    change = round(100 * (after - before) / before)
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    return f"{sign}{abs(change)}{_SLIM}%"


def _merit(what: Label, value: Reading, floor: Reading | None) -> tuple[float, float] | None:
    """Return the interval of ``value`` on a scale where less is better, None where nothing is better."""
    if value.low is None or value.high is None:
        return None
    if what.better == "lower":
        return value.low, value.high
    if what.better == "higher":
        return -value.high, -value.low
    target = (floor.mean if floor else None) if what.target == "teacher" else what.target
    if target is None:
        return None
    low, high = sorted((abs(value.low - target), abs(value.high - target)))
    return (0.0 if value.low <= target <= value.high else low), high


def _change(metric: str, summary: Summary) -> str:
    """Return one line such as "Law error 2.18 → 1.04 px (−52 %), 95 % intervals apart"."""
    what, before, after = label(metric), summary.start[metric], summary.end[metric]
    floor = summary.floor.get(metric)
    share = percent(before.mean, after.mean)
    line = f"{what.text} {figure(before.mean)} → {with_unit(figure(after.mean), what.unit)}"
    line += f" ({share})" if share else ""
    outcome = compare(metric, before, after, floor)
    line += {
        "better": f", 95{_SLIM}% intervals apart",
        "worse": f", which is worse: 95{_SLIM}% intervals apart",
        "unclear": f", 95{_SLIM}% intervals overlap: no clear change",
        "unjudged": ", without intervals",
    }[outcome]
    if outcome == "better" and floor and what.better == "lower" and before.mean > floor.mean:
        way = round(100 * (before.mean - after.mean) / (before.mean - floor.mean))
        own = with_unit(figure(floor.mean), what.unit)
        line += f"; {min(way, 100)}{_SLIM}% of the way to the teacher’s own {own}"
    return line + "."


def _appearance(start: Readings, end: Readings) -> tuple[str, float | None]:
    """Return what became of the picture, in words, and the largest relative loss (None: not measured)."""
    names = [name for name, what in METRICS.items() if what.group == "appearance" and name in start and name in end]
    names = [name for name in names if METRICS[name].headline] or [name for name in names if name == "detail"]
    losses = {name: _loss(name, start[name].mean, end[name].mean) for name in names}
    if not losses:
        return "", None
    worst = max(losses.values())
    if worst <= _HELD:
        head = f"Appearance held: nothing is more than 5{_SLIM}% worse than at the start"
    elif worst <= _NEARLY_HELD:
        head = f"Appearance nearly held: within 10{_SLIM}% of the start, not within 5{_SLIM}%"
    else:
        head = f"Appearance got worse by up to {round(100 * worst)}{_SLIM}%"
    moves = [
        f"{_lower(METRICS[name].text)} {figure(start[name].mean)} → {figure(end[name].mean)}"
        + (f" ({share})" if (share := percent(start[name].mean, end[name].mean)) else "")
        for name in names
    ]
    return f"{head} ({'; '.join(moves)}).", worst


def _loss(metric: str, before: float, after: float) -> float:
    """Return by how much of the start ``after`` is worse, 0 when it is not."""
    what = METRICS[metric]
    if isinstance(what.target, float):
        gap = abs(after - what.target) - abs(before - what.target)
    else:
        gap = before - after if what.better == "higher" else after - before
    return max(0.0, gap) / max(abs(before), 1e-9)


def _compare_arms(first: str, second: str, a: Readings, b: Readings, floor: Readings) -> Comparison:
    better: list[str] = []
    worse: list[str] = []
    unclear: list[str] = []
    for metric in METRICS:
        outcome = compare(metric, b.get(metric), a.get(metric), floor.get(metric))
        if outcome == "unjudged":
            continue
        what = METRICS[metric]
        if outcome == "unclear":
            unclear.append(_lower(what.text))
            continue
        numbers = f"{figure(a[metric].mean)} against {with_unit(figure(b[metric].mean), what.unit)}"
        (better if outcome == "better" else worse).append(f"{_lower(what.text)} ({numbers})")
    return Comparison(first, second, better, worse, unclear)


def tally(one: Comparison) -> str:
    """Return a comparison in one sentence."""
    judged = len(one.better) + len(one.worse) + len(one.unclear)
    first, second = arm_name(one.first), "the start" if one.second == "start" else arm_name(one.second)
    if not one.better and not one.worse:
        return f"No clear difference between {first} and {second} at any of {judged} figures."
    parts = [f"{first} is better than {second} at {len(one.better)} of {judged} figures and worse at {len(one.worse)}"]
    parts += ["no clear difference at the others"] if one.unclear else []
    return "; ".join(parts) + "."


def listed(items: Iterable[str]) -> str:
    """Return ``items`` as "a, b and c"."""
    *rest, last = list(items)
    return f"{', '.join(rest)} and {last}" if rest else last


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text if text[:2].isupper() or text.startswith("VBench") else text[:1].lower() + text[1:]
