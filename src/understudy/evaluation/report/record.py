"""What a run left in its folder, read so that nothing missing or torn gets in the way."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from understudy.errors import UnderstudyError
from understudy.evaluation.report.labels import label
from understudy.reading import Unreadable, line_object, parse_json, read_limited

_LARGEST: Final = 1 << 30  # bytes of a record that a page is made of
_NOT_CURVES: Final = {"step", "phase", "arm", "event"}


@dataclass(frozen=True)
class Reading:
    """A measured mean; the ends of its 95 % interval where known, and how many clips it is over."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 0


Readings = dict[str, Reading]


@dataclass(frozen=True)
class Summary:
    """``summary.json``: what the run measured and what it was. Fields that the file lacks are empty."""

    start: Readings
    end: Readings
    floor: Readings
    arms: dict[str, Readings]
    seconds: dict[str, float]
    probe: dict[str, float]
    warnings: list[str]
    facts: dict[str, str]
    """Name, objective, steps, seed, version, hardware, teacher, teacher_clips: as text."""


@dataclass
class Arm:
    """The curves of one arm against the student's updates; the discriminator's warm-up lies at 0 and below.

    Attributes:
        values: by figure, (updates, value).
        measured: by metric, (updates, reading).
        warmup: steps before the student's first update.
        steps: steps logged.
    """

    values: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    measured: dict[str, list[tuple[int, Reading]]] = field(default_factory=dict)
    warmup: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Record:
    """A run folder.

    Attributes:
        folder: where it is.
        main: the arm that the run is about; its final readings are ``summary.end``.
        arms: by name, what was logged.
        notes: what gauges and probes said, in order.
        summary: None when the run has not finished; ``problem`` then says what is missing.
        config: the text of config.yaml, None when it is missing.
        skipped: lines of metrics.jsonl that could not be read.
    """

    folder: Path
    main: str
    arms: dict[str, Arm]
    notes: list[str]
    summary: Summary | None
    problem: str
    config: str | None
    skipped: int


def read_record(folder: Path) -> Record:
    """Read a run folder.

    Raises:
        UnderstudyError: it is missing, or holds nothing of a run.
    """
    if not folder.is_dir():
        raise UnderstudyError(f"run folder {folder} does not exist; give the folder that `understudy train` wrote")
    config, log, stored = (_text(folder / name) for name in ("config.yaml", "metrics.jsonl", "summary.json"))
    if config is None and log is None and stored is None:
        raise UnderstudyError(f"{folder} is not a run folder: it has no config.yaml, metrics.jsonl or summary.json")
    rows, skipped = _rows(log or "")
    summary, problem = _summary(stored)
    arms = _arms(rows)
    main = summary.facts.get("objective", "") if summary else ""
    if not main:  # unfinished: a run trains its own arm last
        trained = [name for name, arm in arms.items() if arm.steps]
        main = "afd" if "afd" in trained or not trained else trained[-1]
    notes = list(dict.fromkeys(_note(row) for row in rows if row.get("event") == "note"))
    return Record(folder, main, arms, [note for note in notes if note], summary, problem, config, skipped)


def reading(value: object) -> Reading | None:
    """Return the reading in a JSON value (an object with a mean, or a number); None when it holds no number."""
    if not isinstance(value, Mapping):
        mean = number(value)
        return None if mean is None else Reading(mean)
    mean = number(value.get("mean"))
    if mean is None:
        return None
    low, high, n = (number(value.get(key)) for key in ("low", "high", "n"))
    return Reading(mean, low, high, int(n or 0))


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def readings(value: object) -> Readings:
    """Return the readings by metric in a JSON object, without those that hold no number."""
    found = {str(name): reading(one) for name, one in _items(value)}
    return {name: one for name, one in found.items() if one is not None}


def _items(value: object) -> Iterator[tuple[str, object]]:
    return iter(value.items()) if isinstance(value, Mapping) else iter(())


def _text(path: Path) -> str | None:
    try:
        return read_limited(path, _LARGEST).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise UnderstudyError(f"cannot read {path}: {error}") from None


def _rows(text: str) -> tuple[list[dict[str, object]], int]:
    """Return the JSON objects in ``text``, one a line, and how many lines were none (a killed run tears its last)."""
    rows, skipped = [], 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        row = line_object(line.encode())
        if row is not None:
            rows.append(row)
        else:
            skipped += 1
    return rows, skipped


def _note(row: dict[str, object]) -> str:
    text = str(row.get("text") or "").strip()
    step = number(row.get("step"))
    return f"Step {step:.0f}: {text}" if text and step is not None else text


def _arms(rows: list[dict[str, object]]) -> dict[str, Arm]:
    # A resumed run repeats the steps after its last checkpoint: the later line counts.
    logged: dict[str, dict[int, dict[str, object]]] = {}
    measured: dict[str, dict[int, Readings]] = {}
    for row in rows:
        step = number(row.get("step"))
        if step is None or row.get("event") not in (None, "evaluation"):
            continue
        arm = str(row.get("arm") or "afd")
        if row.get("event") == "evaluation":
            measured.setdefault(arm, {})[int(step)] = readings(row.get("metrics"))
        else:
            logged.setdefault(arm, {})[int(step)] = row
    arms = {}
    for name in dict.fromkeys([*logged, *measured]):
        arms[name] = arm_ = Arm()
        steps = logged.get(name, {})
        arm_.steps, arm_.warmup = len(steps), _warmup(steps)
        for step, row in sorted(steps.items()):
            for key, value in row.items():
                found = None if key in _NOT_CURVES else number(value)
                if found is not None:
                    arm_.values.setdefault(key, []).append((step - arm_.warmup + 1, found))
        for step, found_readings in sorted(measured.get(name, {}).items()):
            for metric, one in found_readings.items():
                arm_.measured.setdefault(metric, []).append((max(0, step - arm_.warmup), one))
    return arms


def _warmup(steps: dict[int, dict[str, object]]) -> int:
    """Return the number of the step that is the student's first update."""
    waiting = [step for step, row in steps.items() if row.get("phase") == "warm-up"]
    if waiting:
        return max(waiting) + 1
    return 1 if steps and min(steps) == 1 else 0


def _summary(text: str | None) -> tuple[Summary | None, str]:
    if text is None:
        return None, "it has no summary.json"
    try:
        value = parse_json(text)
    except Unreadable:
        value = None
    if not isinstance(value, dict):
        return None, "its summary.json cannot be read"
    names = ("name", "objective", "steps", "seed", "version", "hardware", "teacher", "teacher_clips")
    facts = {name: str(value[name]) for name in names if value.get(name) is not None}
    seconds = {name: number(one) for name, one in _items(value.get("seconds"))}
    probe = {name: number(one) for name, one in _items(value.get("probe"))}
    told = value.get("warnings")
    summary = Summary(
        start=readings(value.get("start")),
        end=readings(value.get("end")),
        floor=_floor(value),
        arms={str(arm): readings(one) for arm, one in _items(value.get("arms"))},
        seconds={name: one for name, one in seconds.items() if one is not None},
        probe={name: one for name, one in probe.items() if one is not None},
        warnings=[str(one) for one in told if one] if isinstance(told, list) else [],
        facts=facts,
    )
    return summary, ""


def _floor(value: dict[str, object]) -> Readings:
    """Return the teacher's own readings; the floor of the random-feature distance has a name of its own.

    Without its appearance: that is judged against the student's look, which a teacher need not have.
    """
    found = readings(value.get("teacher_floor"))
    floor = {name: one for name, one in found.items() if label(name).group != "appearance"}
    for place in (floor, readings(value.get("end")), readings(value.get("start"))):
        if "rfd_floor" in place:
            floor["rfd"] = place["rfd_floor"]
            break
    return floor
