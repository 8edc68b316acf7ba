"""One teacher for every service that takes a job, is polled and serves a file; what differs is data (shapes.yaml)."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import ConfigError, JobForgotten, PromptRejected, TeacherError, TeacherStopped, TransientError
from understudy.files import sha256_hex
from understudy.teachers.base import ClipParams, ClipRequest, JobState, JobStatus, Terms
from understudy.teachers.fields import FIELD, fill, request_fields
from understudy.teachers.web import Reply, Web

_MODERATION = re.compile(
    r"moderat|safety|sensitive|policy|policies|nsfw|prohibited|inappropriate|content.?filter|violat|copyright|blocked",
    re.IGNORECASE,
)


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
    keep: dict[str, str] = {}
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
    stopping_codes: tuple[int | str, ...] = ()


def load_shape(name: str, overrides: Mapping[str, Any], body: Mapping[str, Any]) -> Shape:
    """Return shape ``name``, one of ours or the path of a YAML file of the same form, with the recipe's changes.

    ``body`` is merged into the shape's body, level by level; null leaves a field out.

    Raises:
        ConfigError: there is no such shape, or it lacks something.
    """
    known = yaml.safe_load(files("understudy.teachers").joinpath("shapes.yaml").read_text(encoding="utf-8"))
    try:
        values = known[name] if name in known else yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
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


class WireTeacher:
    """A service or a server that speaks one of the shapes; a `understudy.teachers.base.JobTeacher`."""

    local = own_files = False

    def __init__(
        self,
        shape: Shape,
        web: Web,
        kind: str,
        model: str,
        terms: Terms,
        price_per_clip: float | None = None,
        price_per_second: float | None = None,
        currency: str = "USD",
        idempotent: bool = False,
    ) -> None:
        """Take what differs between services; nothing is sent yet."""
        self._shape, self._web, self._model = shape, web, model
        self._price_per_clip, self._price_per_second = price_per_clip, price_per_second
        self.terms, self.currency, self.idempotent = terms, currency, idempotent
        settings = sha256_hex(json.dumps(shape.body, sort_keys=True).encode())[:8]
        self.name = f"{kind}/{web.host}/{model or 'default'}-{settings}"
        self._form = shape.encoding == "form"
        self._took_one = False  # the server has understood a request of ours

    def price(self, params: ClipParams) -> float | None:
        """Return what one clip costs at the recipe's price."""
        if self._price_per_clip is not None:
            return self._price_per_clip
        if self._price_per_second is not None and params.frames and params.fps:
            return self._price_per_second * params.frames / params.fps
        return None

    def submit(self, request: ClipRequest) -> str:
        """Send the request, as a form where this server wants no JSON, and return the job's id."""
        shape, values = self._shape, self._values(request)
        body = fill(shape.body, values)
        headers = {"Idempotency-Key": request.key}
        path = _address(shape.submit, {"model": self._model}, safe="/:")
        reply = self._web.ask("POST", path, form=_form(body), headers=headers) if self._form else None
        if reply is None:
            reply = self._web.ask("POST", path, json=body, headers=headers)
            if shape.encoding == "auto" and reply.status in (400, 415, 422) and not _MODERATION.search(reply.text):
                as_form = self._web.ask("POST", path, form=_form(body), headers=headers)
                if as_form.status < 400:
                    self._form, reply = True, as_form
        self._check(reply)
        job = at(reply.data, shape.job)
        if not isinstance(job, str | int) or not str(job):
            raise TeacherError(f"{self._web.host} answered without a job id ({shape.job}): {reply.reason}")
        self._took_one = True
        kept = {name: str(at(reply.data, path) or "") for name, path in shape.keep.items()}
        return json.dumps({"job": str(job), **kept}) if kept else str(job)

    def poll(self, handle: str) -> JobStatus:
        """Ask for the job; where the clip's address is in a reply of its own, ask for that too."""
        shape, names = self._shape, self._names(handle)
        reply = self._ask(shape.poll, names)
        said = next((word for path in _paths(shape.state) if isinstance(word := at(reply.data, path), str)), "")
        state: JobState = next((state for state, words in shape.states.items() if said in words), "running")
        reason = next((str(found) for path in shape.reason if (found := at(reply.data, path))), "")
        if state == "done" and any(at(reply.data, path) for path in shape.error_at):
            state = "failed"
        if state == "done" and shape.result:
            reply = self._ask(shape.result, names, final=True)
        if state in ("failed", "expired"):
            code = at(reply.data, "error.code") or ""
            return JobStatus("rejected" if _MODERATION.search(f"{reason} {code}") else state, reason[:300])
        cost = at(reply.data, shape.cost) if shape.cost else None
        notes = {name: str(found) for name, path in shape.notes.items() if (found := at(reply.data, path))}
        asset = next((url for path in shape.asset_at if isinstance(url := at(reply.data, path), str)), "")
        if state == "done" and not (asset or shape.asset):
            return JobStatus("failed", f"{self._web.host} calls the job done but names no clip")
        price = float(cost) if isinstance(cost, int | float) else None
        return JobStatus(state, asset=asset, cost=price, notes=notes)

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """Fetch the clip from the address in the last reply, or from the shape's own."""
        self._web.download(status.asset or _address(self._shape.asset, self._names(handle)), path)

    # --- inside -------------------------------------------------------------------------------------------------

    def _ask(self, template: str, names: Mapping[str, str], final: bool = False) -> Reply:
        """Ask about a job; ``final``: the answer is its end, so that a refusal there is one of the prompt."""
        reply = self._web.ask("GET", _address(template, names))
        if reply.status == 404:
            raise JobForgotten(f"{self._web.host} does not know the job any more")
        if reply.status == 200 and reply.data is None:
            raise TransientError(f"{self._web.host} answered with something that is no JSON")
        self._check_codes(reply)
        if reply.status >= 400:
            said = f"{self._web.host} says of a job it has: {reply.reason} (status {reply.status})"
            if final:
                raise PromptRejected(said)
            raise TransientError(said)  # whatever is wrong with the question, the job is there
        return reply

    def _check(self, reply: Reply) -> None:
        """Raise what an answer to a submission that is no success means."""
        said = f"{self._web.host} says: {reply.reason}"
        self._check_codes(reply)
        if reply.status >= 400:
            if self._took_one:  # the form of our requests is right, so it is this prompt
                raise PromptRejected(f"{said} (status {reply.status})")
            raise TeacherError(f"{said} (status {reply.status}); check teacher.url, teacher.model and teacher.body")

    def _check_codes(self, reply: Reply) -> None:
        """Raise what the codes and words of an answer mean."""
        shape, said = self._shape, f"{self._web.host} says: {reply.reason}"
        code = at(reply.data, shape.code_at) if shape.code_at else None
        if code in shape.stopping_codes:
            raise TeacherStopped(f"{said} (code {code}); see teacher.key_env")
        if code in shape.passing_codes:
            raise TransientError(f"{said} (code {code})")
        if code in shape.rejected_codes or (reply.status >= 400 and _MODERATION.search(reply.text)):
            raise PromptRejected(said)

    def _names(self, handle: str) -> dict[str, str]:
        if self._shape.keep:
            return {name: str(value) for name, value in json.loads(handle).items()}
        return {"job": handle}

    def _values(self, request: ClipRequest) -> dict[str, Any]:
        return {**request_fields(request), "model": self._model or None}


def at(data: Any, path: str) -> Any:
    """Return what lies in ``data`` at the dotted ``path``, or None."""
    for name in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(name)
        elif isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data


def _paths(paths: str | Sequence[str]) -> Sequence[str]:
    return (paths,) if isinstance(paths, str) else paths


def _address(template: str, names: Mapping[str, str], safe: str = "") -> str:
    if whole := FIELD.fullmatch(template):
        return names.get(whole[1], "")
    return FIELD.sub(lambda found: quote(names.get(found[1], ""), safe=safe), template)


def _form(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
