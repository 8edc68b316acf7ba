"""How one service wants to be asked, as data (shapes.yaml, or a file of the user's)."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import ConfigError
from understudy.reading import read_limited
from understudy.teachers.base import JobState


class ListShape(BaseModel):
    """Where a service keeps the list of its jobs, and how an entry says what was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    entries: str
    created: str
    prompt: tuple[str, ...]
    seed: tuple[str, ...] = ()
    more: str = ""
    next: str = ""


class Shape(BaseModel):
    """How one service wants to be asked; see shapes.yaml for the words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    submit: str
    body: dict[str, Any]
    job: str
    poll: str
    state: str | tuple[str, ...]
    states: dict[JobState, tuple[str, ...]]
    key_env: str = ""
    auth: str = "Authorization: Bearer {key}"
    encoding: str = "auto"
    numeric_ids: bool = False
    keep: dict[str, str] = {}
    fallback: dict[str, str] = {}
    reason: tuple[str, ...] = ()
    error_at: tuple[str, ...] = ()
    result: str = ""
    asset: str = ""
    asset_at: tuple[str, ...] = ()
    cost: str = ""
    notes: dict[str, str] = {}
    code_at: str = ""
    rejected_codes: tuple[int | str, ...] = ()
    passing_codes: tuple[int | str, ...] = ()
    unsure_codes: tuple[int | str, ...] = ()
    stopping_codes: tuple[int | str, ...] = ()
    rejected_texts: tuple[str, ...] = ()
    list: ListShape | None = None

    def state_of(self, word: str) -> JobState | None:
        """Return what the service's ``word`` for a state means; None when nobody knows.

        The shape's own words count first, then those that services commonly use.
        """
        plain = re.sub(r"[\s-]+", "_", word.strip()).lower()
        own = {said: state for state, words in self.states.items() for said in words}
        lower = {said.lower(): state for said, state in own.items()}
        return own.get(word) or lower.get(plain) or _COMMON.get(plain)


_WORDS: dict[JobState, str] = {
    "done": "completed complete succeeded succeed success successful finished done ready generated",
    "failed": "failed fail failure error errored cancelled canceled aborted killed crashed rejected moderated "
    "content_moderated timed_out timeout",
    "expired": "expired deleted",
    "running": "queued pending in_queue in_progress inprogress processing running starting started submitted submitting "
    "created accepted waiting preparing prepared scheduled throttled initializing initialising generating rendering "
    "encoding uploading downloading active not_start not_started new sent booting loading warming_up preprocessing "
    "postprocessing upscaling working executing",
}
_COMMON: dict[str, JobState] = {word: state for state, words in _WORDS.items() for word in words.split()}


def load_shape(name: str, overrides: Mapping[str, Any], body: Mapping[str, Any]) -> Shape:
    """Return shape ``name``, one of ours or the path of a YAML file of the same form, with the recipe's changes.

    ``body`` is merged into the shape's body, level by level; null leaves a field out.

    Raises:
        ConfigError: there is no such shape, or it lacks something.
    """
    known = yaml.safe_load(files("understudy.teachers").joinpath("shapes.yaml").read_text(encoding="utf-8"))
    try:
        values = known[name] if name in known else yaml.safe_load(read_limited(name, 1 << 20).decode("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise ConfigError(
            f"teacher.shape {name!r} is neither one of {', '.join(known)} nor a YAML file of the same form"
        ) from None
    try:
        merged = merge(values, overrides)
        return Shape.model_validate({**merged, "body": merge(merged.get("body", {}), body)})
    except (ValidationError, AttributeError, TypeError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "is no mapping"}
        where = ".".join(str(part) for part in told["loc"])
        raise ConfigError(f"teacher.shape {name}: {where or 'it'}: {told['msg']}") from None


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` on top of ``base``, level by level; None takes a field away."""
    merged = dict(base)
    for name, value in own.items():
        inner = merged.get(name)
        merged[name] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return {name: value for name, value in merged.items() if value is not None}
