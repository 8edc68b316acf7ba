"""Who is better at what, in words that the numbers carry: better only where the intervals are apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from understudy.evaluation.report.labels import METRICS, Label, arm_name, label
from understudy.evaluation.report.record import Reading, Readings, Record, Summary

Outcome = Literal["better", "worse", "unclear", "unjudged"]
Tone = Literal["good", "mixed", "bad", "open"]

_HELD, _NEARLY_HELD = 0.05, 0.10  # relative loss of an appearance figure
_PERCENT: Final = "\u202f%"  # after a narrow space that does not break


@dataclass(frozen=True)
class Verdict:
    """The first lines of the report.

    Attributes:
        tone: how the lead is to be read.
        lead: one sentence.
        changes: what moved, one line a metric.
        context: what became of the picture, and how the other arms compare, one line each.
    """

    tone: Tone
    lead: str
    changes: list[str]
    context: list[str]


@dataclass(frozen=True)
class Comparison:
    """Two arms: the metrics at which the first is better, worse, or neither beyond chance."""

    first: str
    second: str
    better: list[str]
    worse: list[str]
    unclear: list[str]


def compare(metric: str, before: Reading | None, after: Reading | None, floor: Reading | None = None) -> Outcome:
    """Say what ``after`` is against ``before``: better or worse only when their intervals do not touch.

    ``floor`` is the teacher's own reading, the target of some metrics.
    """
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
    both = [name for name in METRICS if name in start and name in end and METRICS[name].headline]
    subject = "motion"
    chosen = [name for name in both if METRICS[name].group == "motion"]
    if not chosen:
        subject = "likeness to the teacher’s clips"
        chosen = [name for name in both if METRICS[name].group == "distribution"]
    outcomes = [compare(name, start[name], end[name], summary.floor.get(name)) for name in chosen]
    appearance, loss = _appearance(summary)
    tone, lead = _lead(subject, outcomes, loss, record.main)
    context = [appearance] if appearance else []
    context += [line for one in comparisons(record, summary) if (line := _in_brief(one))]
    return Verdict(tone, _upper(lead), [_change(name, summary) for name in chosen], context)


def comparisons(record: Record, summary: Summary) -> list[Comparison]:
    """Compare the main arm with every other one."""
    others = [arm for arm in ordered(summary.arms) if arm != record.main]
    found = [compare_arms(record.main, arm, summary.end, summary.arms[arm], summary.floor) for arm in others]
    return [one for one in found if one.better or one.worse or one.unclear]


def against_start(record: Record, summary: Summary) -> list[Comparison]:
    """Compare every arm with the start, the main one first."""
    ends = {record.main: summary.end}
    ends |= {arm: summary.arms[arm] for arm in ordered(summary.arms) if arm != record.main}
    found = [compare_arms(arm, "start", end, summary.start, summary.floor) for arm, end in ends.items()]
    return [one for one in found if one.better or one.worse or one.unclear]


def compare_arms(first: str, second: str, a: Readings, b: Readings, floor: Readings) -> Comparison:
    """Compare arm ``first`` with readings ``a`` with arm ``second`` with readings ``b``."""
    found: dict[Outcome, list[str]] = {"better": [], "worse": [], "unclear": [], "unjudged": []}
    for metric in METRICS:
        found[compare(metric, b.get(metric), a.get(metric), floor.get(metric))].append(metric)
    return Comparison(first, second, found["better"], found["worse"], found["unclear"])


def tally(one: Comparison) -> str:
    """Return a comparison in one sentence."""
    judged = len(one.better) + len(one.worse) + len(one.unclear)
    first, second = in_text(one.first), in_text(one.second)
    if not one.better and not one.worse:
        return f"No clear difference between {first} and {second} at any of {judged} figures."
    parts = [f"at {len(one.better)}" if one.better else "", f"worse at {len(one.worse)}" if one.worse else ""]
    text = f"Of {judged} figures {first} is "
    text += f"better {parts[0]} and {parts[1]}" if all(parts) else f"better {parts[0]}" if one.better else parts[1]
    return f"{text}; the others show no clear difference." if one.unclear else f"{text}."


def ordered(arms: Iterable[str]) -> list[str]:
    """Return arms as the report orders them: fine-tuning, the random control, the others as they came."""
    known = ["sft", "random"]
    return sorted(dict.fromkeys(arms), key=lambda arm: known.index(arm) if arm in known else len(known))


def in_text(arm: str) -> str:
    """Return how a sentence calls an arm."""
    return "the start" if arm == "start" else lower(arm_name(arm))


def figure(value: float, like: float | None = None) -> str:
    """Return ``value`` with about three digits; with ``like``, with as many decimals as that would have."""
    size = abs(value if like is None else like)
    if 0 < size < 0.001:
        text = f"{value:.1e}"
    else:
        decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
        text = f"{value:,.{decimals}f}"
    if not text.strip("-0."):  # minus nothing
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
    return f"{sign}{abs(change)}{_PERCENT}"


def listed(items: Iterable[str]) -> str:
    """Return ``items`` as "a, b and c"."""
    *rest, last = list(items)
    return f"{', '.join(rest)} and {last}" if rest else last


def lower(text: str) -> str:
    """Return ``text`` with a small first letter, unless it starts with an abbreviation."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


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


def _lead(subject: str, outcomes: list[Outcome], loss: float | None, arm: str) -> tuple[Tone, str]:
    if not outcomes:
        return "open", "nothing was measured both at the start and at the end."
    if "better" in outcomes and "worse" in outcomes:
        return "mixed", f"a mixed result for {subject}: better at one figure, worse at another."
    if "worse" in outcomes:
        return "bad", f"{subject} got worse: {in_text(arm)} did not work in this run."
    if "better" not in outcomes:
        if "unclear" not in outcomes:
            return "open", f"no verdict on {subject}: the figures have no intervals."
        return "open", f"no clear change in {subject}: the intervals overlap."
    lead = f"{subject} got better"
    lead += "" if set(outcomes) == {"better"} else " at one figure, with no clear change at another"
    if loss is None:
        return "good", f"{lead}."
    if loss > _NEARLY_HELD:
        return "mixed", f"{lead}, but the picture got worse."
    return "good", f"{lead}, and the picture {'held' if loss <= _HELD else 'nearly held'}."


def _change(metric: str, summary: Summary) -> str:
    """Return one line such as "Law error 2.18 → 1.04 px (−52 %), 95 % intervals apart"."""
    what, before, after = label(metric), summary.start[metric], summary.end[metric]
    floor, like = summary.floor.get(metric), max(abs(before.mean), abs(after.mean))
    share = percent(before.mean, after.mean)
    line = f"{what.text} {figure(before.mean, like)} → {with_unit(figure(after.mean, like), what.unit)}"
    line += f" ({share})" if share else ""
    outcome = compare(metric, before, after, floor)
    line += {
        "better": f", 95{_PERCENT} intervals apart",
        "worse": f", which is worse: 95{_PERCENT} intervals apart",
        "unclear": f", 95{_PERCENT} intervals overlap: no clear change",
        "unjudged": ", without intervals",
    }[outcome]
    if outcome == "better" and floor and what.better == "lower" and before.mean > floor.mean:
        way = min(100, round(100 * (before.mean - after.mean) / (before.mean - floor.mean)))
        own = with_unit(figure(floor.mean, like), what.unit)
        line += f"; {way}{_PERCENT} of the way to the teacher’s own {own}"
    return line + "."


def _appearance(summary: Summary) -> tuple[str, float | None]:
    """Return what became of the picture, in words, and the largest relative loss (None: not measured)."""
    start, end = summary.start, summary.end
    both = [name for name, what in METRICS.items() if what.group == "appearance" and name in start and name in end]
    names = [name for name in both if METRICS[name].headline] or [name for name in both if name == "detail"]
    if not names:
        return "", None
    worst = max(_loss(name, start[name].mean, end[name].mean) for name in names)
    if worst <= _HELD:
        head = f"Appearance held within 5{_PERCENT} of the start"
    elif worst <= _NEARLY_HELD:
        head = f"Appearance held within 10{_PERCENT} of the start, not within 5{_PERCENT}"
    else:
        head = f"Appearance got worse by up to {round(100 * worst)}{_PERCENT}"
    return f"{head}: {listed(_move(name, start[name], end[name]) for name in names)}.", worst


def _move(metric: str, before: Reading, after: Reading) -> str:
    like = max(abs(before.mean), abs(after.mean))
    notes = [percent(before.mean, after.mean)]
    # A loss within the tolerance may still be beyond chance, which is then said.
    notes += ["intervals apart"] if compare(metric, before, after) == "worse" else []
    words = ", ".join(note for note in notes if note)
    text = f"{lower(METRICS[metric].text)} {figure(before.mean, like)} → {figure(after.mean, like)}"
    return f"{text} ({words})" if words else text


def _loss(metric: str, before: float, after: float) -> float:
    """Return by how much of the start ``after`` is worse, 0 when it is not."""
    what = METRICS[metric]
    if isinstance(what.target, float):
        gap = abs(after - what.target) - abs(before - what.target)
    else:
        gap = before - after if what.better == "higher" else after - before
    return max(0.0, gap) / max(abs(before), 1e-9)


def _in_brief(one: Comparison) -> str:
    """Return a comparison on the headline's metrics alone, "" where none of them was compared."""
    parts = []
    for words, names in (("better at", one.better), ("worse at", one.worse), ("no clear difference in", one.unclear)):
        texts = [lower(METRICS[name].text) for name in names if METRICS[name].headline]
        parts += [f"{words} {listed(texts)}"] if texts else []
    return f"Against {in_text(one.second)}: {'; '.join(parts)}." if parts else ""
