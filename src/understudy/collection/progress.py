"""How far a collection is, and saying so on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class CollectReport:
    """How far a collection is.

    Attributes:
        total: jobs in all.
        done: clips collected by this call.
        skipped: jobs that were on record already, as a clip or as a rejection.
        rejected: jobs the teacher refused during this call.
        failed: jobs that came to nothing this time, those that are unsure included.
        unsure: of those, jobs of which nobody knows whether the teacher has them.
        unusable: finished files that cannot be read, and are skipped.
        notes: in a line each, which these are, and which clips came but are of no use for training.
        left: jobs that are under way at the teacher, or could not be handed in; the next call goes on with them.
        unfunded: jobs that the budget does not allow to ask for.
        spent: what the teacher has cost in this store so far, jobs under way included.
        currency: what ``spent`` counts in; empty for a teacher that costs nothing.
    """

    total: int
    done: int = 0
    skipped: int = 0
    rejected: int = 0
    failed: int = 0
    unsure: int = 0
    unusable: int = 0
    left: int = 0
    unfunded: int = 0
    spent: float = 0.0
    currency: str = ""
    notes: tuple[str, ...] = ()

    @property
    def settled(self) -> int:
        """Jobs that need no more asking."""
        return self.done + self.skipped + self.rejected


@contextmanager
def console(start: CollectReport) -> Iterator[Callable[[CollectReport], None]]:
    """Show progress on standard error: a bar on a terminal, otherwise a line now and then."""
    begun = time.monotonic()
    if not sys.stderr.isatty():
        shown = begun - _PLAIN_EVERY_SECONDS

        def line(report: CollectReport) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _PLAIN_EVERY_SECONDS or report.settled == report.total:
                shown = now
                print(describe(report, now - begun), file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("collecting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[notes]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=start.total, completed=start.settled, rate="", notes="")

        def bar(report: CollectReport) -> None:
            rate = _rate(report, time.monotonic() - begun)
            progress.update(task, completed=report.settled, rate=rate, notes=", ".join(_notes(report)))

        yield bar


def describe(report: CollectReport, seconds: float) -> str:
    """Return ``report`` as one line, with the rate and the time left after ``seconds`` of collecting."""
    parts = [f"collect: {report.settled} of {report.total}"]
    if report.skipped:
        parts.append(f"{report.skipped} on record already")
    parts += _notes(report)
    if rate := _rate(report, seconds):
        parts.append(rate)
    asked, left = report.done + report.rejected, report.total - report.settled - report.failed - report.unfunded
    if asked and left:
        parts.append(f"about {_duration(seconds / asked * left)} left")
    return ", ".join(parts)


def _notes(report: CollectReport) -> list[str]:
    """Return what is worth saying beside the count."""
    counts = {
        "rejected": report.rejected,
        "failed": report.failed - report.unsure,
        "unsure": report.unsure,
        "left": report.left,
        "unfunded": report.unfunded,
    }
    notes = [f"{count} {what}" for what, count in counts.items() if count]
    return [*notes, f"{report.spent:.2f} {report.currency} spent"] if report.currency else notes


def _rate(report: CollectReport, seconds: float) -> str:
    """Return the clips per second or minute, or nothing before the first clip."""
    if not report.done or seconds <= 0:
        return ""
    rate = report.done / seconds
    return f"{rate:.1f} clips/s" if rate >= 1 else f"{rate * 60:.1f} clips/min"


def _duration(seconds: float) -> str:
    """Return ``seconds`` as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
