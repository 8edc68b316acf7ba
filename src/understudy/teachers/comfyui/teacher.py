"""A workflow of one's own ComfyUI as a black box: the graph is the user's, exported as it is; only chosen inputs are filled.

Wire shape: ``POST /prompt`` with the graph, ``GET /history/{id}`` until it is there, ``GET /view`` for the file.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from understudy.errors import ConfigError, JobForgotten, TeacherStopped, TransientError
from understudy.files import sha256_hex
from understudy.reading import JSON_BYTES, read_limited
from understudy.tables import read_json
from understudy.teachers.base import ClipParams, ClipRequest, JobStatus, Terms
from understudy.teachers.comfyui.config import ComfyTeacherConfig
from understudy.teachers.fields import fill, request_fields
from understudy.teachers.replies import Reply, one_line
from understudy.teachers.web import Web
from understudy.video.ingest.tars import VIDEO_SUFFIXES

_JOBS = uuid.UUID("6f1c9a52-3f0e-5c1b-9d64-0b2f6a7c8e31")  # names our jobs: the same submission, the same id

Graph = dict[str, dict[str, Any]]


def load_workflow(path: Path) -> Graph:
    """Return the workflow that ComfyUI's "Export (API)" wrote to ``path``: nodes by their ids.

    Raises:
        ConfigError: it is missing, no JSON, or in the form that the editor saves.
    """
    try:
        graph = read_json(read_limited(path, JSON_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(f"teacher.workflow {path} cannot be read as JSON: {' '.join(str(error).split())}") from None
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise ConfigError(f"teacher.workflow {path} is what the editor saves; use Workflow > Export (API) instead")
    nodes = graph.values() if isinstance(graph, dict) else ()
    if not nodes or not all(isinstance(n, dict) and isinstance(n.get("inputs"), dict) for n in nodes):
        raise ConfigError(f"teacher.workflow {path} is no workflow in API format; use Workflow > Export (API)")
    return {str(name): node for name, node in graph.items()}


def find_node(graph: Graph, name: str) -> str:
    """Return the id of the node with this id or, when only one has it, this title.

    Raises:
        ConfigError: there is none, or several have the title.
    """
    if name in graph:
        return name
    titled = [number for number, node in graph.items() if (node.get("_meta") or {}).get("title") == name]
    if len(titled) == 1:
        return titled[0]
    there = ", ".join(
        f"{n} ({(node.get('_meta') or {}).get('title') or node.get('class_type')})" for n, node in graph.items()
    )
    what = "has several nodes titled" if titled else "has no node"
    raise ConfigError(f"the workflow {what} {name!r}; its nodes are {there[:400]}")


class ComfyTeacher:
    """A workflow on a ComfyUI server; a `understudy.teachers.base.JobTeacher`.

    Servers since the summer of 2025 take the job's id from us, so that a submission whose answer was lost is found
    again. Older ones choose it; after the first job that is known, and such a submission is left to the user. Where a
    clip costs money it is taken to be so from the start.
    """

    local = own_files = False
    lists = True
    currency = "USD"

    def __init__(
        self,
        web: Web,
        workflow: Graph,
        nodes: Mapping[str, Any],
        terms: Terms,
        model: str = "",
        output: str = "",
        price_per_clip: float = 0.0,
    ) -> None:
        """Check that everything to be filled is in the workflow; nothing is sent yet.

        Args:
            web: the server.
            workflow: see `load_workflow`.
            nodes: what goes into which input, by ``NODE.input``; see `understudy.teachers.fields`.
            terms: of the weights in it.
            model: what to call it.
            output: node whose file is the clip; empty: the only video that the workflow saves.
            price_per_clip: for nodes that ask paid services.

        Raises:
            ConfigError: a node or an input is missing, or neither prompt nor seed go anywhere.
        """
        self._web, self._graph, self._price, self.terms = web, workflow, price_per_clip, terms
        self._fills: list[tuple[str, str, Any]] = []
        for place, template in nodes.items():
            name, _, entry = place.rpartition(".")
            number = find_node(workflow, name)
            inputs = workflow[number]["inputs"]
            if entry not in inputs:
                raise ConfigError(f"teacher.nodes: node {name!r} has no input {entry!r}; it has {', '.join(inputs)}")
            self._fills.append((number, entry, template))
        for need in ("{prompt}", "{seed}"):
            if need not in str(list(nodes.values())):
                raise ConfigError(f"teacher.nodes puts {need} nowhere; give NODE.input: '{need}'")
        self._output = find_node(workflow, output) if output else ""
        self.idempotent = price_per_clip == 0
        self._client = f"understudy-{uuid.uuid4().hex}"
        settings = sha256_hex(json.dumps([workflow, dict(nodes), self._output], sort_keys=True).encode())[:8]
        self.name = f"comfyui/{web.host}/{model or 'workflow'}-{settings}"

    def price(self, params: ClipParams) -> float | None:
        """Return what one clip costs: nothing, unless the recipe says so."""
        return self._price

    def submit(self, request: ClipRequest) -> str:
        """Send the filled graph and return the job's id, that of an earlier try if it had arrived."""
        job = _own_id(request)
        if self._history(job) is not None or self._waits(job):
            return job
        graph, values = deepcopy(self._graph), request_fields(request)
        for number, entry, template in self._fills:
            graph[number]["inputs"][entry] = fill(template, values)
        sent = {"prompt": graph, "prompt_id": job, "client_id": self._client}
        reply = self._web.ask("POST", "/prompt", json=sent)
        if reply.status >= 400:
            raise TeacherStopped(f"{self._web.host} refuses the workflow: {_complaint(reply)}")
        got = reply.data.get("prompt_id") if isinstance(reply.data, dict) and reply.status < 300 else None
        if not isinstance(got, str) or not 0 < len(got) <= 200 or not got.isprintable() or not got.strip("./\\ \ufffd"):
            raise TransientError(f"{self._web.host} answered without a prompt_id: {reply.reason}", unsure=True)
        self.idempotent = got == job
        return got

    def find(self, request: ClipRequest, begun: float, known: Callable[[str], bool]) -> str | None:
        """Look for the job under the id that was sent with it."""
        job = _own_id(request)
        return job if self._history(job) is not None or self._waits(job) else None

    def give_up(self) -> None:
        """End questions and downloads under way, soon."""
        self._web.give_up()

    def poll(self, handle: str) -> JobStatus:
        """Look for the job in the history, or else in the queue."""
        entry = self._history(handle)
        if entry is None:
            if self._waits(handle):
                return JobStatus("running")
            entry = self._history(handle)  # it may have ended between the two questions
        if entry is None:
            raise JobForgotten(f"{self._web.host} has the job neither in its queue nor in its history")
        status, outputs = entry.get("status"), entry.get("outputs")
        if isinstance(status, dict) and status.get("status_str") == "error":
            return JobStatus("failed", _failure(status.get("messages")))
        return JobStatus("done", asset=f"/view?{urlencode(self._saved(outputs if isinstance(outputs, dict) else {}))}")

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        """Fetch the file that the workflow saved."""
        self._web.download(status.asset, path, status.seconds)

    # --- inside -------------------------------------------------------------------------------------------------

    def _ask(self, path: str) -> Any:
        reply = self._web.ask("GET", path)
        if reply.status >= 400 or not isinstance(reply.data, dict):
            raise TransientError(f"{self._web.host} answered {path} with status {reply.status} and no JSON")
        return reply.data

    def _history(self, job: str) -> dict[str, Any] | None:
        entry = self._ask(f"/history/{quote(job)}").get(job)
        return entry if isinstance(entry, dict) else None

    def _waits(self, job: str) -> bool:
        """Say whether the job is in the queue or at work."""
        queue = self._ask("/queue")
        lists = [queue.get(name) for name in ("queue_running", "queue_pending")]
        if not all(isinstance(items, list) for items in lists):
            raise TransientError(f"{self._web.host} answered /queue with no queue")
        return any(isinstance(item, list) and len(item) > 1 and item[1] == job for items in lists for item in items)

    def _saved(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the place of the one video that the workflow saved."""
        nodes = {self._output: outputs.get(self._output)} if self._output else outputs
        files = [(node, file) for node, value in nodes.items() for file in _files(value)]
        videos = [(n, file) for n, file in files if Path(str(file["filename"])).suffix.lower() in VIDEO_SUFFIXES]
        kept = [(n, file) for n, file in videos if file.get("type") == "output"] or videos
        if not kept:
            there = ", ".join(sorted(str(file["filename"]) for _, file in files)[:4]) or "nothing"
            raise TeacherStopped(
                f"the workflow saves no video ({there}); end it in a node that does, such as Save Video"
            )
        if len({node for node, _ in kept}) > 1:
            names = ", ".join(sorted({node for node, _ in kept}))
            raise TeacherStopped(f"the workflow saves several videos (nodes {names}); name one in teacher.output")
        return {name: str(kept[0][1].get(name) or "") for name in ("filename", "subfolder", "type")}


def _files(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the files in what a node put out: core nodes say ``images``, common extensions ``gifs`` or ``videos``."""
    for items in value.values() if isinstance(value, dict) else ():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get("filename"):
                yield item


def _own_id(request: ClipRequest) -> str:
    return str(uuid.uuid5(_JOBS, request.key))


def _failure(messages: Any) -> str:
    """Return what the history says of a run that ended in an error."""
    told = messages if isinstance(messages, list) else []
    said = {str(m[0]): m[1] for m in told if isinstance(m, list) and len(m) > 1 and isinstance(m[1], dict)}
    if "execution_interrupted" in said:
        return "the run was interrupted at the server"
    crash = said.get("execution_error", {})
    text = f"node {crash.get('node_id')} ({crash.get('node_type')}): {crash.get('exception_message', '')}"
    return one_line(text) if crash else "the run failed"


def _complaint(reply: Reply) -> str:
    """Return what the validation says is wrong, node by node."""
    data = reply.data if isinstance(reply.data, dict) else {}
    parts = [reply.reason]
    nodes = data.get("node_errors")
    for number, node in nodes.items() if isinstance(nodes, dict) else ():
        errors = node.get("errors") if isinstance(node, dict) else None
        for error in errors if isinstance(errors, list) else ():
            if isinstance(error, dict):
                parts.append(f"node {number}: {error.get('message')} ({error.get('details')})")
    return one_line("; ".join(parts), 400)


def build(config: ComfyTeacherConfig, sealed: Path | None) -> ComfyTeacher:
    """Return the workflow as a teacher; nothing is asked yet."""
    return ComfyTeacher(
        Web(config.url, config.key_env, plain_http=config.plain_http, max_bytes=config.max_megabytes << 20),
        load_workflow(config.workflow),
        config.nodes,
        config.stated_terms("comfyui", config.model),
        config.model,
        config.output,
        config.price_per_clip,
    )
