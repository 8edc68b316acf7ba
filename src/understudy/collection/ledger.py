"""The ledger of jobs: what was asked of a teacher, under which id, in which state, at what cost.

It lies beside the clips as ``STORE/ledger.sqlite`` and survives ``kill -9`` at any moment. The clips' own records stay in
``records.jsonl``; a clip on record there is done, whatever the ledger says. The order that makes jobs unique:

1. `Ledger.begin` writes, before the request leaves, that a submission is under way, and reserves its price.
2. `Ledger.submitted` writes the job's handle before anybody polls.
3. `Ledger.settle` writes the end, after the clip and its record are on disk.

A process killed between 1 and 2 leaves a job of which nobody knows whether the teacher has it: `JobRow.unsure`.
"""

import json
import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from understudy.errors import StoreError, UnderstudyError
from understudy.files import ensure_folder
from understudy.teachers.base import JobState

try:
    import fcntl
except ImportError:  # not a POSIX system: one collector at a time is then up to the user
    fcntl = None  # type: ignore[assignment]

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    key TEXT PRIMARY KEY,            -- record_key of teacher, prompt, asked and seed
    teacher TEXT NOT NULL,
    prompt TEXT NOT NULL,
    asked TEXT NOT NULL,             -- JSON
    seed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'rejected', 'failed', 'expired')),
    handle TEXT,                     -- what the teacher is polled with
    unsure INTEGER NOT NULL DEFAULT 0,
    number INTEGER NOT NULL DEFAULT 0,  -- of its latest submission, from 1
    reason TEXT NOT NULL DEFAULT '',
    owner TEXT,                      -- the collector at work on it
    changed TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS submissions (
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    teacher TEXT NOT NULL,
    handle TEXT,
    price REAL,                      -- expected; NULL when nobody knows
    cost REAL,                       -- what it came to; NULL until known
    outcome TEXT NOT NULL DEFAULT 'open',  -- or 'refused' (no job was made), or the state the job ended in
    begun TEXT NOT NULL,
    ended TEXT,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS submissions_by_teacher ON submissions (teacher);
"""


@dataclass(frozen=True)
class JobRow:
    """One job as the ledger has it.

    Attributes:
        key: `understudy.collection.store.record_key` of the request.
        teacher, prompt, asked, seed: the request.
        state: see `understudy.teachers.base.JobState`.
        handle: what the teacher is polled with; None before it took the job.
        unsure: a submission was begun and no answer to it was written down.
        number: how often it was submitted.
        reason: why it ended as it did.
    """

    key: str
    teacher: str
    prompt: str
    asked: dict[str, object]
    seed: int
    state: JobState = "queued"
    handle: str | None = None
    unsure: bool = False
    number: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Budget:
    """What a teacher may be asked for in one store, over all collections into it; None: no limit.

    Attributes:
        money: in the teacher's currency; jobs under way count with their expected price.
        clips: submissions that made a job.
    """

    money: float | None = None
    clips: int | None = None


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
        self.owner = secrets.token_hex(8)
        self._folders = Path(store) / "collectors"
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        try:
            ensure_folder(self._folders)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, UnderstudyError) as error:
            raise StoreError(f"cannot open ledger {self.path}: {error}") from None
        with self._guarded():
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._durable = durable
            version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
            if version > _VERSION:
                raise StoreError(f"ledger {self.path} is of version {version}; this understudy reads {_VERSION}")
            if version < _VERSION:
                self._database.executescript(_SCHEMA)
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
        self._register()

    @property
    def incoming(self) -> Path:
        """A folder of this collector alone, for clips that are on their way; gone when the ledger is closed."""
        return self._folders / self.owner

    def close(self) -> None:
        """Give back every job this collector holds and close the file."""
        with suppress(sqlite3.Error, StoreError), self._writing() as database:
            database.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", (self.owner,))
        self._database.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        shutil.rmtree(self.incoming, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- planning -----------------------------------------------------------------------------------------------

    def plan(self, jobs: Iterable[JobRow], settled: Mapping[str, JobState]) -> None:
        """Enter jobs that are new, and mark those that the store has settled (key to state).

        Jobs that failed or expired before are queued again, except where nobody knows whether the teacher has them.
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
                        "UPDATE jobs SET state = 'queued', handle = NULL, reason = '', changed = ? "
                        "WHERE key = ? AND state IN ('failed', 'expired') AND NOT unsure AND owner IS NULL",
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
                "WHERE key = ? AND owner IS NULL AND ((unsure AND handle IS NULL) "
                "OR (state = 'running' AND handle IS NOT NULL AND reason <> ''))",
                [(_now(), key) for key in keys],
            )

    # --- the life of one job ------------------------------------------------------------------------------------

    def claim(self, key: str) -> JobRow | None:
        """Take job ``key`` for this collector; None when another one, alive, has it. A settled job is only read."""
        with self._writing() as database:
            row = database.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()
            if row["state"] in ("queued", "running"):
                if row["owner"] not in (None, self.owner) and self._alive(row["owner"]):
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

    def submitted(self, key: str, number: int, handle: str) -> None:
        """Note the handle of the job that submission ``number`` of ``key`` made."""
        with self._writing(durable=True) as database:
            database.execute("UPDATE jobs SET handle = ?, unsure = 0, changed = ? WHERE key = ?", (handle, _now(), key))
            database.execute("UPDATE submissions SET handle = ? WHERE key = ? AND number = ?", (handle, key, number))

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

    def affords(self, teacher: str, price: float | None, budget: Budget) -> bool:
        """Say whether the budget allows another job of ``teacher`` at ``price``."""
        with self._guarded():
            return _affords(self._database, teacher, price, budget)

    def under_way(self, keys: Iterable[str]) -> bool:
        """Say whether the teacher has, or may have, one of these jobs."""
        with self._guarded():
            rows = (self._database.execute("SELECT state FROM jobs WHERE key = ?", (key,)).fetchone() for key in keys)
            return any(row is not None and row["state"] == "running" for row in rows)

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

    def _register(self) -> None:
        """Make this collector's folder with a lock in it, which the system lets go when the process dies."""
        with self._writing():  # nobody else registers or cleans up meanwhile
            for folder in self._folders.iterdir():
                if not self._alive(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
            ensure_folder(self.incoming)
            self._descriptor = os.open(self.incoming / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _alive(self, owner: str) -> bool:
        """Say whether the process of collector ``owner`` still runs."""
        try:
            descriptor = os.open(self._folders / owner / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

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
    return JobRow(**{**values, "asked": json.loads(row["asked"]), "unsure": bool(row["unsure"])})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
