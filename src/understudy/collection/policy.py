"""How a collection behaves, and what comes of a job."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from understudy.collection.rows import Budget
from understudy.errors import TeacherStopped

Ending = Literal[
    "done",
    "rejected",
    "held",
    "failed",
    "expired",
    "unsure",
    "looked",
    "skipped",
    "elsewhere",
    "unusable",
    "left",
    "queued",
    "unfunded",
]
"""What came of a job in this collection.

``held``: refused, and not recorded yet (see `understudy.collection.refusals`). ``unsure``: nobody knows whether the
teacher has it. ``looked``: the same, and the service's list is looked at once more. ``elsewhere``: another collector has
it. ``unusable``: a finished file that cannot be read, now or later. ``left``: under way, or could not be handed in, for
the next collection to go on with. ``queued``: not asked for, since the teacher takes no more. ``unfunded``: the budget
does not allow to ask for it.
"""


Objection = Callable[[dict[str, object]], str | None]
"""Says why a clip that was looked at is of no use for training, or None."""


@dataclass(frozen=True)
class Policy:
    """How a collection behaves.

    Attributes:
        concurrency: jobs that the teacher has at the same time; clips are fetched and checked beside them.
        per_minute: submissions per minute at most; None: no limit.
        poll: most seconds between two questions about one job; see `understudy.collection.pace.Durations`.
        tries: how often a request is sent before the teacher counts as out of reach.
        downloads: how often the clip of a finished job is fetched, each time from a fresh address and after a longer
            wait, before the job is left for the next collection.
        attempts: submissions per clip and collection: a job that the teacher lost or failed is asked for again.
        timeout: seconds after which a job is left for the next collection, its download included.
        first_wait, longest_wait: limits of the waits between tries, in seconds. A teacher that asks for a longer wait is
            not asked again in this collection.
        failures: jobs that may come to nothing one after the other for one reason, with none done, before the collection
            stops; and different prompts that may be refused so in the same words.
        budget: see `Budget`.
        retry_unsure: ask again where nobody knows whether the teacher has the job already.
        keep_refusals: record every refusal of a prompt at once, however many look alike.
        objection: says of each clip when it arrives why it is of no use. The clip is kept, as it may have been paid for,
            and noted; when the first ones are all of no use, nothing more is asked of a teacher that may cost money.
    """

    concurrency: int = 1
    per_minute: float | None = None
    poll: float = 2.0
    tries: int = 8
    downloads: int = 6
    attempts: int = 2
    timeout: float = 3600.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    failures: int = 5
    budget: Budget = field(default_factory=Budget)
    retry_unsure: bool = False
    keep_refusals: bool = False
    objection: Objection | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        key: the job.
        ending: see `Ending`.
        reason: why, with the prompt; empty where there is nothing to say.
        kind: the reason without what differs from job to job.
        made: the teacher has the job.
        earlier: it was known before to be unsure.
        error: the teacher takes no more jobs; this one is as it was.
    """

    key: str
    ending: Ending
    reason: str = ""
    kind: str = ""
    made: bool = False
    earlier: bool = False
    error: TeacherStopped | None = None


def kind_of(reason: str, prompt: str) -> str:
    """Return ``reason`` without what differs from job to job: the prompt, numbers and ids."""
    text = reason.replace(prompt, " ") if prompt else reason
    for quoted in re.findall(r"['\"“‘]([^'\"”’]{3,})['\"”’]", text):
        text = text.replace(quoted, " ") if quoted in prompt else text
    return " ".join(re.sub(r"\b(?=[\w-]*\d)[\w-]+", "#", text).casefold().split())
