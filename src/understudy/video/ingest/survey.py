"""What is said of a set of clips before they are trained on: which are of no use, and what a discriminator could win by.

Works on what was received of each clip (`ingest.facts.VideoFacts` as JSON), so that nothing is decoded again.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from understudy.video.clips import ClipForm, Fit, is_long_enough
from understudy.video.display import HDR, UNTAGGED

_KEPT: Final = 0.9  # share of the picture below which a crop is said
_UNEVEN: Final = 0.075  # of a step, RMS: less is not told apart by the unevenness of the motion (benchmarks/rhythm.py)
_LEAST_FRAMES: Final = 6  # that a discriminator looks at
_SHOWN: Final = 3  # of many clips of one sort

Received = Mapping[str, Any]


@dataclass(frozen=True)
class Remark:
    """One line about a set of clips.

    Attributes:
        ok: True: fine; None: a warning; False: these clips cannot be trained on.
        what: what it is about.
        text: what was found, and what to do about it.
    """

    ok: bool | None
    what: str
    text: str


def objection(received: Received, form: ClipForm | None) -> str | None:
    """Say why a clip cannot be trained on by a student that draws ``form`` (None: not known yet), or None."""
    if received.get("hdr"):
        return f"is {HDR} (PQ or HLG); export it in standard dynamic range (SDR, BT.709)"
    seconds = played(received)
    if form is None or seconds is None or is_long_enough(seconds, form.fps, form.frames):
        return None
    return f"is too short: it plays {seconds:.2f} s, the student draws {form.frames} frames at {form.fps:g} fps"


def played(received: Received) -> float | None:
    """Return how many seconds a clip plays, or None when its record does not say."""
    frames, fps, seconds = (received.get(name) for name in ("frames", "fps", "seconds"))
    if isinstance(seconds, int | float) and math.isfinite(seconds):
        return float(seconds)
    known = isinstance(frames, int | float) and isinstance(fps, int | float) and fps
    return float(frames) / float(fps) if known else None  # type: ignore[arg-type]


def too_short(frames: int, fps: float, form: ClipForm) -> str | None:
    """Say why clips of ``frames`` at ``fps``, which are to be asked for, would be too short for ``form``, or None."""
    if is_long_enough(frames / fps, form.fps, form.frames):
        return None
    least = math.ceil((form.frames - 1) / form.fps * fps - 1e-6)
    return (
        f"{frames} frames at {fps:g} fps play {frames / fps:.2f} s, too short for the student's {form.frames} frames at "
        f"{form.fps:g} fps; ask for {least} or more"
    )


def common_step(rates: Iterable[float], form: ClipForm) -> int:
    """Return every how many of the student's frames clips of all ``rates`` move evenly: 1 where they do anyway.

    Clips of 24 frames/s have every second frame of 16 at the very time; those of 25 and 30 have every fourth nearly so,
    where measuring finds no rhythm any more (benchmarks/results/rhythm.md). 1 as well where too few frames would be left.
    """
    rates = list(rates)
    for step in range(1, (form.frames - 1) // (_LEAST_FRAMES - 1) + 1):
        if all(_unevenness(_source_steps(fps, form, step)) <= _UNEVEN for fps in rates):
            return step
    return 1


def _source_steps(fps: float, form: ClipForm, step: int = 1) -> list[int]:
    """Return how many frames of a clip lie between those nearest to every ``step``-th of the student's."""
    taken = [math.floor(k * fps / form.fps + 0.5 + 1e-9) for k in range(0, form.frames, step)]
    return [after - before for before, after in pairwise(taken)]


def _unevenness(steps: Sequence[int]) -> float:
    """Return by what share of their mean steps differ from it (RMS)."""
    mean = sum(steps) / len(steps) if steps else 0.0
    return math.sqrt(sum((step / mean - 1) ** 2 for step in steps) / len(steps)) if mean else 0.0


def steady_rates(clips: Iterable[Received]) -> list[float]:
    """Return the different constant rates of clips, in frames per second; containers round them to a hundredth."""
    return sorted({round(float(one["fps"]), 1) for one in clips if one.get("fps") and not one.get("variable_rate")})


def rhythm(fps: float, form: ClipForm) -> str | None:
    """Say in which steps clips of rate ``fps`` are taken at the student's rate, or None when they are even."""
    steps = _source_steps(fps, form)
    if _unevenness(steps) <= _UNEVEN:
        return None
    shown = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
    return f"{fps:g} to {form.fps:g} frames/s steps {shown} source frames"


def consequence(rates: Sequence[float], form: ClipForm) -> str:
    """Say what follows where `rhythm` has something to say of one of the ``rates``."""
    step = common_step(rates, form)
    cure = "clips at a multiple of the student's rate have none"
    if step > 1:
        return (
            f"so that a discriminator cannot win by that rhythm, it looks at one frame in {step} of both sides "
            f"({form.fps / step:g}/s, discriminator.every); {cure}"
        )
    return f"a discriminator can win by that rhythm alone (benchmarks/results/rhythm.md); {cure}"


def survey(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit = "crop") -> list[Remark]:
    """Return what is to be said of (name, received) pairs: nothing of what is as it should be but colours."""
    clips = [(name, received) for name, received in clips if received]
    looks: tuple[Callable[[Sequence[tuple[str, Received]], ClipForm | None, Fit], Remark | None], ...] = (
        _hdr, _interlaced, _colours, _rates, _shapes,
    )  # fmt: skip
    return [remark for look in looks if (remark := look(clips, form, fit)) is not None] if clips else []


def shortlist(names: Sequence[str], between: str = ", ") -> str:
    """Return the first few of ``names``, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more


def _hdr(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit) -> Remark | None:
    found = [name for name, received in clips if received.get("hdr")]
    if not found:
        return None
    text = f"{len(found)} of {len(clips)} clips are {HDR} and are left out: {shortlist(found)}; export them in SDR"
    return Remark(False, "HDR", text)


def _interlaced(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit) -> Remark | None:
    found = [name for name, received in clips if received.get("interlaced")]
    if not found:
        return None
    return Remark(
        None,
        "interlaced",
        f"{len(found)} of {len(clips)} clips hold two fields a frame, which shows as combs where things move, and a "
        f"discriminator can win by them: {shortlist(found)}; deinterlace them first",
    )


def _colours(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit) -> Remark | None:
    tags = Counter(str(received["colour"]) for _, received in clips if received.get("colour") not in (None, "rgb"))
    if not tags[UNTAGGED]:
        return None
    assumed = f"{tags[UNTAGGED]} of {len(clips)} clips do not say how their colours are coded: read as BT.601"
    tagged = [f"{count} are tagged {tag}" for tag, count in sorted(tags.items()) if tag != UNTAGGED]
    if not tagged:
        return Remark(True, "colours", assumed)
    return Remark(
        None,
        "colours",
        f"{assumed}; {', '.join(tagged)}: if both came from one source, one part is read in wrong colours, and a "
        "discriminator can win by them; export all in one way, with tags",
    )


def _rates(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit) -> Remark | None:
    if form is None:
        return None
    rates = steady_rates(received for _, received in clips)
    uneven = [said for rate in rates if (said := rhythm(rate, form)) is not None]
    if not uneven:
        return None
    said = "; ".join(uneven[:_SHOWN])
    return Remark(None, "frame rate", f"{said}; {consequence(rates, form)}")


def _shapes(clips: Sequence[tuple[str, Received]], form: ClipForm | None, fit: Fit) -> Remark | None:
    if form is None:
        return None
    wanted, other = form.width / form.height, []
    for name, received in clips:
        if received.get("width") and received.get("height"):
            aspect = received["width"] / received["height"]
            other.append((min(aspect / wanted, wanted / aspect), name, received))
    if not other or (least := min(other, key=lambda one: one[0]))[0] >= _KEPT:
        return None
    share, _, received = least
    count = sum(one[0] < _KEPT for one in other)
    what = {
        "crop": f"cropped to the middle {share:.0%} at worst (clips.fit: crop)",
        "pad": f"shown between black bars, {1 - share:.0%} of the picture at worst (clips.fit: pad)",
        "stretch": f"pulled out of shape, {1 / share:.2g} times at worst (clips.fit: stretch)",
    }[fit]
    return Remark(
        None,
        "aspect ratio",
        f"{count} of {len(clips)} clips have another than the student's {form.width}x{form.height}, such as "
        f"{received['width']}x{received['height']}: {what}",
    )
