"""A video service that misbehaves, written from the vendors' documents of November 2026 and not from our client.

    python benchmarks/provider.py            # prints its port; benchmarks/paid.py uses it

It speaks six vendors' shapes at once. Every job that it makes is billed, whatever it answers. The first word of a prompt is
the trial that it belongs to: ``POST /_control`` says which answer meets a trial's prompts at which place, and
``GET /_control?TRIAL`` returns its books. Places: submit, poll, result, content.
"""

import base64
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import numpy as np

from understudy.video.clips import Clip, encode_mp4

VENDORS: Final = ("openai", "openrouter", "fal", "ark", "minimax", "replicate")
CLIP: Final = encode_mp4(Clip(np.full((3, 16, 16, 3), 90, np.uint8), 8))
BIG: Final = 9 * 2**20


@dataclass
class Answer:
    """One odd answer.

    Attributes:
        status, body, headers: as they are sent.
        makes: at submission: the job is made, and billed, before the answer leaves.
        how: what else is wrong: drop (hang up), reset, cut (half of the body), drip (a byte a second), hang, late.
        refuses: it says in a structured way that this very prompt is refused.
        fails: what the job's state becomes, as the vendor sees it: failed or expired.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    makes: bool = False
    how: str = ""
    refuses: bool = False
    fails: str = ""


def said(status: int, data: Any, **how: Any) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json"}, **how)


def page(status: int, text: str = "<html><head><title>Attention Required!</title></head></html>", **how: Any) -> Answer:
    """Return an answer in HTML, as firewalls and proxies give it."""
    return Answer(status, text.encode(), {"Content-Type": "text/html; charset=UTF-8"}, **how)


def error(code: Any, message: str, **more: Any) -> dict[str, Any]:
    """Return OpenAI's form of an error."""
    return {"error": {"code": code, "message": message, "type": "invalid_request_error", "param": None, **more}}


def detail(field_name: str, message: str, kind: str = "value_error") -> dict[str, Any]:
    """Return fal's form of an error (FastAPI's)."""
    return {"detail": [{"loc": ["body", field_name], "msg": message, "type": kind, "input": 512}]}


DEEP: Final = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ID: Final = {
    "openai": "id",
    "openrouter": "id",
    "fal": "request_id",
    "ark": "id",
    "minimax": "task_id",
    "replicate": "id",
}

# --- at submission ----------------------------------------------------------------------------------------------

REFUSALS: Final[dict[str, Answer]] = {  # nothing is made; not the prompt's
    "balance-403": said(403, {"detail": "User is locked. Reason: Exhausted balance."}),
    "revoked-403": said(403, error("invalid_api_key", "API key has been revoked")),
    "key-401": said(401, error("invalid_api_key", "Incorrect API key provided")),
    "credit-402": said(
        402, {"title": "Insufficient credit", "detail": "You have insufficient credit to run this model"}
    ),
    "billing-400": said(400, error("billing_hard_limit_reached", "Billing hard limit has been reached")),
    "quota-429": said(429, error("insufficient_quota", "You exceeded your current quota, check your plan and billing")),
    "rate-429": said(429, error("rate_limit_exceeded", "Rate limit reached")),
    "rate-429-long": Answer(429, b"{}", {"Retry-After": "3600"}),
    "firewall-403": page(403),
    "firewall-policy-403": page(403, "<html>blocked by the security policy of this site</html>"),
    "model-404": said(404, {"detail": 'Application "x" not found'}),
    "model-404-openai": said(404, error("model_not_found", "The model does not exist or you do not have access")),
    "page-404": page(404, "<html>404</html>"),
    "method-405": said(405, {"detail": "Method Not Allowed"}),
    "gone-410": said(410, error("model_deprecated", "This model has been retired")),
    "large-413": page(413, "<html>413 Request Entity Too Large</html>"),
    "media-415": said(415, {"detail": "Unsupported Media Type"}),
    "legal-451": said(451, error("unsupported_country_region_territory", "not available in your country")),
    "frames-422": said(422, detail("num_frames", "ensure this value is less than or equal to 100")),
    "missing-422": said(422, detail("prompt", "Field required", "missing")),
    "resolution-400": said(400, error("invalid_value", "Invalid size", param="size")),
    "policy-word-400": said(400, error("invalid_request", "see our usage policy: safety_checker must be a boolean")),
    "policy-word-403": said(403, {"message": "Your organization must accept the content policy first"}),
    "unverified-403": said(
        403, error("organization_must_be_verified", "verify your organization to use moderation=low")
    ),
    "moderation-down-400": said(400, error("moderation_service_unavailable", "moderation could not be reached")),
    "too-early-425": said(425, {"detail": "Too Early"}),
    "teapot-418": page(418, ""),
    "upgrade-426": page(426, ""),
    "precondition-428": page(428, ""),
    "headers-431": page(431, ""),
}
HIDING: Final[dict[str, Answer]] = {  # the job is made and billed, and its id does not come back
    **{
        f"status-{s}": said(s, error("server_error", "internal"), makes=True)
        for s in (408, 409, 499, 500, 501, 502, 503)
    },
    **{f"status-{s}": page(s, makes=True) for s in (504, 507, 508, 520, 521, 522, 523, 524, 525, 526, 527, 530, 598)},
    "html-200": page(200, "<html>ok</html>", makes=True),
    "empty-200": Answer(200, b"", makes=True),
    "empty-204": Answer(204, b"", makes=True),
    "cut-json": Answer(200, b'{"id": "video_1', makes=True),
    "null-json": Answer(200, b"null", makes=True),
    "list-json": Answer(200, b"[]", makes=True),
    "text-json": Answer(200, b'"ok"', makes=True),
    "number-json": Answer(200, b"7", makes=True),
    "error-200": said(200, error("server_error", "something went wrong"), makes=True),
    "deep-json": Answer(200, DEEP, makes=True),
    "long-number": Answer(200, b'{"id": ' + b"9" * 50_000 + b"}", makes=True),
    "not-gzip": Answer(200, b"plainly not gzip", {"Content-Encoding": "gzip"}, makes=True),
    "not-brotli": Answer(200, b"\xff\xfe\xfd", {"Content-Encoding": "deflate"}, makes=True),
    "noise": Answer(200, bytes(range(256)) * 8, {"Content-Type": "application/json; charset=utf-16"}, makes=True),
    "no-such-charset": Answer(200, b"\x81\x82", {"Content-Type": "application/json; charset=klingon"}, makes=True),
    "too-large": Answer(200, b" " * BIG, makes=True),
    "moved-301": Answer(301, b"", {"Location": "/elsewhere"}, makes=True),
    "see-303": Answer(303, b"", {"Location": "/v1/videos/1"}, makes=True),
    "again-307": Answer(307, b"", {"Location": "/v1/videos"}, makes=True),
    "drop": Answer(how="drop", makes=True),
    "reset": Answer(how="reset", makes=True),
    "cut": Answer(200, b'{"id": "video_1", "status": "queued"}', how="cut", makes=True),
    "drip": Answer(200, b'{"id": "video_1", "status": "queued"}', how="drip", makes=True),
    "drip-head": Answer(how="drip-head", makes=True),
    "hang": Answer(how="hang", makes=True),
    "surrogates-500": Answer(500, b'{"error": {"message": "\\ud800 \\udfff broken"}}', makes=True),
}
ODD_IDS: Final[dict[str, Any]] = {
    "null": None,
    "true": True,
    "list": ["a"],
    "object": {"id": "a"},
    "number": 7,
    "fraction": 1.5,
    "huge-number": 10**300,
    "empty": "",
    "blank": "   ",
    "dot": ".",
    "dots": "..",
    "slashes": "//",
    "climb": "../../..",
    "control": "a\x00b\x1b[31m",
    "lines": "a\r\nHost: evil",
    "long": "x" * 100_000,
    "surrogate": "\ud800",
    "query": "   ?a=b  ",
}
PROMPTS_OWN: Final[dict[str, tuple[str, Answer]]] = {  # by vendor: refused for this prompt, in the vendor's own fields
    "openai-400": ("openai", said(400, error("content_policy_violation", "Your request was rejected", param="prompt"))),
    "openai-blocked": ("openai", said(400, error("moderation_blocked", "Your request was blocked by our moderation"))),
    "openai-length": ("openai", said(400, error("string_above_max_length", "string too long", param="prompt"))),
    "openrouter-403": (
        "openrouter",
        said(
            403,
            {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"], "flagged_input": "a"}}},
        ),
    ),
    "fal-422": ("fal", said(422, detail("prompt", "flagged by a content checker", "content_policy_violation"))),
    "fal-length": ("fal", said(422, detail("prompt", "ensure this value has at most 800 characters"))),
    "ark-text": ("ark", said(400, error("InputTextSensitiveContentDetected", "the input text may contain sensitive"))),
    "ark-risk": ("ark", said(400, error("SensitiveContentDetected.PolicyViolation", "violates the policy"))),
    "minimax-1026": ("minimax", said(200, {"base_resp": {"status_code": 1026, "status_msg": "input sensitive"}})),
}
MINIMAX_CODES: Final[dict[str, Answer]] = {
    f"minimax-{code}": said(200, {"base_resp": {"status_code": code, "status_msg": text}}, makes=makes)
    for code, text, makes in (
        *(
            (1004, "authentication failed", False),
            (1008, "insufficient balance", False),
            (2013, "invalid params", False),
        ),
        *((1002, "rate limit triggered", False), (2049, "invalid api key", False), (1039, "token limit", False)),
        *((1000, "unknown error", True), (1001, "request timeout", True), (1013, "internal service error", True)),
        *((1024, "internal error", True), (1033, "downstream error", True), (9999, "a new code", True)),
    )
}

# --- about a job that is there ----------------------------------------------------------------------------------

PASSING: Final[dict[str, Answer]] = {  # at poll and result: says nothing of the job
    **{f"status-{s}": said(s, error("server_error", "internal")) for s in (408, 409, 425, 429, 500, 502, 503)},
    **{f"status-{s}": page(s) for s in (504, 520, 522, 524, 530)},
    **{f"refused-{s}": page(s) for s in (400, 403, 404, 405, 410, 418, 422, 451)},
    **{
        k: v
        for k, v in HIDING.items()
        if k.startswith(("html", "empty", "cut", "null", "list", "text", "number", "deep"))
    },
    **{
        k: HIDING[k]
        for k in ("long-number", "not-gzip", "noise", "no-such-charset", "moved-301", "drop", "reset", "drip")
    },
    "no-state": said(200, {"object": "video"}),
    "state-null": said(200, {"status": None, "task": None}),
    "state-number": said(200, {"status": 7, "task": {"status": 7}}),
    "state-strange": said(200, {"status": "transmogrifying", "task": {"status": "transmogrifying"}}),
    "too-large": Answer(200, b" " * (5 * 2**20)),
    "announced-too-large": Answer(200, b"", {"Content-Length": str(2**40)}, how="late"),
    "long-wait": Answer(429, b"{}", {"Retry-After": "7200"}),
}
CONTENT: Final[dict[str, Answer]] = {  # in place of the clip
    **{f"status-{s}": page(s) for s in (204, 206, 400, 401, 403, 404, 408, 410, 429, 500, 502, 503, 504, 520)},
    "html": page(200, "<html>please log in</html>"),
    "json": said(200, {"error": "not yet"}),
    "empty": Answer(200, b""),
    "corrupt": Answer(200, CLIP[:48] + bytes(len(CLIP) - 48)),
    "cut": Answer(200, CLIP, how="cut"),
    "drip": Answer(200, CLIP, how="drip"),
    "drop": Answer(how="drop"),
    "reset": Answer(how="reset"),
    "too-large": Answer(200, bytes(5 * 2**20)),
    "announced-too-large": Answer(200, b"", {"Content-Length": str(2**40)}, how="late"),
    "private-redirect": Answer(302, b"", {"Location": "https://10.0.0.1/clip.mp4"}),
    "file-redirect": Answer(302, b"", {"Location": "file:///etc/hostname"}),
    "endless-redirect": Answer(302, b"", {"Location": "/loop"}),
    "nowhere-redirect": Answer(302, b"", {}),
    "not-gzip": Answer(200, CLIP, {"Content-Encoding": "gzip"}),
}


def inline(vendor: str) -> dict[str, dict[str, Any]]:
    """Return what takes the place of the clip's address in an answer of ``vendor``, as fields of the result."""
    text = base64.b64encode(CLIP).decode()
    address = f"data:video/mp4;base64,{text}"
    put: Mapping[str, Callable[[str], dict[str, Any]]] = {
        "fal": lambda value: {"video": {"url": value}},
        "ark": lambda value: {"content": {"video_url": value}},
        "replicate": lambda value: {"output": value},
    }
    return {"data-address": put[vendor](address), "base64": put[vendor](text), "field": {"b64_json": text}} | {
        "padded-large": {"b64_json": text, "preview": "A" * BIG} | put[vendor]("")
    }


# --- the service ------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """One job, billed."""

    id: str
    vendor: str
    prompt: str
    seed: int | None
    made: float
    state: str = ""  # failed or expired; empty: it stands


class Provider:
    """The books, and what is wrong today."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.scripts: dict[str, dict[str, Any]] = {}
        self.taken: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.submit_seconds = self.job_seconds = 0.0

    def make(self, vendor: str, prompt: str, seed: int | None) -> Job:
        """Make a job and bill it."""
        with self.lock:
            job = Job(f"{vendor}-{len(self.jobs)}-{time.time_ns() % 10**9}", vendor, prompt, seed, time.time())
            self.jobs[job.id] = job
            return job

    def odd(self, vendor: str, place: str, prompt: str) -> Answer | None:
        """Return the answer that this request meets out of turn."""
        trial = prompt.split()[0]
        script = self.scripts.get(trial)
        if not script or script["place"] != place or script.get("prompt", prompt) != prompt:
            return None
        if self.taken[trial] < script.get("after", 0):
            return None
        return answer_of(script["table"], script["kind"], vendor)


def answer_of(table: str, kind: str, vendor: str) -> Answer:
    """Return the answer called ``kind`` in ``table``."""
    if table == "ids":
        return said(200, {ID[vendor]: ODD_IDS[kind], "base_resp": {"status_code": 0}, "status": "queued"}, makes=True)
    if table == "own":
        answer = PROMPTS_OWN[kind][1]
        answer.refuses = True
        return answer
    if table == "states":
        return said(200, STATES[kind][1], fails=STATES[kind][2], refuses=STATES[kind][3])
    if table == "inline":
        return said(200, inline(vendor)[kind] | ({"status": "succeeded"} if vendor != "fal" else {}))
    tables = {"refusals": REFUSALS, "hiding": HIDING, "minimax": MINIMAX_CODES, "passing": PASSING, "content": CONTENT}
    return tables[table][kind]


# A job's end, by vendor: the answer, what becomes of the job, whether the prompt is refused by it.
STATES: Final[dict[str, tuple[str, dict[str, Any], str, bool]]] = {
    "openai-failed": (
        "openai",
        {"status": "failed", "error": {"code": "internal", "message": "worker died"}},
        "failed",
        False,
    ),
    "openai-moderated": (
        "openai",
        {"status": "failed", "error": {"code": "moderation_blocked", "message": "blocked"}},
        "failed",
        True,
    ),
    "openai-policy-word": ("openai", {"status": "failed", "error": {"message": "violates a policy"}}, "failed", False),
    "openai-expired": ("openai", {"status": "expired"}, "expired", False),
    "openai-upper": ("openai", {"status": "COMPLETED"}, "", False),
    "openai-succeeded": ("openai", {"status": "succeeded"}, "", False),
    "openrouter-failed": ("openrouter", {"status": "failed", "error": "provider error"}, "failed", False),
    "openrouter-cancelled": ("openrouter", {"status": "cancelled"}, "failed", False),
    "ark-failed": (
        "ark",
        {"status": "failed", "error": {"code": "InternalServiceError", "message": "x"}},
        "failed",
        False,
    ),
    "ark-output": (
        "ark",
        {"status": "failed", "error": {"code": "OutputVideoSensitiveContentDetected", "message": "x"}},
        "failed",
        True,
    ),
    "ark-expired": ("ark", {"status": "expired"}, "expired", False),
    "minimax-1027": ("minimax", {"base_resp": {"status_code": 1027, "status_msg": "output sensitive"}}, "failed", True),
    "minimax-fail": ("minimax", {"task": {"status": "fail", "error": {"message": "x"}}}, "failed", False),
    "replicate-e005": ("replicate", {"status": "failed", "error": "flagged as sensitive. (E005)"}, "failed", True),
    "replicate-failed": ("replicate", {"status": "failed", "error": "CUDA out of memory"}, "failed", False),
    "replicate-canceled": ("replicate", {"status": "canceled"}, "failed", False),
    "replicate-aborted": ("replicate", {"status": "aborted"}, "failed", False),
    "fal-error": (
        "fal",
        {"status": "COMPLETED", "error": "worker died", "error_type": "runner_error"},
        "failed",
        False,
    ),
}


class Handler(BaseHTTPRequestHandler):
    """Speaks for the provider."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    provider: Provider

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Take a job, or orders."""
        announced = int(self.headers.get("content-length", 0))
        body, provider = self.rfile.read(announced), self.provider
        if len(body) < announced:  # whoever sent it was killed
            self.close_connection = True
            return
        if self.path == "/_control":
            orders = json.loads(body)
            provider.scripts[orders["trial"]] = orders.get("script", {})
            provider.submit_seconds = orders.get("submit", provider.submit_seconds)
            provider.job_seconds = orders.get("job", provider.job_seconds)
            self._send(said(200, {}))
            return
        vendor, fields = self._vendor(), _fields(body, self.headers.get("content-type", ""))
        asked = fields.get("input", fields)
        texts = asked.get("content")
        prompt = asked["prompt"] if texts is None else next(part["text"] for part in texts if part["type"] == "text")
        odd = provider.odd(vendor, "submit", prompt)
        time.sleep(provider.submit_seconds)
        job = provider.make(vendor, prompt, asked.get("seed")) if odd is None or odd.makes else None
        if odd is None and job is not None:
            provider.taken[prompt.split()[0]] += 1
            self._send(self._accepted(vendor, job, fields))
        elif odd is not None:
            self._send(odd)

    def do_GET(self) -> None:
        """Answer about a job, serve its clip, or open the books."""
        provider, (path, _, query) = self.provider, self.path.partition("?")
        if path == "/_control":
            jobs = list(provider.jobs.values())
            self._send(said(200, [asdict(job) for job in jobs if job.prompt.split()[0] == query]))
            return
        job = next((j for part in path.split("/") if (j := provider.jobs.get(part.removesuffix(".mp4")))), None)
        if job is None:
            self._send(said(404, error("not_found", "no such job")))
            return
        place = "poll"
        if path.startswith("/files/") or path.endswith("/content"):
            place = "content"
        elif job.vendor == "fal" and not path.endswith("/status"):
            place = "result"
        odd = provider.odd(job.vendor, place, job.prompt)
        if odd is not None:
            job.state = odd.fails or job.state
            self._send(odd)
        elif place == "content":
            self._send(Answer(200, CLIP, {"Content-Type": "video/mp4"}))
        else:
            self._send(self._progress(job, place))

    # --- the vendors' own words ---------------------------------------------------------------------------------

    def _vendor(self) -> str:
        starts = {
            "/v1/videos": "openai",
            "/api/v1/videos": "openrouter",
            "/api/v3/contents": "ark",
            "/v2/video_generation": "minimax",
            "/v1/models/": "replicate",
        }
        return next((vendor for start, vendor in starts.items() if self.path.startswith(start)), "fal")

    def _origin(self) -> str:
        return f"http://{self.headers['host']}"

    def _accepted(self, vendor: str, job: Job, fields: dict[str, Any]) -> Answer:
        origin, now = self._origin(), int(job.made)
        if vendor == "openai":
            return said(200, {"id": job.id, "object": "video", "created_at": now, "status": "queued", "progress": 0})
        if vendor == "openrouter":
            return said(202, {"id": job.id, "polling_url": f"{origin}/api/v1/videos/{job.id}", "status": "pending"})
        if vendor == "fal":
            base = f"{origin}/maker/world/requests/{job.id}"
            told = {"request_id": job.id, "response_url": base, "status_url": f"{base}/status"}
            return said(200, {**told, "status": "IN_QUEUE", "cancel_url": f"{base}/cancel", "queue_position": 3})
        if vendor == "ark":
            return said(200, {"id": job.id})
        if vendor == "minimax":
            return said(200, {"task_id": job.id, "base_resp": {"status_code": 0, "status_msg": "success"}})
        urls = {"get": f"{origin}/v1/predictions/{job.id}", "cancel": f"{origin}/v1/predictions/{job.id}/cancel"}
        told = {"id": job.id, "model": "maker/world", "version": "hidden", "input": fields["input"], "urls": urls}
        return said(201, {**told, "logs": "", "output": None, "error": None, "status": "starting"})

    def _progress(self, job: Job, place: str) -> Answer:
        over = time.time() - job.made >= self.provider.job_seconds
        file, vendor = f"{self._origin()}/files/{job.id}.mp4", job.vendor
        if job.state:
            return self._lost(job)
        if vendor == "openai":
            return said(200, {"id": job.id, "status": "completed" if over else "in_progress", "error": None})
        if vendor == "openrouter":
            done = {
                "unsigned_urls": [f"{self._origin()}/api/v1/videos/{job.id}/content?index=0"],
                "usage": {"cost": 1.0},
            }
            return said(
                200, {"id": job.id, "status": "completed", **done} if over else {"id": job.id, "status": "in_progress"}
            )
        if vendor == "fal" and place == "result":
            return said(200, {"video": {"url": file, "content_type": "video/mp4", "file_size": len(CLIP)}, "seed": 1})
        if vendor == "fal":
            return said(200 if over else 202, {"status": "COMPLETED" if over else "IN_PROGRESS", "request_id": job.id})
        if vendor == "ark":
            return said(
                200,
                {"id": job.id, "status": "succeeded", "content": {"video_url": file}}
                if over
                else {"status": "running"},
            )
        if vendor == "minimax":
            task = {"id": job.id, "status": "succeeded" if over else "running", "content": {"url": file}}
            return said(200, {"task": task, "base_resp": {"status_code": 0, "status_msg": "success"}})
        output = {"status": "succeeded", "output": [file]} if over else {"status": "processing", "output": None}
        return said(200, {"id": job.id, "error": None, **output})

    def _lost(self, job: Job) -> Answer:
        """Say of a job that has ended without a clip that it has, in each vendor's way."""
        if job.vendor == "fal":
            return said(200, {"status": "COMPLETED", "error": "worker died"})
        if job.vendor == "minimax":
            return said(200, {"task": {"status": "failed", "error": {"message": "x"}}, "base_resp": {"status_code": 0}})
        return said(200, {"id": job.id, "status": "failed", "error": {"code": "internal", "message": "worker died"}})

    # --- on the wire --------------------------------------------------------------------------------------------

    def _send(self, answer: Answer) -> None:
        how = answer.how
        if how in ("drop", "reset", "hang", "drip-head"):
            self.close_connection = True
            if how == "reset":
                self.connection.shutdown(2)
            elif how != "drop":
                for at in range(30):
                    time.sleep(0.2)
                    if how == "drip-head":
                        self.wfile.write(b"HTTP/1.1 200 OK"[at : at + 1])
                        self.wfile.flush()
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if how == "drip":
            for at in range(min(len(answer.body), 30)):
                self.wfile.write(answer.body[at : at + 1])
                self.wfile.flush()
                time.sleep(0.2)
        elif how == "late":
            time.sleep(0.3)
        else:
            self.wfile.write(answer.body[: len(answer.body) // 2] if how == "cut" else answer.body)
        self.close_connection = self.close_connection or bool(how)


def _fields(body: bytes, kind: str) -> dict[str, Any]:
    """Return the fields of a request in JSON or, as some servers of /v1/videos want it, in a form."""
    if not kind.startswith("multipart/form-data"):
        fields: dict[str, Any] = json.loads(body)
        return fields
    parts = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body).get_payload()
    names = [part.get_param("name", header="content-disposition") for part in parts]
    return {name: part.get_payload(decode=True).decode() for name, part in zip(names, parts, strict=True)}


class Server(ThreadingHTTPServer):
    """Bears clients that hang up."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"provider": Provider()}))
    print(server.server_port, flush=True)
    server.serve_forever(0.05)
