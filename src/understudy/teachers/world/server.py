"""The embedded world behind ``/v1/videos``, over real sockets, with faults on demand: a test tool.

It behaves like the servers it stands for, and worse: it can refuse, hang up, forget jobs, send half of a clip or no clip at
all. It counts what it did, so that a test can say whether a collector was told twice or lost anything.
"""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from understudy.errors import PromptRejected
from understudy.teachers.base import ClipParams
from understudy.teachers.world.teacher import WorldTeacher

SUBMIT_FAULTS: Final = ("429", "500", "503", "409", "425", "408", "drop", "accepted-drop")
POLL_FAULTS: Final = ("429", "500", "503", "drop", "garbage", "forget", "fail", "skew")
CONTENT_FAULTS: Final = ("503", "drop", "gone", "truncated", "empty", "html", "corrupt", "private-redirect")


@dataclass
class Job:
    """One job of the server."""

    id: str
    key: str
    request: dict[str, Any]
    due: float
    failed: bool = False
    forgotten: bool = False


@dataclass
class World:
    """What the server is and has done.

    Attributes:
        teacher: who draws.
        delay: seconds a job takes.
        faults: share of the requests that meet a fault, 0..1.
        seed: of the faults.
        injected: how often each fault was injected, by ``stage:fault``.
        jobs: every job ever made, by id.
    """

    teacher: WorldTeacher = field(default_factory=WorldTeacher)
    delay: float = 0.0
    faults: float = 0.0
    seed: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._by_key: dict[str, Job] = {}

    def fault(self, stage: str, kinds: tuple[str, ...]) -> str:
        """Return the fault that this request meets, or nothing."""
        with self._lock:
            if self._random.random() >= self.faults:
                return ""
            kind = self._random.choice(kinds)
            self.injected[f"{stage}:{kind}"] += 1
            return kind

    def submit(self, request: dict[str, Any], key: str) -> Job:
        """Return the job for this request: the one that the same key made before, or a new one."""
        with self._lock:
            known = self._by_key.get(key) if key else None
            if known is not None:
                return known
            job = Job(f"video-{len(self.jobs)}", key, request, time.monotonic() + self.delay)
            self.jobs[job.id] = job
            if key:
                self._by_key[key] = job
            return job

    def draw(self, job: Job) -> bytes:
        """Return the clip of ``job``."""
        ask = job.request
        width, _, height = str(ask.get("size", "")).partition("x")
        params = ClipParams(
            frames=int(ask["num_frames"]) if "num_frames" in ask else None,
            fps=float(ask["fps"]) if "fps" in ask else None,
            width=int(ask.get("width") or width or 0) or None,
            height=int(ask.get("height") or height or 0) or None,
        )
        return self.teacher.generate(str(ask["prompt"]), int(ask.get("seed", 1024)), params)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Take a job."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.world.fault("submit", SUBMIT_FAULTS)
        if self._plain_fault(fault):
            return
        try:
            request = json.loads(body)
            prompt = str(request["prompt"])
        except (ValueError, KeyError, TypeError):
            self._send(422, {"error": {"message": "the body is no JSON with a prompt"}})
            return
        try:
            from understudy.teachers.world.grammar import parse

            parse(prompt)
        except PromptRejected as error:
            self._send(400, {"error": {"message": str(error), "code": "moderation_blocked"}})
            return
        job = self.world.submit(request, self.headers.get("idempotency-key", ""))
        if fault == "accepted-drop":
            self._hang_up()
            return
        self._send(200, {"id": job.id, "object": "video", "status": "queued"})

    def do_GET(self) -> None:
        """Answer about a job, or send its clip."""
        parts = self.path.split("?")[0].strip("/").split("/")
        job = self.world.jobs.get(parts[2]) if parts[:2] == ["v1", "videos"] and len(parts) > 2 else None
        if job is None or job.forgotten:
            self._send(404, {"error": {"message": "there is no such video"}})
        elif parts[3:] == ["content"]:
            self._content(job)
        else:
            self._status(job)

    def _status(self, job: Job) -> None:
        fault = self.world.fault("poll", POLL_FAULTS)
        if self._plain_fault(fault):
            return
        if fault == "garbage":
            self._raw(200, b"<html>busy</html>", "application/json")
            return
        if fault == "forget":
            job.forgotten = True
            self._send(404, {"error": {"message": "there is no such video"}})
            return
        job.failed = job.failed or fault == "fail"
        state = "failed" if job.failed else "completed" if time.monotonic() >= job.due else "in_progress"
        said: dict[str, Any] = {"id": job.id, "object": "video", "status": state}
        if fault == "skew":  # a clock that is years behind
            said |= {"created_at": 0, "expires_at": 1}
        if job.failed:
            said["error"] = {"code": "internal", "message": "the worker crashed"}
        self._send(200, said)

    def _content(self, job: Job) -> None:
        fault = self.world.fault("content", CONTENT_FAULTS)
        if self._plain_fault(fault):
            return
        if fault == "gone":
            self._send(404, {"error": {"message": "expired"}})
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
            self._send(int(fault), {"error": {"message": "try again"}}, {"Retry-After": "0"} if fault == "429" else {})
        elif fault == "drop":
            self._hang_up()
        else:
            return False
        return True

    def _hang_up(self) -> None:
        self.close_connection = True

    def _send(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(value).encode(), "application/json", headers)

    def _raw(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve(world: World, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a bound server of ``world``; ``serve_forever`` runs it and ``server_port`` says where it is."""
    return _Server((host, port), type("Handler", (_Handler,), {"world": world}))
