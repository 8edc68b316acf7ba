"""How services speak over HTTP, from their side: what the embedded world's server answers in each of their shapes.

For tests and trials of the shapes in ``shapes.yaml`` and of the ComfyUI teacher. Written from the vendors' documents and
public clients of November 2026; nothing here has met the real services.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.parser import BytesParser
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote

Answer = tuple[int, Any]
"""Status and JSON of a reply."""


class Dialect:
    """``/v1/videos``, as vLLM-Omni, SGLang Diffusion and gateways speak it; the other dialects say what differs.

    A job is known by its ``id`` and is in one ``state``: queued, running, done, failed, moderated or expired. Places are
    called ``submit``, ``poll``, ``result`` (where a service keeps the clip's address apart), ``content`` and ``queue``.
    """

    prefix: ClassVar[str] = "/v1/videos"
    words: ClassVar[Mapping[str, str]] = {
        "queued": "queued",
        "running": "in_progress",
        "done": "completed",
        "failed": "failed",
        "moderated": "failed",
        "expired": "expired",
    }
    scheme: ClassVar[str] = "Bearer"
    form_only: ClassVar[bool] = False
    lists: ClassVar[bool] = True  # whether it keeps a list of its jobs
    expires: ClassVar[bool] = True  # whether it says of a job that it has expired; otherwise it forgets it

    @property
    def entry(self) -> str:
        """Where jobs are handed in."""
        return self.prefix

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Return which place ``path`` is, and the id of the job in it; two empty words for nowhere."""
        if not path.startswith(self.prefix):
            return "", ""
        parts = path[len(self.prefix) :].strip("/").split("/")
        if method == "POST":
            return ("submit", "") if parts == [""] else ("", "")
        if parts == [""] and self.lists:
            return "list", ""
        if len(parts) == 2 and parts[1] == "content":
            return "content", parts[0]
        return ("poll", parts[0]) if len(parts) == 1 and parts[0] else ("", "")

    def read(self, body: bytes, kind: str) -> dict[str, Any]:
        """Return the fields of a request, sent as JSON or as a form.

        Raises:
            ValueError: it is neither, or not what this server takes.
        """
        if kind.startswith("multipart/form-data"):
            parsed = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            return {
                str(part.get_param("name", header="content-disposition")): bytes(part.get_payload(decode=True)).decode()  # type: ignore[union-attr]
                for part in parsed.get_payload()
            }
        fields = json.loads(body)
        if self.form_only or not isinstance(fields, dict):
            raise ValueError("field required: send a form")
        return fields

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the clip asked for: prompt and, where given, seed, frames, fps, width, height, seconds.

        Raises:
            KeyError, ValueError, TypeError: something is missing or no number.
        """
        width, _, height = str(fields.get("size", "")).partition("x")
        return _numbers(
            str(fields["prompt"]),
            seed=fields.get("seed"),
            frames=fields.get("num_frames"),
            fps=fields.get("fps"),
            width=fields.get("width") or width,
            height=fields.get("height") or height,
        )

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Return the answer to a submission."""
        return 200, {"id": job, "object": "video", "status": self.words["queued"]}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Return the answer to a question about a job."""
        said: dict[str, Any] = {"id": job, "object": "video", "status": self.words[state]}
        return 200, said | _error(state)

    def result(self, job: str, state: str, origin: str) -> Answer:
        """Return the answer at the place ``result``."""
        return self.unknown()

    def listed(self, jobs: Sequence[tuple[str, float, Mapping[str, Any]]]) -> Answer:
        """Return the list of its jobs: of each its id, when it was made (seconds since 1970) and what was asked for."""
        return 200, {
            "object": "list",
            "data": [
                {"id": job, "created_at": int(made), "prompt": asked["prompt"], "seed": asked.get("seed")}
                for job, made, asked in jobs
            ],
            "has_more": False,
        }

    def named(self, fields: Mapping[str, Any]) -> str:
        """Return the id that the asker has chosen for the job, or nothing."""
        return ""

    def moderated(self, why: str) -> Answer:
        """Return the answer to a submission whose prompt is refused."""
        return 400, {"error": {"message": why, "code": "moderation_blocked"}}

    def malformed(self, why: str) -> Answer:
        """Return the answer to a submission that cannot be read."""
        return 422, {"error": {"message": why}}

    def unknown(self) -> Answer:
        """Return the answer about a job that is not known."""
        return 404, {"error": {"message": "there is no such video"}}


class FormOnly(Dialect):
    """``/v1/videos`` where only forms are taken, as vLLM-Omni documents it."""

    form_only = True


class OpenRouter(Dialect):
    """``/api/v1/videos`` of OpenRouter."""

    lists = False
    prefix = "/api/v1/videos"
    words: ClassVar[Mapping[str, str]] = {**Dialect.words, "queued": "pending"}

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read resolution, aspect ratio and duration; a frame count is not taken."""
        return _tiered(fields, fields["aspect_ratio"])

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Answer 202."""
        return 202, {"id": job, "polling_url": f"{origin}{self.prefix}/{job}", "status": "pending"}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Name the cost when the job is done."""
        done = {"unsigned_urls": [f"{origin}{self.prefix}/{job}/content?index=0"], "usage": {"cost": 0.25}}
        said = {"id": job, "status": self.words[state], **_error(state, flat=True)}
        if state == "moderated":
            flagged = {"reasons": ["violence"], "flagged_input": "...", "provider_name": "world"}
            said["error"] = {"code": 403, "message": "the input was flagged", "metadata": flagged}
        return 200, said | (done if state == "done" else {})


class Fal(Dialect):
    """fal's queue: status and result lie apart, and an error sits inside a completed job or in the result."""

    prefix = "/"
    lists = False
    scheme = "Key"
    expires = False
    entry = "/MODEL"

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Take any model's path."""
        parts = path.strip("/").split("/")
        if method == "POST":
            return "submit", ""
        if parts[0] == "files":
            return "content", parts[-1].removesuffix(".mp4")
        if "requests" not in parts:
            return "", ""
        at = parts.index("requests")
        return ("poll" if parts[at + 2 :] == ["status"] else "result"), parts[at + 1]

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read frames, rate, resolution and aspect ratio."""
        width, height = _tier(str(fields["resolution"]), str(fields["aspect_ratio"]))
        return _numbers(
            str(fields["prompt"]),
            seed=fields.get("seed"),
            frames=fields.get("num_frames"),
            fps=fields.get("frames_per_second"),
            width=width,
            height=height,
        )

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Name the addresses of status and result."""
        base = f"{origin}/fal-ai/world/requests/{job}"
        said = {"status": "IN_QUEUE", "request_id": job, "queue_position": 0}
        return 200, said | {"status_url": f"{base}/status", "response_url": base, "cancel_url": f"{base}/cancel"}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Answer 202 until the job is over, one way or the other."""
        if state in ("queued", "running"):
            return 202, {"status": "IN_QUEUE" if state == "queued" else "IN_PROGRESS", "request_id": job}
        failed = {"error": "the worker crashed"} if state == "failed" else {}
        return 200, {"status": "COMPLETED", "request_id": job, "metrics": {}} | failed

    def result(self, job: str, state: str, origin: str) -> Answer:
        """Answer with the clip's address, or 422 where the checker has refused the prompt."""
        if state == "moderated":
            return 422, {"detail": [{"msg": "flagged by a content checker", "type": "content_policy_violation"}]}
        return 200, {"video": {"url": f"{origin}/files/{job}.mp4", "content_type": "video/mp4"}, "seed": 1}

    def moderated(self, why: str) -> Answer:
        """Answer in the form of a validation error."""
        return 422, {"detail": [{"loc": ["body", "prompt"], "msg": why, "type": "content_policy_violation"}]}


class Ark(Dialect):
    """Seedance on Ark: tasks whose content holds a signed address."""

    prefix = "/api/v3/contents/generations/tasks"
    lists = False
    words: ClassVar[Mapping[str, str]] = {**Dialect.words, "running": "running", "done": "succeeded"}

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Serve clips from a place of their own."""
        place = super().locate(method, path, query)
        return _file(path) or place

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read the text content, the resolution's tier, ratio and duration."""
        text = next(part["text"] for part in fields["content"] if part["type"] == "text")
        return _tiered({**fields, "prompt": text}, fields["ratio"])

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Answer with the id alone."""
        return 200, {"id": job}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Put the address into the content."""
        said: dict[str, Any] = {"id": job, "model": "world", "status": self.words[state]}
        if state == "moderated":
            said["error"] = {"code": "OutputVideoSensitiveContentDetected", "message": "the output may be sensitive"}
        elif state == "done":
            said["content"] = {"video_url": f"{origin}/files/{job}.mp4?X-Tos-Signature=0"}
        return 200, _error(state) | said

    def moderated(self, why: str) -> Answer:
        """Answer with Ark's code."""
        return 400, {"error": {"code": "InputTextSensitiveContentDetected", "message": why, "type": "BadRequest"}}


class MiniMax(Dialect):
    """MiniMax, version 2: answers 200 and puts a code into ``base_resp``."""

    prefix = "/v2"
    lists = False
    entry = "/v2/video_generation"
    expires = False
    words: ClassVar[Mapping[str, str]] = Ark.words

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Ask for tasks at another place than where they are handed in."""
        if path == "/v2/video_generation":
            return "submit", ""
        if path.startswith("/v2/query/video_generation/"):
            return "poll", path.rsplit("/", 1)[1]
        return _file(path) or ("", "")

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read resolution (upper case), ratio and duration; there is no seed."""
        if not str(fields["resolution"]).endswith("P"):
            raise ValueError("resolution: 768P")
        return _tiered(fields, fields["ratio"])

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Answer with the task's id."""
        return 200, {"task_id": job, "base_resp": {"status_code": 0, "status_msg": "success"}}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Put everything below ``task``."""
        if state == "moderated":
            return 200, {"base_resp": {"status_code": 1027, "status_msg": "output video is sensitive"}}
        task: dict[str, Any] = {"id": job, "status": self.words[state], **_error(state)}
        if state == "done":
            task["content"] = {"url": f"{origin}/files/{job}.mp4"}
        return 200, {"task": task, "base_resp": {"status_code": 0, "status_msg": "success"}}

    def moderated(self, why: str) -> Answer:
        """Answer 200 with code 1026."""
        return 200, {"base_resp": {"status_code": 1026, "status_msg": why}}


class Replicate(Dialect):
    """Replicate's predictions."""

    prefix = "/v1/predictions"
    entry = "/v1/models/MODEL/predictions"
    expires = False
    words: ClassVar[Mapping[str, str]] = {
        **Dialect.words,
        "queued": "starting",
        "running": "processing",
        "done": "succeeded",
    }

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Take submissions below a model."""
        if method == "POST":
            return ("submit", "") if path.startswith("/v1/models/") and path.endswith("/predictions") else ("", "")
        return _file(path) or super().locate(method, path, query)

    def listed(self, jobs: Sequence[tuple[str, float, Mapping[str, Any]]]) -> Answer:
        """Put what was asked for into ``input``."""
        results = [
            {
                "id": job,
                "created_at": datetime.fromtimestamp(made, UTC).isoformat(),
                "input": {"prompt": asked["prompt"], "seed": asked.get("seed")},
            }
            for job, made, asked in jobs
        ]
        return 200, {"previous": None, "next": None, "results": results}

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read the model's input."""
        return FAL.wanted(fields["input"])

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Answer 201."""
        return 201, {"id": job, "status": "starting", "urls": {"get": f"{origin}{self.prefix}/{job}"}}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Put the address into ``output``."""
        said: dict[str, Any] = {"id": job, "status": self.words[state], "output": None, "error": None}
        if state == "done":
            said["output"] = [f"{origin}/files/{job}.mp4"]
        elif state == "moderated":
            said["error"] = "NSFW content detected. Try running it again, or try a different prompt."
        elif state == "failed":
            said["error"] = "the worker crashed"
        return 200, said


class ComfyUI(Dialect):
    """ComfyUI's server: graphs in, a history of what they wrote, files by name."""

    prefix = "/prompt"
    lists = False
    expires = False

    def locate(self, method: str, path: str, query: str) -> tuple[str, str]:
        """Find jobs by their prompt id, files by their name."""
        if path == "/view":
            return "content", parse_qs(query).get("filename", [""])[0].removesuffix("_00001_.mp4")
        if path == "/queue":
            return "queue", ""
        if path.startswith("/history/"):
            return "poll", path.rsplit("/", 1)[1]
        return super().locate(method, path, query)

    def wanted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Gather the inputs of all nodes."""
        inputs: dict[str, Any] = {}
        for node in fields["prompt"].values():
            inputs |= {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}
        wanted = {"seed": inputs["seed"], "frames": inputs.get("length"), "fps": inputs.get("fps")}
        return _numbers(str(inputs["text"]), **wanted, width=inputs.get("width"), height=inputs.get("height"))

    def named(self, fields: Mapping[str, Any]) -> str:
        """Take the id that comes with the graph."""
        return str(fields.get("prompt_id", ""))

    def accepted(self, job: str, origin: str, fields: Mapping[str, Any]) -> Answer:
        """Answer with the id."""
        return 200, {"prompt_id": job, "number": 1, "node_errors": {}}

    def progress(self, job: str, state: str, origin: str) -> Answer:
        """Answer with nothing until the graph was run."""
        if state in ("queued", "running"):
            return 200, {}
        if state == "done":
            saved = {"filename": f"{quote(job)}_00001_.mp4", "subfolder": "video", "type": "output"}
            status = {"status_str": "success", "completed": True, "messages": []}
            return 200, {job: {"outputs": {"9": {"images": [saved], "animated": [True]}}, "status": status}}
        crash = {"node_id": "3", "node_type": "KSampler", "exception_message": "Allocation on device\n"}
        status = {"status_str": "error", "completed": False, "messages": [["execution_error", crash]]}
        return 200, {job: {"outputs": {}, "status": status}}

    def malformed(self, why: str) -> Answer:
        """Answer as the validation of graphs does."""
        error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
        return 400, {"error": error, "node_errors": {"6": {"errors": [{"message": why, "details": "text"}]}}}

    def moderated(self, why: str) -> Answer:
        """Answer as to a graph that is wrong: nothing is moderated here."""
        return self.malformed(why)

    def unknown(self) -> Answer:
        """Answer with an empty history."""
        return 200, {}


class OldComfyUI(ComfyUI):
    """ComfyUI before the summer of 2025, which chooses ids itself."""

    def named(self, fields: Mapping[str, Any]) -> str:
        """Take none."""
        return ""


FAL = Fal()
DIALECTS: Mapping[str, Dialect] = {
    "openai-videos": Dialect(),
    "form-only": FormOnly(),
    "openrouter": OpenRouter(),
    "fal": FAL,
    "ark": Ark(),
    "minimax": MiniMax(),
    "replicate": Replicate(),
    "comfyui": ComfyUI(),
    "old-comfyui": OldComfyUI(),
}
"""Every dialect, by the name of its shape; ``form-only`` is ``openai-videos`` without JSON."""


def _file(path: str) -> tuple[str, str] | None:
    """Return the place of a clip that lies apart from its job."""
    return ("content", path.rsplit("/", 1)[1].removesuffix(".mp4")) if path.startswith("/files/") else None


def _error(state: str, flat: bool = False) -> dict[str, Any]:
    if state == "moderated":
        code, message = "moderation_blocked", "blocked by the content policy"
    elif state == "failed":
        code, message = "internal", "the worker crashed"
    else:
        return {}
    return {"error": message} if flat else {"error": {"code": code, "message": message}}


def _tiered(fields: Mapping[str, Any], ratio: object) -> dict[str, Any]:
    """Return the clip that a service draws which takes tiers and whole seconds."""
    width, height = _tier(str(fields["resolution"]), str(ratio))
    seconds = int(fields["duration"])
    return _numbers(str(fields["prompt"]), seed=fields.get("seed"), width=width, height=height, seconds=seconds)


def _tier(resolution: str, ratio: str) -> tuple[int, int]:
    """Return width and height of a tier such as 480p (its shorter side) and a ratio such as 16:9."""
    short = int(resolution.rstrip("pP"))
    across, down = (int(part) for part in ratio.split(":"))
    long = round(short * max(across, down) / min(across, down) / 2) * 2
    return (long, short) if across >= down else (short, long)


def _numbers(prompt: str, **numbers: object) -> dict[str, Any]:
    """Return what was given, forms' texts included, as numbers."""
    given = {name: value for name, value in numbers.items() if value not in (None, "")}
    return {"prompt": prompt, **{name: float(str(v)) if name == "fps" else int(str(v)) for name, v in given.items()}}
