"""Asking a teacher for every clip that is still wanted; stopped at any moment, it goes on where it was."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from understudy.collection.ledger import Budget, JobRow, Ledger
from understudy.collection.pace import Pace, Stopped
from understudy.collection.progress import CollectReport, console, describe
from understudy.collection.store import ClipStore, record_key
from understudy.collection.worker import Ending, Objection, Policy, Worker
from understudy.errors import ConfigError, TeacherError, TeacherStopped
from understudy.files import sha256_hex
from understudy.ingest.guard import start_guards
from understudy.prompts import normalise
from understudy.teachers.base import ClipParams, JobTeacher, Teacher, Terms, as_jobs

__all__ = ["CollectReport", "Estimate", "Job", "Policy", "collect", "describe", "permitted", "plan_jobs"]

_MAX_PER_PROMPT = 2**20
_ELSEWHERE_SECONDS = 0.5
_GOODBYE_SECONDS = 5.0

_Show = Callable[[CollectReport], None]
_Result = tuple[Ending, str]


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
        objection: says of each clip when it arrives why it is of no use. The clip is kept, as it may have been paid for,
            and noted; when the first ones are all of no use, nothing more is asked of a teacher that may cost money.

    Raises:
        ConfigError: the terms or the user do not allow it.
        TeacherError: a job failed, or the teacher cannot be asked. What came is kept.
        StoreError: the store cannot be written.
        KeyboardInterrupt: passed on with a message that says how many jobs are settled.
    """
    params, policy, work = params or ClipParams(), policy or Policy(), as_jobs(teacher)
    asked = {name: value for name, value in asdict(params).items() if value is not None}
    wanted = {record_key(work.name, job.prompt, asked, job.seed): job for job in jobs}
    pending = [key for key in wanted if key not in store]
    report = CollectReport(total=len(jobs), skipped=len(jobs) - len(pending))
    if not pending:
        with _shown(on_progress, report) as show:
            show(report)
        return report
    terms = permitted(work.terms, permission)
    with Ledger(store.path, durable=not work.local) as ledger:
        if not work.local:
            report = _with_costs(report, work, ledger)
            if not ledger.affords(work.name, work.price(params), policy.budget) and not ledger.under_way(pending):
                return replace(report, unfunded=len(pending))  # `train` goes on with what the budget has bought
            _ask_user(work, params, policy, len(pending), ledger, approve)
        rows = (JobRow(key, work.name, normalise(wanted[key].prompt), asked, wanted[key].seed) for key in pending)
        ledger.plan(rows, {key: status for key in wanted if (status := store.status(key)) is not None})
        if policy.retry_unsure:
            ledger.retry_unsure(pending)
        if not work.own_files:
            start_guards()
        pace = Pace(policy.per_minute, policy.first_wait, policy.longest_wait)
        worker = Worker(work, store, ledger, pace, policy, params, terms, None, objection)
        problem = ""
        try:
            with _shown(on_progress, report) as show:
                show(report)
                for result in _results(worker, pending, policy, pace):
                    if result is not None:
                        report = _with_costs(_counted(report, *result), work, ledger)
                        problem = problem or (result[1] if result[0] in ("failed", "expired", "left") else "")
                    show(report)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped: {report.settled} of {report.total} jobs are settled and kept; run it again to go on"
            ) from None
    if problem:
        raise TeacherError(
            f"{report.failed} jobs failed and {report.left} are left of {report.total}, the first because: {problem}; "
            f"{report.settled} are settled and kept; run it again to go on"
        )
    return report


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


def _counted(report: CollectReport, ending: Ending, reason: str) -> CollectReport:
    """Return ``report`` with one more job that ended so."""
    if reason and ending in ("done", "unusable"):
        report = replace(report, notes=(*report.notes, reason))
    name = "failed" if ending == "expired" else ending
    counts: dict[str, Any] = {name: getattr(report, name) + 1}
    return replace(report, **counts)


def _shown(on_progress: _Show | None, start: CollectReport) -> AbstractContextManager[_Show]:
    """Show progress by the caller's own means or on standard error."""
    return console(start) if on_progress is None else nullcontext(on_progress)


# --- handing out the jobs ---------------------------------------------------------------------------------------


def _results(worker: Worker, keys: Sequence[str], policy: Policy, pace: Pace) -> Iterator[_Result | None]:
    """Yield how each job ended, in the order of their ends; None now and then while nothing ends."""
    # While a service draws the next clips, the last ones are fetched and checked: its places are never empty for that.
    threads = min(policy.concurrency * (1 if worker.local else 2), len(keys))
    source = _serial(worker, keys, pace) if threads == 1 else _parallel(worker, keys, pace, threads)
    failures, useful, useless = 0, False, 0
    for result in source:
        if result is not None:
            ending, reason = result
            useless += ending == "done" and bool(reason)
            useful = useful or (ending == "done" and not reason)
            if useless >= policy.failures and not (useful or worker.local):
                raise TeacherStopped(
                    f"none of the first {useless} clips can be trained on, the last because: {reason}; nothing more is "
                    "asked, what came is kept"
                )
            failures = failures + 1 if ending in ("failed", "expired", "left") else 0
            if failures >= policy.failures:
                raise TeacherStopped(
                    f"{failures} jobs in a row came to nothing, the last because: {reason}; what came is kept"
                )
        yield result


def _serial(worker: Worker, keys: Sequence[str], pace: Pace) -> Iterator[_Result]:
    """Settle the jobs one after the other, in this thread."""
    waiting = deque(keys)
    while waiting:
        key = waiting.popleft()
        result = worker.settle(key)
        if result[0] == "elsewhere":  # its other collector may be killed yet
            waiting.append(key)
            pace.wait(_ELSEWHERE_SECONDS)
            continue
        yield result


def _parallel(worker: Worker, keys: Sequence[str], pace: Pace, threads: int) -> Iterator[_Result | None]:
    """Settle the jobs in ``threads`` threads; an error in one stops all."""
    waiting = deque(keys)
    results: queue.SimpleQueue[_Result | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while waiting:
                try:
                    key = waiting.popleft()
                except IndexError:
                    break
                result = worker.settle(key)
                if result[0] == "elsewhere":
                    waiting.append(key)
                    pace.wait(_ELSEWHERE_SECONDS)
                else:
                    results.put(result)
        except Stopped:
            pass
        except BaseException as error:
            results.put(error)
        finally:
            results.put(None)

    # Daemons: whatever they are in the middle of, the ledger knows how to go on.
    running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    ended = 0
    try:
        while ended < threads:
            try:
                result = results.get(timeout=1.0)
            except queue.Empty:
                yield None
                continue
            if isinstance(result, BaseException):
                raise result
            if result is None:
                ended += 1
            else:
                yield result
    finally:
        pace.stop()
        until = time.monotonic() + _GOODBYE_SECONDS
        for thread in running:
            thread.join(max(0.0, until - time.monotonic()))
