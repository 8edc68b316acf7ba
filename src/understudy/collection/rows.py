"""The tables of the ledger, and what is in them."""

from dataclasses import dataclass

from understudy.teachers.base import JobState

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    key TEXT PRIMARY KEY,            -- record_key of teacher, prompt, asked and seed
    teacher TEXT NOT NULL,
    prompt TEXT NOT NULL,
    asked TEXT NOT NULL,             -- JSON
    seed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'rejected', 'failed', 'expired')),
    handle TEXT,                     -- what the teacher is polled with
    unsure INTEGER NOT NULL DEFAULT 0,
    seen INTEGER NOT NULL DEFAULT 1,    -- the teacher has known the job under its handle
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
CREATE INDEX IF NOT EXISTS submissions_by_handle ON submissions (handle);
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
        seen: the teacher has known the job under its handle.
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
    seen: bool = True
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
