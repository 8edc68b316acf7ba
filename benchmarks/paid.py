"""Nothing lost, nothing paid twice: collections from a service that misbehaves, is out of order, or is left in the middle.

    python benchmarks/paid.py                # all of it, and writes results/paid.json and results/paid.md
    python benchmarks/paid.py --small --out FOLDER

The service (provider.py) is a process of its own that keeps the books. What counts is whether books, ledger and store agree.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import provider as service

from understudy.collection.collect import CollectReport, Job, Policy, collect
from understudy.collection.ledger import Ledger
from understudy.collection.store import ClipStore
from understudy.errors import UnderstudyError
from understudy.teachers.base import ClipParams, Terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape

HERE = Path(__file__).resolve().parent
PARAMS = ClipParams(frames=3, fps=8.0, width=16, height=16)
FAST = Policy(
    concurrency=2,
    poll=0.02,
    tries=3,
    downloads=2,
    attempts=2,
    timeout=1.5,
    first_wait=0.01,
    longest_wait=0.05,
    failures=5,
)
SHAPES = {"openai": "openai-videos"}
OUTAGES = (
    *(("refusals", kind, "submit") for kind in list(service.REFUSALS)[:19]),
    *(("hiding", kind, "submit") for kind in ("status-503", "status-500", "status-522", "html-200", "drop", "hang")),
    *(("own", kind, "submit") for kind in ("openai-400",)),
    *(("passing", kind, "poll") for kind in ("status-503", "refused-403", "drop", "html-200")),
)


class Books:
    """The service's process, and what it has written down."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(HERE / "provider.py")], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def order(self, trial: str, **orders: Any) -> None:
        """Say what is to happen to the prompts of ``trial``."""
        self._ask("_control", json.dumps({"trial": trial, **orders}).encode())

    def jobs(self, trial: str) -> list[dict[str, Any]]:
        """Return every job of ``trial``, billed."""
        jobs: list[dict[str, Any]] = json.loads(self._ask(f"_control?{trial}"))
        return jobs

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", body, timeout=30) as reply:
            answer: bytes = reply.read()
            return answer


def teacher(port: int, vendor: str) -> WireTeacher:
    """Return the collector's side: one unit of money a clip, nothing promised about sending twice."""
    web = Web(f"http://127.0.0.1:{port}", max_bytes=2 * 2**20, seconds=1.5)
    made = WireTeacher(
        load_shape(SHAPES.get(vendor, vendor), {}, {}), web, vendor, "maker/world", Terms("yes", "ours"), 1.0
    )
    made.own_files = True  # decoding in a process of its own has trials of its own
    return made


@dataclass
class Account:
    """What went wrong; every count should be 0, except those of what was said to be unsure or came late."""

    clips_lost_that_were_on_record: int = 0
    jobs_with_a_known_id_not_fetched: int = 0
    prompts_recorded_as_refused_that_were_not: int = 0
    jobs_paid_twice_without_being_called_unsure: int = 0
    ledgers_below_the_bill: int = 0
    unexpected_exceptions: int = 0
    collections_that_ended_as_a_success_with_jobs_open: int = 0
    collections_without_end: int = 0
    clips_that_never_came: int = 0
    jobs_called_unsure: int = 0
    refusals_recorded: int = 0
    collections: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, other: "Account") -> None:
        """Add another account to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Trial:
    """Collections of one list of prompts into one store."""

    def __init__(self, books: Books, folder: Path, name: str, vendor: str, count: int) -> None:
        self.books, self.path, self.name, self.vendor = books, folder / name, name, vendor
        self.jobs = [Job(f"{name} ball number {place}", 7 + place) for place in range(count)]
        self.account = Account()
        self.unsure: set[str] = set()
        self.recorded: dict[str, str | None] = {}

    def run(self, **how: Any) -> str:
        """Collect once, in this process; return how it ended."""
        begun, self.account.collections = time.monotonic(), self.account.collections + 1
        ended = "done"
        try:
            collect(
                teacher(self.books.port, self.vendor),
                self.jobs,
                ClipStore(self.path, create=True),
                PARAMS,
                lambda report: None,
                replace(FAST, **how),
                approve=lambda estimate: None,
            )
        except UnderstudyError as error:
            ended = f"{type(error).__name__}: {error}"
        except BaseException as error:
            ended = f"unexpected {type(error).__name__}: {error}"
        self._look(ended, time.monotonic() - begun)
        return ended

    def _look(self, ended: str, seconds: float) -> None:
        account, store = self.account, ClipStore(self.path)
        if "unexpected" in ended:
            self._count("unexpected_exceptions", ended)
        if seconds > 60:
            self._count("collections_without_end", f"{seconds:.0f} s, {ended}")
        if ended == "done" and len(store) < len(self.jobs):
            self._count("collections_that_ended_as_a_success_with_jobs_open", f"{len(store)} of {len(self.jobs)}")
        now = {record.key: record.clip for record in store}
        for key, clip in self.recorded.items():
            if clip is not None and now.get(key) != clip:
                self._count("clips_lost_that_were_on_record", key[:12])
        self.recorded = now
        with Ledger(self.path) as ledger:
            self.unsure |= {row.key for row in ledger.jobs() if row.unsure and row.state != "done"}
            spent = ledger.spent(teacher(self.books.port, self.vendor).name)[0]
        billed = len(self.books.jobs(self.name))
        if spent < billed - 1e-6:
            self._count("ledgers_below_the_bill", f"{spent} of {billed}")
        account.jobs_called_unsure = len(self.unsure)

    def close(self, refused: set[str]) -> Account:
        """Compare books, ledger and store once more; ``refused``: prompts that the service did refuse."""
        store, jobs, account = ClipStore(self.path), self.books.jobs(self.name), self.account
        for problem in store.verify(decode=False):
            self._count("clips_lost_that_were_on_record", problem)
        standing = {job["id"] for job in jobs if not job["state"]}
        with Ledger(self.path) as ledger:
            rows = ledger.jobs()
        for row in rows:
            known = (json.loads(row.handle)["job"] if row.handle.startswith("{") else row.handle) if row.handle else ""
            if known in standing and row.state != "done" and row.prompt not in refused:
                self._count("jobs_with_a_known_id_not_fetched", f"{row.prompt}: {row.state} {row.reason}")
        for record in store:
            if record.status == "rejected":
                account.refusals_recorded += 1
                if record.prompt not in refused:
                    self._count("prompts_recorded_as_refused_that_were_not", f"{record.prompt}: {record.reason}")
        called = {row.prompt for row in rows if row.key in self.unsure}
        for prompt, count in Counter(job["prompt"] for job in jobs if not job["state"]).items():
            if count > 1 and prompt not in called:
                self._count("jobs_paid_twice_without_being_called_unsure", f"{prompt}: {count}")
        return account

    def _count(self, what: str, which: str) -> None:
        setattr(self.account, what, getattr(self.account, what) + 1)
        self.account.bad.append(f"{self.name}: {what}: {which}"[:300])


# --- answers ----------------------------------------------------------------------------------------------------


def cases() -> list[tuple[str, str, str, str]]:
    """Return every kind of answer as (table, kind, vendor, place)."""
    found = [("refusals", kind, vendor, "submit") for kind in service.REFUSALS for vendor in ("openai", "fal")]
    found += [("own", kind, vendor, "submit") for kind, (vendor, _) in service.PROMPTS_OWN.items()]
    found += [("minimax", kind, "minimax", "submit") for kind in service.MINIMAX_CODES]
    found += [("passing", kind, "fal", "result") for kind in service.PASSING]
    for table, kinds, vendors, place in (
        ("hiding", service.HIDING, ("openai", "replicate"), "submit"),
        ("ids", service.ODD_IDS, ("openai", "fal"), "submit"),
        ("passing", service.PASSING, ("openai", "minimax"), "poll"),
        ("content", service.CONTENT, ("openai", "ark"), "content"),
    ):
        found += [(table, kind, vendors[number % 2], place) for number, kind in enumerate(kinds)]
    found += [("states", kind, vendor, "poll") for kind, (vendor, *_) in service.STATES.items()]
    for vendor, place in (("fal", "result"), ("ark", "poll"), ("replicate", "poll")):
        found += [("inline", kind, vendor, place) for kind in service.inline(vendor)]
    return found


def one_answer(books: Books, folder: Path, number: int, case: tuple[str, str, str, str]) -> Account:
    """Collect four prompts, one of which meets the answer, twice; then once more with the service in order."""
    table, kind, vendor, place = case
    trial = Trial(books, folder, f"a{number}-{table}-{kind}-{vendor}-{place}", vendor, 4)
    target = trial.jobs[1].prompt
    books.order(trial.name, script={"table": table, "kind": kind, "place": place, "prompt": target})
    trial.run()
    trial.run()
    refused = {target} if service.answer_of(table, kind, vendor).refuses else set()
    books.order(trial.name)
    trial.run(timeout=10.0)
    trial.run(timeout=10.0, retry_unsure=True)
    account = trial.close(refused)
    account.clips_that_never_came = 4 - len(ClipStore(trial.path))
    return account


def one_outage(books: Books, folder: Path, number: int, outage: tuple[str, str, str]) -> Account:
    """Collect twelve prompts while the service goes out of order after two; then again when it is back."""
    table, kind, place = outage
    trial = Trial(books, folder, f"o{number}-{table}-{kind}-{place}", "openai", 12)
    books.order(trial.name, script={"table": table, "kind": kind, "place": place, "after": 2})
    trial.run()
    trial.run()
    books.order(trial.name)
    trial.run(timeout=10.0)
    trial.run(timeout=10.0, retry_unsure=True)
    account = trial.close(set())
    account.clips_that_never_came = 12 - len(ClipStore(trial.path))
    return account


# --- kills ------------------------------------------------------------------------------------------------------


def kills(books: Books, folder: Path, number: int, count: int) -> tuple[Account, dict[str, float]]:
    """Collect in a child that is sent the signal ``number`` at a random moment, ``count`` times; then finish."""
    name, moment = signal.Signals(number).name, random.Random(number)
    trial = Trial(books, folder, f"k-{name}", "openai", 8 * count)
    books.order(trial.name, submit=0.06, job=0.1)
    early, longest = 0, 0.0
    for _ in range(count):
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _child(trial, tell)
        os.close(tell)
        os.read(ready, 1)  # it is about to ask
        os.close(ready)
        time.sleep(moment.uniform(0.1, 0.8))
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            early += 1
            continue
        sent = time.monotonic()
        os.kill(child, number)
        while not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.01)
            if time.monotonic() - sent > 30:
                trial._count("collections_without_end", f"{name} was not followed")
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
        longest = max(longest, time.monotonic() - sent)
        trial._look("killed", 0.0)
    made = len(books.jobs(trial.name))
    books.order(trial.name, submit=0.0, job=0.0)
    trial.run(concurrency=8, timeout=30.0)
    unsure = len(trial.unsure)
    trial.run(concurrency=8, timeout=30.0, retry_unsure=True)
    account = trial.close(set())
    account.clips_that_never_came = len(trial.jobs) - len(ClipStore(trial.path))
    return account, {
        "kills": count - early,
        "jobs_made_meanwhile": made,
        "unsure": unsure,
        "longest_goodbye": round(longest, 2),
    }


def _child(trial: Trial, tell: int) -> None:
    """Collect as a command would, say when it begins, and end without another word."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        store = ClipStore(trial.path, create=True)
        policy = replace(FAST, concurrency=8, timeout=30.0)
        made = teacher(trial.books.port, trial.vendor)
        told = iter([b"."])

        def show(report: CollectReport) -> None:
            os.write(tell, next(told, b""))

        collect(made, trial.jobs, store, PARAMS, show, policy, approve=lambda estimate: None)
        status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


# --- all of it --------------------------------------------------------------------------------------------------

ZERO = [
    name for name in vars(Account()) if name not in ("jobs_called_unsure", "refusals_recorded", "collections", "bad")
]


def page(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    columns = list(result["trials"])
    said = ("jobs_called_unsure", "refusals_recorded", "collections")
    names = {name: name.replace("_", " ") for name in ZERO} | {name: f"({name.replace('_', ' ')})" for name in said}
    rows = [
        f"| {words} | {' | '.join(str(result['trials'][c][name]) for c in columns)} |" for name, words in names.items()
    ]
    goodbyes = ";".join(
        f"\n  - {name}: {told['kills']} kills, {told['jobs_made_meanwhile']} jobs made meanwhile, {told['unsure']} unsure "
        f"after them, longest goodbye {told['longest_goodbye']} s"
        for name, told in result["signals"].items()
    )
    return f"""# Paid work under misbehaviour, outages and kills

`python benchmarks/paid.py`: a service in a process of its own ([provider.py](../provider.py)), written from the vendors'
documents and not from the client, speaks six vendors' shapes, bills every job that it makes, and keeps the books. What is
compared are its books, the ledger and the store. Nothing here has met a real service.

- {result["answers"]} kinds of answers (kind, vendor and place): four prompts, of which one meets the answer, are collected
  twice, then again with the service in order, and at last with `--retry-unsure`.
- {result["outages"]} outages after two accepted jobs of twelve, collected twice; then the same.
- Kills at random moments, eight jobs at a time: {goodbyes}.

| every count has to be 0 | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
{chr(10).join(rows)}

{result["seconds"]} s on {result["machine"]}.
"""


def main() -> int:
    """Run all, print the result, and write it down; exit status 1 where a count is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="every seventh answer, four outages, three kills by each signal"
    )
    parser.add_argument("--only", default="", help="answers and outages whose name holds this, and no kills")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    begun, books = time.monotonic(), Books()
    step = 7 if args.small else 1
    answers = [(i, case) for i, case in enumerate(cases()) if args.only in "-".join(case)][::step]
    outages = [(i, case) for i, case in enumerate(OUTAGES) if args.only in "-".join(case)][:: 7 if args.small else 1]
    result: dict[str, Any] = {"answers": len(answers), "outages": len(outages), "trials": {}, "signals": {}}
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for number in () if args.only else (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                account, told = kills(books, folder, number, 3 if args.small else 50)
                result["trials"][number.name], result["signals"][number.name] = vars(account), told
            for what, todo, one in (("answers", answers, one_answer), ("outages", outages, one_outage)):
                total = Account()
                with contextlib.redirect_stderr(io.StringIO()), ThreadPoolExecutor(6) as pool:
                    for account in pool.map(lambda item, one=one: one(books, folder, *item), todo):  # type: ignore[misc]
                        total.add(account)
                result["trials"][what] = vars(total)
    finally:
        books.process.kill()
        books.process.wait()
    result["seconds"] = round(time.monotonic() - begun)
    result["machine"] = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, a machine that other work was using"
    )
    print(json.dumps(result, indent=1))
    if not args.only:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "paid.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "paid.md").write_text(page(result))
    return int(any(trial[name] for trial in result["trials"].values() for name in ZERO))


if __name__ == "__main__":
    sys.exit(main())
