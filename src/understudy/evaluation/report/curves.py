"""Training curves as small SVG pictures that take the page's colours, in light and in dark."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from understudy.evaluation.report.labels import METRICS, arm_name, label
from understudy.evaluation.report.markup import Html
from understudy.evaluation.report.record import Arm, Reading, Record
from understudy.evaluation.report.verdict import figure
from understudy.objectives.gauges import INFORMATIVE

DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
"""Line styles by place of the arm, so that colour is never the only difference."""

_POINTS: Final = 300  # per line
# Stand-ins that are replaced by the page's own colours once the picture is drawn.
_INK, _FAINT, _BAND = "#a10001", "#a10002", "#a10003"
_ARM: Final = tuple(f"#a1001{n}" for n in range(len(DASHES)))
_COLOURS: Final = {_INK: "var(--ink)", _FAINT: "var(--grid)", _BAND: "var(--band)"} | {
    colour: f"var(--arm-{n})" for n, colour in enumerate(_ARM)
}

_Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Panel:
    """One small picture: what it shows, in words, and as SVG."""

    title: str
    meaning: str
    svg: Html
    detail: bool


_FIGURES: Final[dict[str, tuple[str, str]]] = {
    "pair_accuracy": (
        "Pair accuracy",
        "Share of pairs in which the discriminator ranks the teacher's clip first. In the band its verdicts inform; "
        "at 0.5 it guesses, at 1 it has nothing left to rank.",
    ),
    "margin": ("Margin", "Mean score of the teacher's clip less the student's."),
    "score_spread": (
        "Score spread",
        "How differently the clips of one prompt are scored: at 0 there is no signal.",
    ),
    "saturated": ("Saturated weights", "Share of clips whose weight is at its limit, 0 or 1."),
    "drift": (
        "Distance from the prior",
        "Mean squared difference from the prior policy: how far the student has gone.",
    ),
    "loss": (
        "Loss",
        "The arm's own objective: heights do not compare between arms.",
    ),
    "corr_brightness": (
        "Reward follows brightness",
        "Correlation in a group; far from 0 the picture is ranked, not motion.",
    ),
    "corr_sharpness": (
        "Reward follows sharpness",
        "Correlation in a group; far from 0 the picture is ranked, not motion.",
    ),
}
_DETAILS: Final[dict[str, tuple[str, str]]] = {
    "grad_norm": ("Gradient norm", "Before clipping."),
    "d_loss": ("Discriminator loss", "Paired Bradley-Terry loss; 0.69 is guessing."),
    "d_penalty": ("Discriminator penalty", "Squared slope of its score (R1 and R2)."),
    "seconds": ("Seconds per step", "Wall-clock time."),
}
_SHARES: Final = {"pair_accuracy", "saturated"}


def panels(record: Record, arms: list[str]) -> list[Panel]:
    """Draw everything that was logged; ``arms`` gives colours and line styles by place."""
    made = [_measured(record, arms, metric) for metric in _measured_metrics(record)]
    keys = {key for arm in record.arms.values() for key in arm.values}
    extra = {key: (label(key).text, "") for key in sorted(keys - set(_FIGURES) - set(_DETAILS))}
    for key, (title, meaning) in (_FIGURES | _DETAILS | extra).items():
        having = [arm for arm in arms if len(_values(record, arm, key)) > 1]
        for group in [[arm] for arm in having] if key == "loss" else [having] if having else []:
            shown = f"{title}, {arm_name(group[0])}" if key == "loss" and len(having) > 1 else title
            made.append(_logged(record, arms, key, group, shown, meaning))
    return made


def _values(record: Record, arm: str, key: str) -> _Points:
    return record.arms[arm].values.get(key, []) if arm in record.arms else []


def _measured_metrics(record: Record) -> list[str]:
    """Return the metrics of evaluation lines that make a curve, those of the headline first."""
    names = {name for arm in record.arms.values() for name, points in arm.measured.items() if _several(points)}
    known = [name for name in METRICS if name in names]
    unknown = sorted(names - set(METRICS) - {"rfd_floor"})
    return sorted(known, key=lambda name: not METRICS[name].headline) + unknown


def _several(points: list[tuple[int, Reading]]) -> bool:
    return len({x for x, _ in points if x > 0}) > 0


def _logged(record: Record, arms: list[str], key: str, group: list[str], title: str, meaning: str) -> Panel:
    picture, axes = _axes()
    ends = []
    warm = max((record.arms[arm].warmup for arm in group if _values(record, arm, key)[0][0] <= 0), default=0)
    if warm > 1:
        axes.axvspan(1 - warm, 0.5, color=_FAINT, alpha=0.45, lw=0)
        _remark(axes, "warm-up", (1 - warm, 1), (2, -2), ("data", "axes fraction"), va="top")
    if key == "pair_accuracy":
        axes.axhspan(*INFORMATIVE, color=_BAND, alpha=0.2, lw=0)
        _remark(axes, "informative", (1, INFORMATIVE[0]), (-2, 2), ("axes fraction", "data"), ha="right")
        axes.axhline(0.5, color=_INK, lw=0.6, alpha=0.5)
    if key.startswith("corr_"):
        axes.axhline(0, color=_INK, lw=0.6, alpha=0.5)
        axes.set_ylim(-1, 1)
    for arm in group:
        n = arms.index(arm) % len(_ARM)
        points = _values(record, arm, key)
        x, raw, smooth = _smoothed(points)
        axes.plot(x, raw, color=_ARM[n], lw=0.7, alpha=0.3)
        axes.plot(x, smooth, color=_ARM[n], lw=1.7, ls=DASHES[n])
        ends.append(f"{arm_name(arm)} from {figure(float(smooth[0]))} to {figure(float(smooth[-1]))}")
    if key in _SHARES:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.5, 1])
    return Panel(
        title,
        meaning,
        _svg(picture, f"{title}: {', '.join(ends)}", "log", key, *group),
        key not in _FIGURES or (key == "loss" and group != [record.main]),
    )


def _measured(record: Record, arms: list[str], metric: str) -> Panel:
    picture, axes = _axes()
    what = label(metric)
    ends = []
    start = record.summary.start.get(metric) if record.summary else None
    floor = record.summary.floor.get(metric) if record.summary else None
    for arm in arms:
        points = list(record.arms.get(arm, Arm()).measured.get(metric, []))
        if not points or not _several(points):
            continue
        if start and points[0][0] > 0:
            points.insert(0, (0, start))
        n = arms.index(arm) % len(_ARM)
        x = [at for at, _ in points]
        low = [one.mean if one.low is None else one.low for _, one in points]
        high = [one.mean if one.high is None else one.high for _, one in points]
        axes.fill_between(x, low, high, color=_ARM[n], alpha=0.15, lw=0)
        axes.plot(x, [one.mean for _, one in points], color=_ARM[n], lw=1.7, ls=DASHES[n], marker="o", ms=3)
        ends.append(f"{arm_name(arm)} from {figure(points[0][1].mean)} to {figure(points[-1][1].mean)}")
    if floor:
        axes.axhline(floor.mean, color=_INK, lw=0.8, ls=(0, (2, 2)), alpha=0.8)
        _remark(axes, "teacher", (1, floor.mean), (-2, 2), ("axes fraction", "data"), ha="right")
    title = f"{what.text} ({what.unit})" if what.unit else what.text
    meaning = what.meaning if what.headline else ""
    alternative = f"{title} on held-out prompts: {', '.join(ends)}"
    return Panel(
        title,
        meaning,
        _svg(picture, alternative, "eval", metric, *arms),
        metric in METRICS and not what.headline,
    )


def _smoothed(points: _Points) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (updates, values, running means), binned to at most `_POINTS`; the mean never crosses update 0."""
    x, y = np.array(points, dtype=np.float64).T
    if len(x) > _POINTS:
        bins = np.array_split(np.arange(len(x)), _POINTS)
        x, y = (np.array([v[part].mean() for part in bins]) for v in (x, y))
    reach = max(2, len(x) // 25)
    smooth = np.empty_like(y)
    for side in (x <= 0, x > 0):
        part = y[side]
        total = np.concatenate([[0.0], np.cumsum(part)])
        at = np.arange(len(part))
        first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(part))
        smooth[side] = (total[last] - total[first]) / (last - first)
    return x, y, smooth


def _remark(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    shift: tuple[float, float],
    place: tuple[str, str],
    ha: Literal["left", "right"] = "left",
    va: Literal["baseline", "top"] = "baseline",
) -> None:
    """Write a small word beside ``at``, given in the coordinates that ``place`` names for x and y."""
    axes.annotate(text, at, shift, place, "offset points", ha=ha, va=va, fontsize=7.5, color=_INK, alpha=0.8)


def _axes() -> tuple[Figure, Axes]:
    picture = Figure(figsize=(4.1, 2.2))
    FigureCanvasSVG(picture)
    axes = picture.add_axes((0.125, 0.11, 0.855, 0.81))
    picture.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)
    axes.spines[["bottom", "left"]].set_alpha(0.4)
    axes.tick_params(colors=_INK, labelsize=8.5, length=0, pad=3)
    axes.grid(axis="y", color=_FAINT, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.yaxis.get_offset_text().set(color=_INK, size=8.5)
    axes.set_axisbelow(True)
    return picture, axes


def _svg(picture: Figure, alternative: str, *salt: str) -> Html:
    """Return the picture as an inline element: page fonts and colours, no ids that another picture may have too."""
    buffer = io.StringIO()
    prefix = re.sub(r"\W+", "-", "-".join(salt))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        picture.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'((?:\bid|xlink:href)="#?|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font: (?:[a-z]+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\bfont-family: [^;\"]*;? ?", "", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">") + 1 :]
    title = html.escape(alternative)
    return Html(
        f'<svg {box.group() if box else ""} role="img" aria-label="{title}" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )


def dashes(arms: Sequence[str]) -> list[str]:
    """Return the SVG dash pattern of each arm in the curves, "" for a solid line."""
    styles = [DASHES[n % len(DASHES)] for n in range(len(arms))]
    return ["" if isinstance(style, str) else " ".join(f"{2 * length:g}" for length in style[1]) for style in styles]
