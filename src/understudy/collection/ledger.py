"""The ledger of jobs: what was asked of a teacher, under which id, in which state, at what cost.

It lies beside the clips as ``STORE/ledger.sqlite`` and survives ``kill -9`` at any moment. The clips' own records stay in
``records.jsonl``; a clip on record there is done, whatever the ledger says. The order that makes jobs unique:

1. `Ledger.begin` writes, before the request leaves, that a submission is under way, and reserves its price.
2. `Ledger.submitted` writes the job's handle before anybody polls.
3. `Ledger.settle` writes the end, after the clip and its record are on disk.

A process killed between 1 and 2 leaves a job of which nobody knows whether the teacher has it: `JobRow.unsure`.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from understudy.collection.collectors import Collector
from understudy.collection.rows import SCHEMA, VERSION, Budget, JobRow
from understudy.errors import StoreError, UnderstudyError
from understudy.teachers.base import JobState

__all__ = ["Budget", "JobRow", "Ledger"]


class Ledger:
    """The jobs of one store. One object may be used by several threads, one file by several processes."""

    def __init__(self, store: str | Path, durable: bool = True) -> None:
        """Open the ledger of the store in folder ``store``, making it when missing.

        Args:
            store: the store's folder.
            durable: write submissions through to the disk at every step; False is enough where a job lost in a power
                cut costs nothing.

        Raises:
            StoreError: it is damaged, of a later version, or cannot be written.
        """
        self.path = Path(store) / "ledger.sqlite"
        self._lock = threading.Lock()
        self._abandoned = False
        try:
            self._collector = Collector(Path(store) / "collectors")
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, UnderstudyError) as error:
            raise StoreError(f"cannot open ledger {self.path}: {error}") from None
        with self._guarded():
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._durable = durable
            version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
            if version > VERSION:
                raise StoreError(f"ledger {self.path} is of version {version}; this understudy reads {VERSION}")
            if version < VERSION:
                self._database.executescript(SCHEMA)
                self._database.execute(f"PRAGMA user_version = {VERSION}")
            columns = {row["name"] for row in self._database.execute("PRAGMA table_info(jobs)")}
            if "seen" not in columns:  # a ledger of earlier days
                self._database.execute("ALTER TABLE jobs ADD COLUMN seen INTEGER NOT NULL DEFAULT 1")
            self._database.execute("CREATE INDEX IF NOT EXISTS submissions_by_handle ON submissions (handle)")
        with self._writing():  # nobody else registers or cleans up meanwhile
            self._collector.register()

    @property
    def owner(self) -> str:
        """The name of this collector."""
        return self._collector.name

    @property
    def incoming(self) -> Path:
        """A folder of this collector alone, for clips that are on their way; gone when the ledger is closed."""
        return self._collector.folder

    def abandon(self) -> None:
        """Leave the file open until the process ends: threads that were not waited for may still have an id to note."""
        self._abandoned = True

    def close(self) -> None:
        """Give back every job this collector holds and close the file."""
        if self._abandoned:
            return
        with suppress(sqlite3.Error, StoreError), self._writing() as database:
            database.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", (self.owner,))
        self._database.close()
        self._collector.leave()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- planning -----------------------------------------------------------------------------------------------

    def plan(self, jobs: Iterable[JobRow], settled: Mapping[str, JobState]) -> None:
        """Enter jobs that are new, and mark those that the store has settled (key to state).

        Jobs that failed or expired before are queued again, except where nobody knows whether the teacher has them; so are
        those whose rejection was taken back. Their reasons stay, see `order`.
        """
        now = _now()
        with self._writing() as database:
            for job in jobs:
                asked = json.dumps(job.asked, sort_keys=True)
                database.execute(
                    "INSERT OR IGNORE INTO jobs (key, teacher, prompt, asked, seed, state, changed) "
                    "VALUES (?, ?, ?, ?, ?, 'queued', ?)",
                    (job.key, job.teacher, job.prompt, asked, job.seed, now),
                )
                if job.key not in settled:
                    database.execute(
                        "UPDATE jobs SET state = 'queued', handle = NULL, changed = ? "
                        "WHERE key = ? AND state IN ('failed', 'expired', 'rejected') AND NOT unsure AND owner IS NULL",
                        (now, job.key),
                    )
            ended = [(state, now, key, state) for key, state in settled.items()]
            database.executemany(
                "UPDATE jobs SET state = ?, unsure = 0, owner = NULL, changed = ? WHERE key = ? AND state <> ?", ended
            )
            database.executemany(
                "UPDATE submissions SET outcome = ?, ended = ? WHERE key = ? AND outcome = 'open'",
                [(state, now, key) for state, now, key, _ in ended],
            )

    def retry_unsure(self, keys: Iterable[str]) -> None:
        """Queue those jobs again of which nobody knows whether the teacher has them, and those that `leave` left.

        The teacher may then make, and charge for, them twice.
        """
        with self._writing() as database:
            database.executemany(
                "UPDATE jobs SET state = 'queued', handle = NULL, unsure = 0, reason = '', changed = ? "
                "WHERE key = ? AND owner IS NULL AND (unsure "
                "OR (state = 'running' AND handle IS NOT NULL AND reason <> ''))",
                [(_now(), key) for key in keys],
            )

    # --- the life of one job ------------------------------------------------------------------------------------

    def claim(self, key: str) -> JobRow | None:
        """Take job ``key`` for this collector; None when another one, alive, has it. A settled job is only read."""
        with self._writing() as database:
            row = database.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()
            if row["state"] in ("queued", "running") or row["unsure"]:
                if row["owner"] not in (None, self.owner) and self._collector.alive(row["owner"]):
                    return None
                database.execute("UPDATE jobs SET owner = ? WHERE key = ?", (self.owner, key))
        return _job(row)

    def begin(self, key: str, price: float | None, budget: Budget) -> int | None:
        """Note that a submission of ``key`` is about to leave, and return its number; None when the budget forbids it."""
        with self._writing(durable=True) as database:
            teacher, number = database.execute("SELECT teacher, number FROM jobs WHERE key = ?", (key,)).fetchone()
            if not _affords(database, teacher, price, budget):
                return None
            now = _now()
            database.execute(
                "UPDATE jobs SET state = 'running', handle = NULL, unsure = 1, number = ?, reason = '', changed = ? "
                "WHERE key = ?",
                (number + 1, now, key),
            )
            database.execute(
                "INSERT INTO submissions (key, number, teacher, price, begun) VALUES (?, ?, ?, ?, ?)",
                (key, number + 1, teacher, price, now),
            )
            return int(number) + 1

    def submitted(self, key: str, number: int, handle: str, seen: bool = False) -> bool:
        """Note the handle of the job that submission ``number`` of ``key`` made; return False if it is another job's.

        ``seen``: the teacher knows the job under it.
        """
        with self._writing(durable=True) as database:
            if _is_of_another(database, key, handle):
                return False
            database.execute(
                "UPDATE jobs SET state = 'running', seen = ?, "
                "handle = ?, unsure = 0, reason = '', changed = ? WHERE key = ?",
                (seen, handle, _now(), key),
            )
            database.execute("UPDATE submissions SET handle = ? WHERE key = ? AND number = ?", (handle, key, number))
        return True

    def seen(self, key: str) -> None:
        """Note that the teacher knows job ``key`` under its handle."""
        with self._writing() as database:
            database.execute("UPDATE jobs SET seen = 1 WHERE key = ? AND NOT seen", (key,))

    def refused(self, key: str, number: int, state: JobState, reason: str) -> None:
        """Note that submission ``number`` made no job, which therefore costs nothing and is now in ``state``."""
        self._end(key, number, state, reason, "refused", 0.0)

    def lost(self, key: str, number: int, outcome: JobState, reason: str) -> None:
        """Note that the job of submission ``number`` came to nothing, and that ``key`` is to be submitted again."""
        self._end(key, number, "queued", reason, outcome, None)

    def settle(self, key: str, number: int, state: JobState, reason: str = "", cost: float | None = None) -> None:
        """Note how the job of submission ``number`` ended; noting it twice changes nothing."""
        self._end(key, number, state, reason, state, cost)

    def doubt(self, key: str, reason: str) -> None:
        """Note that nobody knows whether the teacher has job ``key``; it stays open until `retry_unsure`."""
        with self._writing(durable=True) as database:
            database.execute(
                "UPDATE jobs SET state = 'failed', unsure = 1, reason = ?, owner = NULL, changed = ? WHERE key = ?",
                (reason, _now(), key),
            )

    def leave(self, key: str, reason: str) -> None:
        """Note why job ``key``, which the teacher has, came to no end; the next collection asks about it by its handle."""
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET reason = ?, owner = NULL, changed = ? WHERE key = ? AND state = 'running'",
                (reason, _now(), key),
            )

    def release(self, key: str) -> None:
        """Give job ``key`` back as it is, for this or another collector to go on with."""
        with self._writing() as database:
            database.execute("UPDATE jobs SET owner = NULL WHERE key = ? AND owner = ?", (key, self.owner))

    # --- looking ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> JobRow | None:
        """Return job ``key``, or None."""
        with self._guarded():
            row = self._database.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()
        return None if row is None else _job(row)

    def jobs(self) -> list[JobRow]:
        """Return every job."""
        with self._guarded():
            return [_job(row) for row in self._database.execute("SELECT * FROM jobs")]

    def order(self, keys: Iterable[str]) -> list[str]:
        """Return ``keys`` in the order to work on them.

        First what the teacher has, then what it was not asked for, then what came to nothing in an earlier collection, and
        last that of which nobody knows whether the teacher has it.
        """

        def place(key: str) -> int:
            job = self.get(key)
            if job is None or job.unsure:
                return 3
            return 2 if job.reason else 0 if job.handle is not None else 1

        return sorted(keys, key=place)  # stable

    def belongs(self, key: str, handle: str) -> bool:
        """Say whether ``handle`` is that of another job of the same teacher than ``key``."""
        with self._guarded():
            return _is_of_another(self._database, key, handle)

    def begun(self, key: str, number: int) -> float:
        """Return when submission ``number`` of ``key`` was begun, in seconds since 1970."""
        with self._guarded():
            row = self._database.execute(
                "SELECT begun FROM submissions WHERE key = ? AND number = ?", (key, number)
            ).fetchone()
        return datetime.fromisoformat(row[0]).timestamp() if row else 0.0

    def affords(self, teacher: str, price: float | None, budget: Budget) -> bool:
        """Say whether the budget allows another job of ``teacher`` at ``price``."""
        with self._guarded():
            return _affords(self._database, teacher, price, budget)

    def under_way(self, keys: Iterable[str]) -> int:
        """Return how many of these jobs the teacher has, or may have."""
        jobs = (self.get(key) for key in keys)
        return sum(job is not None and (job.state == "running" or job.unsure) for job in jobs)

    def spent(self, teacher: str) -> tuple[float, int]:
        """Return what ``teacher`` has cost so far, jobs under way included, and how many jobs it was given."""
        with self._guarded():
            return _spent(self._database, teacher)

    # --- inside -------------------------------------------------------------------------------------------------

    def _end(self, key: str, number: int, state: JobState, reason: str, outcome: str, cost: float | None) -> None:
        with self._writing() as database:
            now = _now()
            also = ", handle = NULL" if state == "queued" else ", owner = NULL"
            database.execute(
                f"UPDATE jobs SET state = ?, reason = ?, unsure = 0, changed = ?{also} WHERE key = ? AND number = ?",
                (state, reason, now, key, number),
            )
            database.execute(
                "UPDATE submissions SET outcome = ?, cost = COALESCE(?, cost), ended = ? "
                "WHERE key = ? AND number = ? AND outcome = 'open'",
                (outcome, cost, now, key, number),
            )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time; what SQLite raises becomes a `StoreError`."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreError(f"cannot use ledger {self.path}: {error}; free some space, or restore it") from None

    @contextmanager
    def _writing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that happens as a whole or not at all, and one at a time over all processes.

        A ``durable`` one survives a power cut when this returns; the others only after one of those. That a submission
        left, and the handle it brought, must not be forgotten; whatever else is lost is found out again.
        """
        with self._guarded():
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable and self._durable else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise


def _is_of_another(database: sqlite3.Connection, key: str, handle: str) -> bool:
    found = database.execute(
        "SELECT 1 FROM submissions WHERE handle = ? AND key <> ? AND teacher = (SELECT teacher FROM jobs WHERE key = ?)",
        (handle, key, key),
    ).fetchone()
    return found is not None


def _affords(database: sqlite3.Connection, teacher: str, price: float | None, budget: Budget) -> bool:
    spent, clips = _spent(database, teacher) if budget != Budget() else (0.0, 0)
    # A millionth of slack, for sums of prices that have no exact form.
    if budget.money is not None and spent + (price or 0.0) > budget.money * (1 + 1e-6):
        return False
    return budget.clips is None or clips < budget.clips


def _spent(database: sqlite3.Connection, teacher: str) -> tuple[float, int]:
    money, clips = database.execute(
        "SELECT COALESCE(SUM(COALESCE(cost, price, 0)), 0), COUNT(*) FILTER (WHERE outcome <> 'refused') "
        "FROM submissions WHERE teacher = ?",
        (teacher,),
    ).fetchone()
    return float(money), int(clips)


def _job(row: sqlite3.Row | Mapping[str, Any]) -> JobRow:
    values = {name: row[name] for name in JobRow.__dataclass_fields__}
    return JobRow(
        **{**values, "asked": json.loads(row["asked"]), "unsure": bool(row["unsure"]), "seen": bool(row["seen"])}
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
