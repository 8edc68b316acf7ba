"""One teacher for every service that takes a job, is polled and serves a file; what differs is data (shapes.yaml)."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from understudy.errors import JobForgotten, PromptRejected, TeacherError, TeacherStopped, TransientError
from understudy.files import sha256_hex
from understudy.prompts import normalise
from understudy.teachers.base import ClipParams, ClipRequest, JobState, JobStatus, Terms
from understudy.teachers.fields import FIELD, fill, request_fields
from understudy.teachers.inline import find_clip
from understudy.teachers.refusals import is_prompts, what_stops
from understudy.teachers.replies import Reply, one_line
from understudy.teachers.shape import Shape, load_shape, merge
from understudy.teachers.web import Web

__all__ = ["Shape", "WireTeacher", "at", "load_shape", "merge"]

_LONGEST_ID, _LONGEST_ADDRESS, _LONGEST_NOTE = 512, 4096, 4096
_PAGES = 10
_LATE = 600.0  # seconds by which the service's clock, or its list, may differ from ours
_PROMPTS_OWN = (400, 403, 422, 451)  # statuses at which a refusal may be the prompt's
# A failed job that seems to be moderated, though nothing structured says so: handing it in again costs again.
_HINT = re.compile(r"moderat|safety|sensitive|polic(y|ies)|nsfw|prohibited|inappropriate|content.?filter|flagged", re.I)


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
        self.lists = shape.list is not None
        settings = sha256_hex(json.dumps(shape.body, sort_keys=True).encode())[:8]
        self.name = f"{kind}/{web.host}/{model or 'default'}-{settings}"
        self._form: bool | None = {"form": True, "json": False}.get(shape.encoding)  # None: not known yet

    def price(self, params: ClipParams) -> float | None:
        """Return what one clip costs at the recipe's price."""
        if self._price_per_clip is not None:
            return self._price_per_clip
        if self._price_per_second is not None and params.frames and params.fps:
            return self._price_per_second * params.frames / params.fps
        return None

    def submit(self, request: ClipRequest) -> str:
        """Send the request, as a form where this server wants no JSON, and return the job's id."""
        shape, web = self._shape, self._web
        reply, form = self._hand_in(request)
        self._check_codes(reply)
        if reply.status >= 400:
            self._refuse(reply)
        job = self._id(at(reply.data, shape.job)) if 200 <= reply.status < 300 else ""
        if not job:
            if 200 <= reply.status < 300 and is_prompts(reply.data):
                raise PromptRejected(f"{web.host} says: {reply.reason}")
            said = f"{web.host} answered {reply.status} without a job id that can be used ({shape.job})"
            raise TransientError(f"{said}: {reply.reason}", unsure=True)
        self._form = form
        names = {"job": job, "app": "/".join(self._model.split("/")[:2])}
        kept = {
            name: self._own(at(reply.data, path)) or _address(shape.fallback.get(name, ""), names, safe="/")
            for name, path in shape.keep.items()
        }
        return json.dumps({"job": job, **kept}) if kept else job

    def poll(self, handle: str) -> JobStatus:
        """Ask for the job; where the clip's address is in a reply of its own, ask for that too."""
        shape, names = self._shape, self._names(handle)
        reply = self._ask(shape.poll, names)
        word = next((word for path in _paths(shape.state) if isinstance(word := at(reply.data, path), str)), "").strip()
        if not word:
            raise TransientError(f"{self._web.host} says nothing of the job's state: {reply.reason}")
        known = shape.state_of(word)
        asset = "" if known in ("failed", "expired") else self._asset(reply.data)
        state: JobState = known or ("done" if asset else "running")
        if state == "done" and any(at(reply.data, path) for path in shape.error_at):
            state = "failed"
        if state in ("failed", "expired", "rejected"):
            return self._ended(state, reply)
        if state != "done":
            return JobStatus("running", strange="" if known else one_line(word, 60))
        if shape.result:
            reply = self._ask(shape.result, names, final=True)
            asset = self._asset(reply.data)
        if not (asset or shape.asset):
            raise TransientError(f"{self._web.host} calls the job done but names no clip: {reply.reason}")
        cost = at(reply.data, shape.cost) if shape.cost else None
        notes = {
            name: str(found)[:_LONGEST_NOTE] for name, path in shape.notes.items() if (found := at(reply.data, path))
        }
        return JobStatus("done", asset=asset, cost=_price(cost), notes=notes)

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """Fetch the clip from the address in the last reply, or from the shape's own."""
        self._web.download(status.asset or _address(self._shape.asset, self._names(handle)), path, status.seconds)

    def give_up(self) -> None:
        """End questions and downloads under way, soon."""
        self._web.give_up()

    def find(self, request: ClipRequest, begun: float, known: Callable[[str], bool]) -> str | None:
        """Look for a job in the service's list that has this prompt and seed, and was made when ``request`` was sent."""
        listing = self._shape.list
        if listing is None or self._shape.keep:
            return None
        seeded = "{seed" in json.dumps(self._shape.body)
        for entry in self._listed():
            job, made = self._id(at(entry, self._shape.job)), _seconds(at(entry, listing.created))
            prompt = next((text for path in listing.prompt if isinstance(text := at(entry, path), str)), None)
            seed = next((found for path in listing.seed if (found := at(entry, path)) is not None), None)
            if not job or made is None or prompt is None or normalise(prompt) != request.prompt:
                continue
            if seeded and str(seed) != str(request.seed):
                continue
            if begun - _LATE <= made <= begun + _LATE and not known(job):
                return job
        return None

    # --- inside -------------------------------------------------------------------------------------------------

    def _hand_in(self, request: ClipRequest) -> tuple[Reply, bool]:
        """Send the request; return the answer, and whether it was sent as a form."""
        shape, web = self._shape, self._web
        body = fill(shape.body, {**request_fields(request), "model": self._model or None})
        headers = {"Idempotency-Key": request.key}
        path = _address(shape.submit, {"model": self._model}, safe="/:")
        if self._form:
            return web.ask("POST", path, form=_form(body), headers=headers), True
        reply = web.ask("POST", path, json=body, headers=headers)
        if self._form is None and reply.status in (400, 415, 422) and not is_prompts(reply.data):
            as_form = web.ask("POST", path, form=_form(body), headers=headers)
            if as_form.status < 400:
                return as_form, True
        return reply, False

    def _refuse(self, reply: Reply) -> None:
        """Raise what an answer means that refuses a request."""
        if reply.status in _PROMPTS_OWN and is_prompts(reply.data):
            raise PromptRejected(f"{self._web.host} says: {reply.reason} (status {reply.status})")
        what = what_stops(reply.status, reply.text[:4000])
        raise TeacherStopped(
            f"{self._web.host} {what}: {reply.reason or 'it does not say why'} (status {reply.status}); see its account and "
            "teacher.url, teacher.key_env, teacher.model and teacher.body"
        )

    def _ask(self, template: str, names: Mapping[str, str], final: bool = False) -> Reply:
        """Ask about a job; ``final``: the answer is its end, so that what it refuses would be refused again."""
        address = _address(template, names)
        if not address:
            raise TransientError(f"{self._web.host} gave no address to ask about the job")
        reply = self._web.ask("GET", address, most=self._web.most_inline)
        said = f"{self._web.host} says of a job it has: {reply.reason} (status {reply.status})"
        if reply.status == 404 and isinstance(reply.data, Mapping) and not final:
            raise JobForgotten(f"{self._web.host} does not know the job any more: {reply.reason}")
        if reply.status == 200 and reply.data is None:
            raise TransientError(f"{self._web.host} answered with something that is no JSON")
        self._check_codes(reply)
        if reply.status >= 400 and reply.status in _PROMPTS_OWN:
            if is_prompts(reply.data):
                raise PromptRejected(said)
            if final:
                self._refuse(reply)
        if reply.status >= 300:
            raise TransientError(said)  # whatever is wrong with the question, the job is there
        return reply

    def _check_codes(self, reply: Reply) -> None:
        """Raise what the shape's codes in an answer mean."""
        shape = self._shape
        code = at(reply.data, shape.code_at) if shape.code_at else None
        if not isinstance(code, int | str):
            return
        said = f"{self._web.host} says: {reply.reason} (code {code})"
        if code in shape.stopping_codes:
            raise TeacherStopped(f"{said}; see its account and teacher.key_env, teacher.model and teacher.body")
        if code in shape.passing_codes or code in shape.unsure_codes:
            raise TransientError(said, unsure=code in shape.unsure_codes)
        if code in shape.rejected_codes:
            raise PromptRejected(said)

    def _ended(self, state: JobState, reply: Reply) -> JobStatus:
        """Return how a job ended that brought no clip."""
        found = next((found for path in self._shape.reason if (found := at(reply.data, path))), "")
        reason = one_line(found)
        marked = any(re.search(text, reason) for text in self._shape.rejected_texts)
        if state == "rejected" or marked or is_prompts(reply.data):
            return JobStatus("rejected", reason or reply.reason)
        return JobStatus(state, reason, again=not _HINT.search(reason))

    def _asset(self, data: Any) -> str:
        """Return the address of the clip in an answer, or the clip itself as one."""
        for path in self._shape.asset_at:
            found = at(data, path)
            if isinstance(found, str) and (
                found[:5].lower() == "data:" or (len(found) <= _LONGEST_ADDRESS and re.match(r"[A-Za-z]+://|/", found))
            ):
                return found
        return find_clip(data)

    def _listed(self) -> Iterator[Any]:
        """Yield the entries of the service's list of jobs, newest first, of a few pages."""
        listing = self._shape.list
        address = listing.url if listing else ""
        for _ in range(_PAGES):
            reply = self._web.ask("GET", address) if address and listing else None
            entries = at(reply.data, listing.entries) if reply and listing and reply.status == 200 else None
            if not isinstance(entries, list) or not entries or reply is None or listing is None:
                return
            yield from entries
            last, following = self._id(at(entries[-1], self._shape.job)), at(reply.data, listing.more)
            names = {"last": last, "next": self._own(following)}
            address = _address(listing.next, names) if following and listing.next else ""

    def _own(self, address: Any) -> str:
        """Return ``address`` where it is one at the service's own origin, or nothing."""
        fits = isinstance(address, str) and len(address) <= _LONGEST_ADDRESS and self._web.serves(address)
        return address if fits else ""

    def _id(self, job: Any) -> str:
        """Return the job's id, or nothing where it is none that can stand in an address."""
        if self._shape.numeric_ids and isinstance(job, int) and not isinstance(job, bool):
            job = str(job)
        fits = isinstance(job, str) and len(job) <= _LONGEST_ID and job.isprintable() and not re.search(r"\s", job)
        return job if fits and job.strip("./\\") and "\ufffd" not in job else ""

    def _names(self, handle: str) -> dict[str, str]:
        if not self._shape.keep:
            return {"job": handle}
        try:
            return {name: str(value) for name, value in json.loads(handle).items()}
        except (ValueError, AttributeError):
            raise TeacherError(f"the ledger's handle {handle[:60]!r} is damaged") from None


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


def _seconds(when: Any) -> float | None:
    """Return a time as seconds since 1970, given so, in milliseconds or as ISO 8601."""
    if isinstance(when, str) and re.fullmatch(r"\d{9,16}(\.\d+)?", when):
        when = float(when)
    if isinstance(when, int | float) and not isinstance(when, bool):
        return when / 1000 if when > 1e11 else float(when)
    try:
        return datetime.fromisoformat(when).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _price(cost: Any) -> float | None:
    """Return what the service says that a clip has cost, where that can be a price."""
    number = isinstance(cost, int | float) and not isinstance(cost, bool)
    return float(cost) if number and 0 <= cost < 1e9 else None


def _paths(paths: str | Sequence[str]) -> Sequence[str]:
    return (paths,) if isinstance(paths, str) else paths


def _address(template: str, names: Mapping[str, str], safe: str = "") -> str:
    if whole := FIELD.fullmatch(template):
        return names.get(whole[1], "")
    return FIELD.sub(lambda found: quote(names.get(found[1], ""), safe=safe), template)


def _form(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
