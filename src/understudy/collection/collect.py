"""Asking a teacher for every clip that is still wanted; stopped at any moment, it goes on where it was."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from understudy.collection.crew import Crew
from understudy.collection.interrupts import Interrupts
from understudy.collection.ledger import Budget, JobRow, Ledger
from understudy.collection.pace import Pace
from understudy.collection.policy import Objection, Outcome, Policy
from understudy.collection.progress import CollectReport, console, describe
from understudy.collection.store import ClipStore, record_key
from understudy.collection.worker import Worker
from understudy.errors import CollectionIncomplete, ConfigError, TeacherStopped
from understudy.files import sha256_hex
from understudy.prompts import normalise
from understudy.teachers.base import ClipParams, JobTeacher, Teacher, Terms, as_jobs
from understudy.video.ingest.guard import start_guards

__all__ = ["CollectReport", "Estimate", "Job", "Policy", "collect", "describe", "permitted", "plan_jobs"]

_MAX_PER_PROMPT = 2**20

_Show = Callable[[CollectReport], None]


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
class Estimate:
    """What a collection may cost, for a user to approve before the first request.

    Attributes:
        teacher: its name.
        clips: clips to be asked for.
        price: of one clip; None when nobody knows.
        currency: what prices count in.
        spent: what the teacher has cost in this store so far.
        budget: the limits that apply.
    """

    teacher: str
    clips: int
    price: float | None
    currency: str
    spent: float
    budget: Budget

    def __str__(self) -> str:
        """Return it as one line."""
        parts = [f"{self.clips} clips to ask {self.teacher} for"]
        if self.price is None:
            parts.append("at a price that is not known (set teacher.price_per_second or teacher.price_per_clip)")
        else:
            parts.append(
                f"at about {self.price:.4g} {self.currency} each: {self.clips * self.price:.2f} {self.currency}"
            )
        if self.spent:
            parts.append(f"{self.spent:.2f} {self.currency} spent before")
        if self.budget.money is not None:
            parts.append(f"stopping before {self.budget.money:.2f} {self.currency} in all")
        if self.budget.clips is not None:
            parts.append(f"stopping after {self.budget.clips} jobs in all")
        return ", ".join(parts)


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


def permitted(terms: str | Terms, permission: str = "") -> str:
    """Return what records say about the terms.

    Raises:
        ConfigError: the terms forbid training on the outputs, or nobody has read them, and there is no ``permission``
            in words.
    """
    if isinstance(terms, str):
        return terms
    said = " ".join(permission.split())
    if terms.training in ("no", "unknown") and len(said.split()) < 3:
        short = f" ({said!r} is too short)" if said else ""
        raise ConfigError(
            f"{terms}; this teacher is not asked unless you state, in a sentence{short}, what permits you to train on its "
            "outputs: collection.permission (or --permission), which is written into every record"
        )
    return f"{terms}; the user states: {said}" if said else str(terms)


def collect(
    teacher: Teacher | JobTeacher,
    jobs: Sequence[Job],
    store: ClipStore,
    params: ClipParams | None = None,
    on_progress: _Show | None = None,
    policy: Policy | None = None,
    permission: str = "",
    approve: Callable[[Estimate], None] | None = None,
    objection: Objection | None = None,
) -> CollectReport:
    """Ask ``teacher`` for every job that ``store`` has no record of.

    Args:
        teacher: whom to ask.
        jobs: what to ask for.
        store: where clips and rejections go, each as soon as it arrives; its ledger keeps the jobs.
        params: the clip wanted; None leaves all of it to the teacher.
        on_progress: told the report after every job; None shows progress on standard error.
        policy: see `Policy`; None: its defaults.
        permission: see `permitted`.
        approve: given the estimate before the first request to a teacher that may cost money; raises when the user
            does not want it. None: such a teacher is not asked.
        objection: see `Policy`.

    Raises:
        ConfigError: the terms or the user do not allow it.
        TeacherStopped: the teacher takes no further jobs, or too many in a row came to nothing. What came is kept.
        CollectionIncomplete: jobs failed, are left for the next collection, or are unsure. What came is kept.
        StoreError: the store cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; says how many jobs are settled. Its ``signal`` is the signal's number.
    """
    params, policy, work = params or ClipParams(), replace(policy or Policy(), objection=objection), as_jobs(teacher)
    asked = {name: value for name, value in asdict(params).items() if value is not None}
    wanted = {record_key(work.name, job.prompt, asked, job.seed): job for job in jobs}
    pending = [key for key in wanted if key not in store]
    report, problem = CollectReport(total=len(jobs), skipped=len(jobs) - len(pending)), ""
    if not pending:
        with _shown(on_progress, report) as show:
            show(report)
        return report
    terms = permitted(work.terms, permission)
    with Ledger(store.path, durable=not work.local) as ledger:
        if not work.local:
            report = _with_costs(report, work, ledger)
            known = ledger.under_way(pending)
            if not known and not ledger.affords(work.name, work.price(params), policy.budget):
                return replace(report, unfunded=len(pending))  # `train` goes on with what the budget has bought
            if len(pending) > known or policy.retry_unsure:
                clips = len(pending) - (0 if policy.retry_unsure else known)
                _ask_user(work, params, policy, clips, ledger, approve)
        rows = (JobRow(key, work.name, normalise(wanted[key].prompt), asked, wanted[key].seed) for key in pending)
        ledger.plan(rows, {key: status for key in wanted if (status := store.status(key)) is not None})
        if policy.retry_unsure:
            ledger.retry_unsure(pending)
        if not work.own_files:
            start_guards()
        pace = Pace(policy.per_minute, policy.first_wait, policy.longest_wait)
        worker = Worker(work, store, ledger, pace, policy, params, terms)
        with Interrupts(at_once=work.local) as interrupts, _shown(on_progress, report) as show:
            try:
                crew = Crew(worker, pace, policy, interrupts)
                show(report)
                for result in crew.results(ledger.order(pending)):
                    if result is not None:
                        problem = problem or (result.reason if result.ending in _PROBLEMS else "")
                        report = _with_costs(_counted(report, result), work, ledger)
                    show(report)
            except KeyboardInterrupt:
                if interrupts.forced:
                    ledger.abandon()
                settled = f"{report.settled} of {report.total} jobs are settled and kept"
                raise interrupts.error(f"stopped: {settled}; run it again to go on") from None
            except TeacherStopped as error:
                raise TeacherStopped(f"{error}; {_summary(report)}") from None
    if problem:
        raise CollectionIncomplete(
            f"{report.failed} jobs failed and {report.left} are left of {report.total}, the first because: {problem}; "
            f"{_summary(report)}"
        )
    return report


_PROBLEMS = ("failed", "expired", "left", "unsure")


def _summary(report: CollectReport) -> str:
    """Return how far it is and how to go on."""
    open_jobs = report.total - report.settled - report.failed - report.left - report.unfunded
    parts = [f"{report.settled} of {report.total} are settled and kept"]
    if open_jobs:
        parts.append(f"{open_jobs} stay queued")
    if report.unsure:
        parts.append(
            f"of {report.unsure} nobody knows whether the teacher has them: look at its own list of jobs; --retry-unsure "
            "asks again, and may pay twice"
        )
    return "; ".join([*parts, "run it again to go on"])


def _ask_user(
    teacher: JobTeacher,
    params: ClipParams,
    policy: Policy,
    clips: int,
    ledger: Ledger,
    approve: Callable[[Estimate], None] | None,
) -> None:
    """Let the user see what it may cost, unless it costs nothing."""
    price = teacher.price(params)
    if price is None and policy.budget.money is not None:
        raise ConfigError(
            "a budget in money needs to know what a clip costs: set teacher.price_per_second or teacher.price_per_clip"
        )
    if price == 0:
        return
    if approve is None:
        raise ConfigError(
            f"{clips} clips are missing and {teacher.name} may charge for them; `understudy collect` asks for them, "
            "those for evaluation with --held-out"
        )
    approve(Estimate(teacher.name, clips, price, teacher.currency, ledger.spent(teacher.name)[0], policy.budget))


def _with_costs(report: CollectReport, teacher: JobTeacher, ledger: Ledger) -> CollectReport:
    """Return ``report`` with what the teacher has cost so far."""
    if teacher.local:
        return report
    return replace(report, spent=ledger.spent(teacher.name)[0], currency=teacher.currency)


def _counted(report: CollectReport, outcome: Outcome) -> CollectReport:
    """Return ``report`` with one more job that ended so."""
    if outcome.ending == "queued":
        return report
    if outcome.ending == "unsure":
        return replace(report, failed=report.failed + 1, unsure=report.unsure + 1)
    if outcome.reason and outcome.ending in ("done", "unusable"):
        report = replace(report, notes=(*report.notes, outcome.reason))
    name = "failed" if outcome.ending == "expired" else outcome.ending
    counts: dict[str, Any] = {name: getattr(report, name) + 1}
    return replace(report, **counts)


def _shown(on_progress: _Show | None, start: CollectReport) -> AbstractContextManager[_Show]:
    """Show progress by the caller's own means or on standard error."""
    return console(start) if on_progress is None else nullcontext(on_progress)
