"""The page: what fell by how much, who was better at what, the clips, the table, the curves, the record."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from understudy.evaluation.report import curves, players
from understudy.evaluation.report.labels import METRICS, arm_name
from understudy.evaluation.report.markup import Html, el, join
from understudy.evaluation.report.record import Readings, Record, Summary, read_record
from understudy.evaluation.report.style import SCRIPT, STYLE
from understudy.evaluation.report.table import colour, dot, metrics_table
from understudy.evaluation.report.verdict import (
    Comparison,
    against_start,
    comparisons,
    figure,
    listed,
    lower,
    ordered,
    tally,
    verdict,
    with_unit,
)
from understudy.files import write_text_atomic
from understudy.objectives.gauges import INFORMATIVE

_PROBE_LIMIT = 0.9  # the AUC at which training warns
_NOTES = 60
_ABREAST = 6  # arms beside each other


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run folder and return its path. The page needs no other file and no network.

    An unfinished run gets what it has so far, and the page says so.

    Raises:
        UnderstudyError: the folder is missing, is not a run folder, or cannot be written to.
    """
    record = read_record(Path(run))
    target = record.folder / "report.html"
    write_text_atomic(target, render(record))
    return target


def render(record: Record) -> str:
    """Return the whole page."""
    summary = record.summary
    arms = _arms(record)
    rows = players.rows(record)
    sections = [
        _section("clips", "Clips", _clips(rows, arms, summary is None)),
        _section("who", "Who was better at what", _comparisons(record, summary)) if summary else None,
        _section("numbers", "Before and after", metrics_table(record, summary, arms)) if summary else None,
        _section("curves", "Training", _curves(record, arms)),
        _section("gauges", "What the gauges said", _gauges(record)),
        _section("run", "The run", _facts(record)),
    ]
    shown = [section for section in sections if section]
    name = _name(record)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # The policy lets nothing run but the page's own script, whatever a prompt may hold.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{name}: run report"),
        el("style", Html(STYLE)),
    )
    links = [el("li", el("a", title, href=f"#{key}")) for key, title, _ in shown]
    version = f" {summary.facts['version']}" if summary and "version" in summary.facts else ""
    body = el(
        "body",
        el("header", _headline(record, name), el("nav", el("ul", *links), aria_label="On this page")),
        el("main", *(content for _, _, content in shown)),
        el("footer", f"Written by Understudy{version}. This page needs no network and no other file."),
        el("script", Html(SCRIPT)),
    )
    return "<!doctype html>\n" + el("html", head, body, lang="en") + "\n"


def _arms(record: Record) -> list[str]:
    """Return the arms that were trained: the main one first, for its colour, then as in the comparisons."""
    others = ordered([*(record.summary.arms if record.summary else []), *record.arms])
    return [record.main, *(arm for arm in others if arm not in (record.main, "start", "teacher"))]


def _name(record: Record) -> str:
    name = record.summary.facts.get("name") if record.summary else None
    return name or record.folder.resolve().name


def _section(key: str, title: str, content: Html | None) -> tuple[str, str, Html] | None:
    if not content:
        return None
    return (
        key,
        title,
        el("section", el("h2", title, id=f"{key}-title"), content, id=key, aria_labelledby=f"{key}-title"),
    )


def _headline(record: Record, name: str) -> Html:
    if record.summary is None:
        title = el("h1", f"{name}: run report")
        steps = max((arm.steps for arm in record.arms.values()), default=0)
        so_far = f"It logged {steps} steps so far" if steps else "It logged no steps so far"
        text = f"{_upper(record.problem)}. {so_far}; results come when it is done."
        return join(title, el("p", "This run has not finished.", class_="lead"), el("p", text, class_="banner"))
    title = el("h1", f"{name}: {arm_name(record.main)} run report")
    found = verdict(record, record.summary)
    lines = [el("p", line, class_="change") for line in found.changes]
    lines += [el("p", line) for line in found.context]
    lead = el("p", found.lead, class_="lead")
    return join(title, lead, el("div", *lines, class_=f"verdict {found.tone}") if lines else "")


def _comparisons(record: Record, summary: Summary) -> Html | None:
    pairs = comparisons(record, summary)
    starts = against_start(record, summary)
    if not pairs and not starts:
        return None
    intro = el(
        "p",
        "One arm is called better only where the two 95\u202f% intervals are apart. The intervals come from redrawing "
        "the held-out prompts of this one run: they say nothing about another training seed.",
        class_="soft",
    )
    ends = summary.arms | {record.main: summary.end}
    cards = [_pair(one, ends) for one in pairs]
    if starts:
        entries = [_against_start(one) for one in starts]
        cards.append(el("div", el("h3", "Each arm against the start"), el("dl", *entries), class_="card"))
    return join(intro, el("div", *cards, class_="pairs"))


def _pair(one: Comparison, ends: dict[str, Readings]) -> Html:
    title = el("h3", f"{arm_name(one.first)} against {lower(arm_name(one.second))}")
    parts: list[Html] = [el("p", tally(one))]
    for sign, kind, names in (("✓", "better", one.better), ("✗", "worse", one.worse)):
        if names:
            parts.append(el("p", f"{sign} {arm_name(one.first)} {kind}", class_=f"chip {kind}"))
            parts.append(el("ul", *(el("li", *_duel(name, one, ends)) for name in names), class_="duels"))
    if one.unclear:
        unclear = listed(lower(METRICS[name].text) for name in one.unclear)
        parts.append(
            el("details", el("summary", "No clear difference"), el("p", _upper(unclear) + ".", class_="small"))
        )
    return el("div", title, *parts, class_="card")


def _duel(metric: str, one: Comparison, ends: dict[str, Readings]) -> list[Html]:
    a, b = ends[one.first][metric].mean, ends[one.second][metric].mean
    like, what = max(abs(a), abs(b)), METRICS[metric]
    numbers = f"{figure(a, like)} against {with_unit(figure(b, like), what.unit)}"
    return [el("span", what.text), el("span", numbers, class_="soft")]


def _against_start(one: Comparison) -> Html:
    parts = []
    for sign, kind, names in (("✓", "better", one.better), ("✗", "worse", one.worse)):
        if names:
            texts = listed(lower(METRICS[name].text) for name in names)
            parts.append(el("dd", el("b", f"{sign} {kind}", class_=kind), f" at {texts}"))
    if not parts:
        parts.append(el("dd", f"No clear difference at any of {len(one.unclear)} figures"))
    return join(el("dt", arm_name(one.first)), *parts)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _clips(rows: list[players.Row], arms: list[str], unfinished: bool) -> Html:
    if not rows:
        return el("p", "There are no clips yet." if unfinished else "This run kept no clips.")
    shown = [player for row in rows for group in row.players.values() for player in group if player.uri]
    takes = max((len(group) for row in rows for group in row.players.values()), default=1)
    text = "Held-out prompts, every arm at its true speed"
    text += f", {takes} takes each. " if takes > 1 else ". "
    text += "A prompt leaves things open, so takes differ from each other and from the teacher's."
    if any(player.shown < player.seconds - 0.01 for player in shown):
        text += " Long clips show their first seconds."
    prompts = []
    for row in rows:
        figures = [_arm_figure(row.prompt, arm, group, arms) for arm, group in row.players.items()]
        prompts.append(
            join(
                el("h3", f"“{row.prompt}”"),
                el("div", *figures, class_="clips", style=f"--arms: {min(len(figures), _ABREAST)}"),
            )
        )
    return join(el("p", text, class_="soft"), el("div", id="playback"), *prompts)


def _arm_figure(prompt: str, arm: str, group: Sequence[players.Player], arms: list[str]) -> Html:
    pictures = []
    for take, player in enumerate(group, start=1):
        if not player.uri:
            pictures.append(el("p", player.problem, class_="none"))
            continue
        which = f", take {take}" if len(group) > 1 else ""
        alt = f"{arm_name(arm)}{which}: “{prompt}”, a loop of {player.shown:.1f} seconds"
        pictures.append(el("img", src=player.uri, alt=alt, width=player.width, height=player.height))
    caption = el("figcaption", dot(arm, arms), arm_name(arm))
    return el("figure", caption, *pictures)


def _curves(record: Record, arms: list[str]) -> Html:
    made = curves.panels(record, arms)
    if not made:
        return el("p", "There are no curves: metrics.jsonl is missing or holds fewer than two steps.")
    intro = "Every curve runs over the student's updates; the discriminator's warm-up lies left of 0. "
    intro += "Thin lines are single steps, thick ones running means."
    logged = [arm for arm in arms if arm in record.arms]
    names = []
    for arm, dash in zip(arms, curves.dashes(arms), strict=True):
        if arm in logged:
            stroke = f"stroke: {colour(arm, arms)}"
            line = el("line", x1=0, y1=6, x2=40, y2=6, style=stroke, stroke_width=3.5, stroke_dasharray=dash or None)
            name = arm_name(arm)
            names.append(el("li", el("svg", line, viewBox="0 0 40 12", aria_hidden="true"), name))
    main = [_panel(panel) for panel in made if not panel.detail]
    more = [_panel(panel) for panel in made if panel.detail]
    return join(
        el("p", intro, class_="soft"),
        el("ul", *names, class_="legend"),
        el("div", *main, class_="curves"),
        el("details", el("summary", f"{len(more)} more curves"), el("div", *more, class_="curves")) if more else "",
    )


def _panel(panel: curves.Panel) -> Html:
    meaning = el("p", panel.meaning) if panel.meaning else ""
    return el("figure", panel.svg, el("figcaption", el("b", panel.title), meaning))


def _gauges(record: Record) -> Html:
    summary = record.summary
    parts: list[Html] = []
    warnings = summary.warnings if summary else []
    if set(warnings) >= set(record.notes) and record.notes:  # all that was said: then nothing stands out
        warnings = [text for text in warnings if text not in record.notes]
    if warnings:
        parts += [el("h3", "Warnings"), *(el("p", _upper(text), class_="banner") for text in warnings)]
    notes = [note for note in record.notes if note not in warnings]
    said = [] if record.notes else _last_gauges(record)
    if said or notes:
        more = [el("li", f"… and {len(notes) - _NOTES} more in metrics.jsonl")] if len(notes) > _NOTES else []
        items = [el("li", _told(text, record)) for text in [*said, *notes[:_NOTES]]]
        parts += [el("h3", "Notes"), el("ul", *items, *more)]
    if summary and summary.probe:
        parts.append(_probe(summary.probe))
    if record.skipped:
        lines = "line" if record.skipped == 1 else "lines"
        parts.append(
            el(
                "p",
                f"{record.skipped} {lines} of metrics.jsonl could not be read and were left out.",
                class_="soft",
            )
        )
    return join(*parts) if parts else el("p", "Nothing: no warnings, no notes, no probe.")


def _told(note: str, record: Record) -> str:
    """Return a note with the arm that it starts with, if any, called as elsewhere on the page."""
    arm, colon, rest = note.partition(":")
    return f"{arm_name(arm)}{colon}{rest}" if arm in record.arms else note


def _last_gauges(record: Record) -> list[str]:
    """Return the main arm's gauges over its last updates, in words."""
    arm = record.arms.get(record.main)
    accuracy = [value for update, value in arm.values.get("pair_accuracy", []) if update > 0][-20:] if arm else []
    if not accuracy:
        return []
    mean = sum(accuracy) / len(accuracy)
    low, high = INFORMATIVE
    place = "below" if mean < low else "above" if mean > high else "in"
    said = f"Over the last {len(accuracy)} updates the discriminator's pair accuracy averaged {mean:.2f}"
    return [f"{said}, {place} the informative band."]


def _probe(probe: dict[str, float]) -> Html:
    rows = []
    for name, auc in sorted(probe.items(), key=lambda item: -item[1]):
        says = (
            "tells teacher from student by itself"
            if auc >= _PROBE_LIMIT
            else "some help"
            if auc >= 0.75
            else "little help"
        )
        kind = "worse" if auc >= _PROBE_LIMIT else None
        name_cell = el("th", name.replace("_", " "), scope="row")
        rows.append(el("tr", name_cell, el("td", f"{auc:.2f}"), el("td", says, class_=kind)))
    head = el("tr", *(el("th", text, scope="col") for text in ("Statistic", "AUC", "To a lazy discriminator")))
    table = el("table", el("thead", head), el("tbody", *rows), class_="plain")
    text = (
        "How well one trivial statistic alone tells teacher clips from the start student's, as the discriminator sees them: "
        "0.5 is guessing, 1 is always. Near 1 the discriminator may learn the container instead of the motion."
    )
    return join(el("h3", "Shortcut probe"), el("p", text, class_="soft"), el("div", table, class_="wide fit"))


def _facts(record: Record) -> Html:
    summary = record.summary
    parts: list[Html] = []
    if summary:
        names = {
            "objective": "Objective",
            "steps": "Student updates",
            "teacher": "Teacher",
            "teacher_clips": "Teacher clips",
            "seed": "Seed",
            "hardware": "Hardware",
            "version": "Understudy",
        }
        facts = summary.facts | {"objective": arm_name(record.main)}
        pairs = [(title, facts[key]) for key, title in names.items() if key in facts]
        stages = sorted(summary.seconds.items(), key=lambda item: item[0] != "total")
        pairs += [(f"Time, {_stage(stage)}", _duration(value)) for stage, value in stages]
        parts.append(el("dl", *(join(el("dt", term), el("dd", value)) for term, value in pairs), class_="facts"))
    if record.config is None:
        parts.append(el("p", "There is no config.yaml."))
    else:
        settings = el("pre", record.config, tabindex="0")
        parts.append(el("details", el("summary", "All settings (config.yaml)"), settings))
    return join(*parts)


def _stage(name: str) -> str:
    return arm_name(name).replace("_", " ") if name != "total" else "whole run"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{figure(seconds, max(seconds, 1))} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
