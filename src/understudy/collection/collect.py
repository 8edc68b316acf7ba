"""Asking a teacher for every clip that is still wanted; stopped at any moment, it goes on where it was."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from understudy.collection.store import ClipStore, record_key
from understudy.errors import ClipError, ConfigError, PromptRejected, TeacherError
from understudy.files import sha256_hex
from understudy.ingest.guard import probe_bytes
from understudy.prompts import normalise
from understudy.teachers.base import ClipParams, Teacher

_MAX_PER_PROMPT = 2**20
_PLAIN_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One clip to ask for.

    Attributes:
        prompt: what to show.
        seed: which of the teacher's takes on it, 0..2**31-1.
    """

    prompt: str
    seed: int


@dataclass(frozen=True)
class CollectReport:
    """How far a collection is.

    Attributes:
        total: jobs in all.
        done: clips collected by this call.
        skipped: jobs that were on record already, as a clip or as a rejection.
        rejected: jobs the teacher refused during this call.
    """

    total: int
    done: int = 0
    skipped: int = 0
    rejected: int = 0

    @property
    def settled(self) -> int:
        """Jobs that need no more asking."""
        return self.done + self.skipped + self.rejected


def plan_jobs(prompts: Sequence[str], per_prompt: int, seed: int) -> list[Job]:
    """Return ``per_prompt`` jobs for each prompt; a prompt given twice counts once.

    A job's seed depends on ``seed``, the prompt and its index alone, so adding or reordering prompts, or
    asking for more of each, leaves the other jobs as they were. The seeds of one prompt are consecutive.
    All first takes come before all second takes, so a collection stopped early still covers the prompts.

    Raises:
        ConfigError: there are no prompts, or ``per_prompt`` is out of range.
    """
    if not 1 <= per_prompt <= _MAX_PER_PROMPT:
        raise ConfigError(f"clips per prompt must lie in 1..{_MAX_PER_PROMPT}, got {per_prompt}")
    unique = list(dict.fromkeys(normalise(prompt) for prompt in prompts))
    if not unique:
        raise ConfigError("there are no prompts to collect clips for; give at least one")
    # Some teachers take seeds as 32-bit signed numbers.
    first = {
        prompt: int(sha256_hex(f"{seed}\n{prompt}".encode())[:16], 16) % (2**31 - _MAX_PER_PROMPT) for prompt in unique
    }
    return [Job(prompt, first[prompt] + index) for index in range(per_prompt) for prompt in unique]


def collect(
    teacher: Teacher,
    jobs: Sequence[Job],
    store: ClipStore,
    params: ClipParams | None = None,
    on_progress: Callable[[CollectReport], None] | None = None,
) -> CollectReport:
    """Ask ``teacher`` for every job that ``store`` has no record of, one after the other.

    Args:
        teacher: whom to ask.
        jobs: what to ask for.
        store: where clips and rejections go, each as soon as it arrives.
        params: the clip wanted; None leaves all of it to the teacher.
        on_progress: told the report after every job; None shows progress on standard error.

    Raises:
        TeacherError: the teacher failed, or sent an unusable clip twice. What came before is kept.
        StoreError: the store cannot be written.
        KeyboardInterrupt: passed on with a message that says how many jobs are settled.
    """
    params = ClipParams() if params is None else params
    asked = {name: value for name, value in asdict(params).items() if value is not None}
    report = CollectReport(total=len(jobs))
    keys = [record_key(teacher.name, job.prompt, asked, job.seed) for job in jobs]
    pending = [(job, key) for job, key in zip(jobs, keys, strict=True) if store.get(key) is None]
    report = replace(report, skipped=len(jobs) - len(pending))
    try:
        with _console(report) if on_progress is None else _quiet(on_progress) as show:
            show(report)
            for job, key in pending:
                report = _settle(teacher, job, key, store, params, asked, report)
                show(report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped: {report.settled} of {report.total} jobs are settled and kept; run it again to go on"
        ) from None
    return report


def _settle(
    teacher: Teacher,
    job: Job,
    key: str,
    store: ClipStore,
    params: ClipParams,
    asked: dict[str, object],
    report: CollectReport,
) -> CollectReport:
    """Bring one job on record and return the report that counts it."""
    if store.get(key) is not None:  # a job given twice
        return replace(report, skipped=report.skipped + 1)
    try:
        data, received = _ask(teacher, job, params)
    except PromptRejected as error:
        store.reject(
            teacher=teacher.name,
            prompt=job.prompt,
            asked=asked,
            seed=job.seed,
            terms=teacher.terms,
            reason=str(error),
        )
        return replace(report, rejected=report.rejected + 1)
    store.add(
        teacher=teacher.name,
        prompt=job.prompt,
        asked=asked,
        seed=job.seed,
        terms=teacher.terms,
        data=data,
        received=received,
    )
    return replace(report, done=report.done + 1)


def _ask(teacher: Teacher, job: Job, params: ClipParams) -> tuple[bytes, dict[str, object]]:
    """Return a clip that decodes and what it is, asking a second time when the first does not decode."""
    problem: ClipError | None = None
    for _ in range(2):
        data = teacher.generate(job.prompt, job.seed, params)
        try:
            return data, probe_bytes(data, "the clip that arrived").to_json()
        except ClipError as error:
            problem = error
    raise TeacherError(
        f"teacher {teacher.name} sent an unusable clip twice for prompt {job.prompt!r} (seed {job.seed}): {problem}"
    )


@contextmanager
def _quiet(on_progress: Callable[[CollectReport], None]) -> Iterator[Callable[[CollectReport], None]]:
    """Show progress by the caller's own means."""
    yield on_progress


@contextmanager
def _console(start: CollectReport) -> Iterator[Callable[[CollectReport], None]]:
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
        TextColumn("{task.fields[rejected]} rejected"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=start.total, completed=start.settled, rate="", rejected=0)

        def bar(report: CollectReport) -> None:
            rate = _rate(report, time.monotonic() - begun)
            progress.update(task, completed=report.settled, rate=rate, rejected=report.rejected)

        yield bar


def describe(report: CollectReport, seconds: float) -> str:
    """Return ``report`` as one line, with the rate and the time left after ``seconds`` of collecting."""
    parts = [f"collect: {report.settled} of {report.total}"]
    if report.skipped:
        parts.append(f"{report.skipped} on record already")
    if report.rejected:
        parts.append(f"{report.rejected} rejected")
    if rate := _rate(report, seconds):
        parts.append(rate)
    asked, left = report.done + report.rejected, report.total - report.settled
    if asked and left:
        parts.append(f"about {_duration(seconds / asked * left)} left")
    return ", ".join(parts)


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
