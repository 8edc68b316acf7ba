"""What a run says and remembers while it goes: terminal lines, metrics.jsonl, finished evaluations, time per stage."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from understudy.errors import StoreError, shown
from understudy.files import write_json_atomic
from understudy.objectives.gauges import ADVICE, name_regime
from understudy.reading import Unreadable, json_rows, read_json
from understudy.tracking.base import Tracking
from understudy.training.loop import record
from understudy.training.state import StepReport

_SHOWN = ("loss", "pair_accuracy", "drift", "score_spread")
_PLAIN_EVERY_SECONDS = 15.0


class RunLog:
    """The memory of a run folder outside its checkpoints: ``progress.json`` and ``metrics.jsonl``.

    Attributes:
        results: finished evaluations by arm. seconds: time per stage, over all sittings. notes: what gauges said.
        tracking: where steps and evaluations are shown as well; nowhere at first.
    """

    def __init__(self, out: Path) -> None:
        self.metrics = out / "metrics.jsonl"
        self._path = out / "progress.json"
        self._console = Console(stderr=True)
        self.tracking = Tracking(out, {}, self.say)
        kept = _kept(self._path)
        self.results: dict[str, Any] = kept.get("results", {})
        self.seconds: dict[str, float] = kept.get("seconds", {})
        self.notes: list[str] = kept.get("notes", [])
        self.kept: dict[str, Any] = kept.get("kept", {})

    def say(self, text: str) -> None:
        """Print one line for the user."""
        self._console.print(shown(text), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that belongs in the report too; once."""
        if text not in self.notes:
            self.notes.append(text)
            record(self.metrics, {"event": "note", "text": text})
            self._save()
            self.say(text)

    def keep(self, key: str, value: Any) -> None:
        """Remember a JSON value."""
        self.kept[key] = value
        self._save()

    def once(self, name: str, evaluate: Callable[[], dict[str, Any]]) -> None:
        """Evaluate an arm unless that was done in an earlier sitting."""
        if name not in self.results:
            self.results[name] = evaluate()
            record(self.metrics, {"event": "evaluation", "arm": name, "step": 0, "metrics": self.results[name]})
            self._save()
            self.tracking.evaluation(name, self.results[name])

    @contextmanager
    def timed(self, text: str, key: str) -> Iterator[None]:
        """Say what begins, and add its seconds to ``key`` however it ends."""
        self.say(text)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - began
            self._save()

    @contextmanager
    def steps(self, arm: str) -> Iterator[Callable[[StepReport, int], None]]:
        """Show training steps: a bar on a terminal, an occasional line elsewhere."""
        if self._console.is_terminal and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}", markup=False),
            )
            with Progress(*columns, console=self._console) as bar:
                task = bar.add_task(shown(arm), total=None, said="")

                def update(report: StepReport, total: int) -> None:
                    bar.update(task, total=total, completed=report.step + 1, said=_line(report))
                    self.tracking.step(arm)

                yield update
            return
        last = 0.0

        def plain(report: StepReport, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > _PLAIN_EVERY_SECONDS or report.step + 1 == total:
                last = time.monotonic()
                self.say(f"  {arm} {report.step + 1}/{total} {_line(report)}")
            self.tracking.step(arm)

        yield plain

    def rows(self, arm: str) -> list[dict[str, Any]]:
        """Return the recorded steps of an arm."""
        try:
            rows, _ = json_rows(self.metrics)
        except FileNotFoundError:
            return []
        except Unreadable as error:
            raise StoreError(f"{self.metrics} cannot be read ({error}): move it away") from None
        own = [row for row in rows if row.get("arm") == arm and isinstance(row.get("phase"), str) and "step" in row]
        return [{k: v for k, v in row.items() if k in ("arm", "phase") or _number(v)} for row in own]

    def _save(self) -> None:
        write_json_atomic(
            self._path,
            {"results": self.results, "seconds": self.seconds, "notes": self.notes, "kept": self.kept},
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kept(path: Path) -> dict[str, Any]:
    """Return what an earlier sitting left in progress.json."""
    try:
        kept: Any = read_json(path)
    except FileNotFoundError:
        return {}
    except Unreadable as error:
        raise StoreError(f"{path} is damaged ({error}): remove it, finished arms are measured again") from None
    try:
        whole = (
            all(isinstance(one, dict) for one in kept.get("results", {}).values())
            and all(_number(one) for one in kept.get("seconds", {}).values())
            and all(isinstance(one, str) for one in kept.get("notes", []))
            and isinstance(kept.get("notes", []), list)
            and isinstance(kept.get("kept", {}), dict)
        )
    except (AttributeError, TypeError):  # of another form altogether
        whole = False
    if not whole:
        raise StoreError(f"{path} is damaged (it is of another form): remove it, finished arms are measured again")
    return dict(kept)


def verdicts(rows: Sequence[dict[str, Any]], paired: bool = True) -> list[str]:
    """Say in words what the gauges of an arm's recorded steps mean; empty when nothing stands out.

    ``paired``: whether its discriminator's loss is the paired one.
    """
    said = []
    warm = [row["pair_accuracy"] for row in rows if row["phase"] == "warm-up" and "pair_accuracy" in row][-20:]
    if warm:
        said.append(f"after warm-up the discriminator ranks {sum(warm) / len(warm):.0%} of pairs rightly")
    regime, why = name_regime(rows, paired)
    if regime in ADVICE:
        said.append(f"{regime}: {why}; {ADVICE[regime]}")
    for name in ("corr_brightness", "corr_sharpness"):
        values = [row[name] for row in rows if row.get(name) is not None]
        mean = sum(values) / len(values) if values else 0.0
        if abs(mean) > 0.5:
            said.append(
                f"rewards follow {name.removeprefix('corr_')} (correlation {mean:+.2f}): look for picture hacking"
            )
    return said


def _line(report: StepReport) -> str:
    parts = [f"{name} {report.values[name]:.3g}" for name in _SHOWN if name in report.values]
    return f"{report.phase} " + ", ".join(parts)
