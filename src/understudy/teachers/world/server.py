"""The embedded world as a server over real sockets, in the shape of any service, with faults on demand: a test tool.

It behaves like the servers it stands for, and worse: it can refuse, hang up, forget jobs, send half of a clip or no clip at
all. It counts what it did, so that a test can say whether a collector was told twice or lost anything.
"""

import json
import random
import secrets
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from understudy.errors import ConfigError, PromptRejected
from understudy.teachers.base import ClipParams
from understudy.teachers.world.dialects import DIALECTS, Dialect
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.teacher import WorldTeacher

SUBMIT_FAULTS: Final = ("429", "500", "503", "409", "425", "408", "drop", "accepted-drop")
POLL_FAULTS: Final = ("429", "500", "503", "drop", "garbage", "forget", "fail", "expire", "skew")
CONTENT_FAULTS: Final = ("503", "drop", "gone", "truncated", "empty", "html", "corrupt", "private-redirect")


@dataclass
class Job:
    """One job of the server: its id, the key it was submitted under, the clip asked for, and what became of it."""

    id: str
    key: str
    request: dict[str, Any]
    begun: float
    due: float
    made: float = field(default_factory=time.time)
    ended: str = ""
    forgotten: bool = False

    @property
    def good(self) -> bool:
        """Whether the server stands by it."""
        return not (self.ended or self.forgotten)

    def state(self, now: float) -> str:
        """Return its state at the time ``now``; see `understudy.teachers.world.dialects.Dialect`."""
        if self.ended or now >= self.due:
            return self.ended or "done"
        return "queued" if now < self.begun + 0.1 * (self.due - self.begun) else "running"


@dataclass
class World:
    """What the server is and has done.

    Attributes:
        teacher: who draws.
        delay: seconds a job takes.
        faults: share of the requests that meet a fault, 0..1.
        seed: of the faults, and of the durations.
        spread: jobs take from 1 - spread to 1 + spread times ``delay``.
        shape: how it speaks, one of `understudy.teachers.world.dialects.DIALECTS`.
        api_key: what requests have to carry; empty: nothing.
        late: refuse prompts in the job instead of at its submission.
        lists: keep a list of the jobs, where the dialect has one.
        injected: how often each fault was injected, by ``stage:fault``.
        jobs: every job ever made, by id.
        asked: requests by place.
    """

    teacher: WorldTeacher = field(default_factory=WorldTeacher)
    delay: float = 0.0
    faults: float = 0.0
    seed: int = 0
    spread: float = 0.0
    shape: str = "openai-videos"
    api_key: str = ""
    late: bool = False
    lists: bool = False
    injected: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, Job] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.shape not in DIALECTS:
            raise ConfigError(f"no server speaks {self.shape!r}; choose one of {', '.join(DIALECTS)}")
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._by_key: dict[str, Job] = {}
        self._name = secrets.token_hex(4)  # a server that was started again gives no id twice

    @property
    def dialect(self) -> Dialect:
        """How it speaks."""
        return DIALECTS[self.shape]

    def fault(self, stage: str, kinds: tuple[str, ...]) -> str:
        """Return the fault that this request meets, or nothing."""
        with self._lock:
            if self._random.random() >= self.faults:
                return ""
            kind = self._random.choice(kinds)
            self.injected[f"{stage}:{kind}"] += 1
            return kind

    def submit(self, request: dict[str, Any], key: str, name: str = "") -> Job:
        """Return the job for this request: the one that the same key made before, or a new one, called ``name``."""
        with self._lock:
            known = self._by_key.get(key) if key else None
            if known is not None:
                return known
            now, number = time.monotonic(), len(self.jobs)
            # By its number, not by the order of the draws: the same jobs take as long whatever else is asked.
            share = 1 + self.spread * random.Random(f"{self.seed}-{number}").uniform(-1, 1)
            job = Job(name or f"video-{self._name}-{number}", key, request, now, now + share * self.delay)
            if self.late and not _drawable(request["prompt"]):
                job.ended = "moderated"
            self.jobs[job.id] = job
            if key:
                self._by_key[key] = job
            return job

    def draw(self, job: Job) -> bytes:
        """Return the clip of ``job``."""
        ask = job.request
        seconds, fps = ask.get("seconds"), ask.get("fps") or self.teacher.fps
        frames = ask.get("frames") or (max(2, round(seconds * fps)) if seconds else None)
        params = ClipParams(frames, fps, ask.get("width"), ask.get("height"))
        return self.teacher.generate(ask["prompt"], ask.get("seed", 1024), params)


def _drawable(prompt: str) -> bool:
    try:
        parse(prompt)
    except PromptRejected:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: otherwise the second waits 40 ms for the first to be acknowledged
    disable_nagle_algorithm = True
    world: World

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Take a job."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        world, dialect = self.world, self.world.dialect
        if self._locate("POST")[0] != "submit":
            self._answer(dialect.unknown())
            return
        if world.api_key and self.headers.get("authorization") != f"{dialect.scheme} {world.api_key}":
            self._answer((401, {"error": {"message": "no such key"}}))
            return
        fault = world.fault("submit", SUBMIT_FAULTS)
        if self._plain_fault(fault):
            return
        try:
            fields = dialect.read(body, self.headers.get("content-type", ""))
            request = dialect.wanted(fields)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            self._answer(dialect.malformed(f"{type(error).__name__}: {error}"))
            return
        if not (world.late or _drawable(request["prompt"])):
            self._answer(dialect.moderated("this prompt is not drawn here"))
            return
        job = world.submit(request, self.headers.get("idempotency-key", ""), dialect.named(fields))
        if fault == "accepted-drop":
            self._hang_up()
            return
        self._answer(dialect.accepted(job.id, self._origin(), fields))

    def do_GET(self) -> None:
        """Answer about a job, or send its clip."""
        place, number = self._locate("GET")
        dialect, job = self.world.dialect, self.world.jobs.get(number)
        if place == "queue":
            now = time.monotonic()
            waiting = [j.id for j in self.world.jobs.values() if j.good and j.state(now) in ("queued", "running")]
            self._answer((200, {"queue_running": [[0, name] for name in waiting], "queue_pending": []}))
        elif place == "list" and self.world.lists:
            self._answer(
                dialect.listed([(j.id, j.made, j.request) for j in self.world.jobs.values() if not j.forgotten])
            )
        elif job is None or job.forgotten or not place:
            self._answer(dialect.unknown())
        elif place == "content":
            self._content(job)
        elif place == "result":
            fault = self.world.fault("result", ("503", "drop"))
            if not self._plain_fault(fault):
                self._answer(dialect.result(job.id, job.state(time.monotonic()), self._origin()))
        else:
            self._status(job)

    def _locate(self, method: str) -> tuple[str, str]:
        path, _, query = self.path.partition("?")
        place = self.world.dialect.locate(method, path, query)
        self.world.asked[place[0]] += 1
        return place

    def _origin(self) -> str:
        return f"http://{self.headers['host']}"

    def _status(self, job: Job) -> None:
        fault = self.world.fault("poll", POLL_FAULTS)
        if self._plain_fault(fault):
            return
        if fault == "garbage":
            self._raw(200, b"<html>busy</html>", "application/json")
            return
        if fault == "forget" or (fault == "expire" and not self.world.dialect.expires):
            job.forgotten = True
            self._answer(self.world.dialect.unknown())
            return
        if fault in ("fail", "expire"):
            job.ended = job.ended or {"fail": "failed", "expire": "expired"}[fault]
        status, said = self.world.dialect.progress(job.id, job.state(time.monotonic()), self._origin())
        if fault == "skew" and isinstance(said, dict):  # a clock that is years behind
            said |= {"created_at": 0, "expires_at": 1}
        self._answer((status, said))

    def _content(self, job: Job) -> None:
        fault = self.world.fault("content", CONTENT_FAULTS)
        if self._plain_fault(fault):
            return
        if fault == "gone":
            self._answer((404, {"error": {"message": "expired"}}))
        elif fault == "private-redirect":
            self.send_response(302)
            self.send_header("Location", "https://10.0.0.1/clip.mp4")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "empty":
            self._raw(200, b"", "video/mp4")
        elif fault == "html":
            self._raw(200, b"<html>please log in</html>", "text/html")
        else:
            clip = self.world.draw(job)
            if fault == "corrupt":
                clip = clip[:40] + bytes(len(clip) - 40)
            self._raw(200, clip, "video/mp4", cut=fault == "truncated")

    def _plain_fault(self, fault: str) -> bool:
        if fault.isdigit():
            self._answer(
                (int(fault), {"error": {"message": "try again"}}), {"Retry-After": "0"} if fault == "429" else {}
            )
        elif fault == "drop":
            self._hang_up()
        else:
            return False
        return True

    def _hang_up(self) -> None:
        self.close_connection = True

    def _answer(self, answer: tuple[int, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(answer[0], json.dumps(answer[1]).encode(), "application/json", headers)

    def _raw(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def serve(world: World, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a bound server of ``world``; ``serve_forever`` runs it and ``server_port`` says where it is."""
    return _Server((host, port), type("Handler", (_Handler,), {"world": world}))
