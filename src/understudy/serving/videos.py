"""``/v1/videos``: create, poll, list, content and delete, in the shape that tools for hosted generators speak.

Bodies are JSON or multipart forms, read into memory up to a limit and never written anywhere.
"""

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from understudy.errors import ClipError, ConfigError, PromptRejected
from understudy.serving.access import Refusal
from understudy.serving.catalogue import Catalogue, Settings
from understudy.serving.connection import reason
from understudy.serving.jobs import Job, Jobs
from understudy.serving.scheduler import Limits, Refused
from understudy.students.generate import given_frames

_KEY: Final = 200  # characters of an Idempotency-Key; cut, two keys could become one
_IGNORED: Final = 16  # names told back at most


class VideoRequest(BaseModel):
    """What a clip is asked for with; fields that other servers know and this one does not are ignored, and named."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prompt: str = Field(min_length=1, description="What to show.")
    model: str | None = Field(None, description="Name of a student; the first one when left out.")
    seconds: float | None = Field(None, gt=0, description="Length; as in training when left out.")
    num_frames: int | None = Field(None, ge=1, lt=2**31, description="Length in frames; goes before seconds.")
    fps: float | None = Field(None, gt=0, description="The student's own rate, or nothing.")
    size: str | None = Field(
        None, pattern=r"^[0-9]{1,5}x[0-9]{1,5}$", description="The student's own size, or nothing."
    )
    width: int | None = Field(None, ge=1, lt=2**31)
    height: int | None = Field(None, ge=1, lt=2**31)
    seed: int | None = Field(None, ge=0, lt=2**31, description="Drawn at random when left out; the reply says which.")
    num_inference_steps: int | None = Field(None, ge=1, lt=2**31, description="The student's own when left out.")
    input_reference: str | dict[str, Any] | None = Field(
        None, description="A picture or clip to go on from: a file part, or a data: address (also as {image_url: ...})."
    )


class VideoError(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class Video(BaseModel):
    """A job."""

    id: str
    object: str = "video"
    model: str
    status: str
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    seconds: str
    size: str
    prompt: str
    error: VideoError | None
    remixed_from_video_id: None = None
    seed: int
    num_frames: int
    fps: float
    ignored: tuple[str, ...]


class VideoList(BaseModel):
    """Jobs, a page at a time."""

    object: str = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """What deleting answers."""

    id: str
    object: str = "video.deleted"
    deleted: bool = True


class ErrorDetail(BaseModel):
    """What is wrong with a request: for people, by kind, the field, and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorDetail


_SCHEMA: Final = VideoRequest.model_json_schema()
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "multipart/form-data": {"schema": _SCHEMA}},
    }
}


def videos(catalogue: Catalogue, jobs: Jobs, decoding: asyncio.Semaphore) -> APIRouter:
    """Return the routes. ``decoding`` is held while a given file is decoded."""
    refused = {code: {"model": ErrorReply} for code in (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503)}
    router = APIRouter(prefix="/v1", responses=refused)  # type: ignore[arg-type]
    limits = catalogue.limits

    def find(name: str) -> Job:
        job = jobs.find(name)
        if job is None:
            raise Refusal(
                404, "not_found", "there is no such video: it was deleted, expired, or never made", "video_id"
            )
        return job

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the students."""
        names = [{"id": name, "object": "model", "created": 0, "owned_by": "understudy"} for name in catalogue.bundles]
        return {"object": "list", "data": names}

    @router.post("/videos", response_model=Video, openapi_extra=_BODY)
    async def create(request: Request) -> Video:
        """Take a job."""
        return _shown(await _take(request, catalogue, jobs, decoding), limits)

    @router.get("/videos", response_model=VideoList)
    async def listing(
        limit: int = Query(20, ge=1, le=100), after: str = Query(""), order: str = Query("desc", pattern="^(asc|desc)$")
    ) -> VideoList:
        """List jobs."""
        every = jobs.newest_first() if order == "desc" else jobs.newest_first()[::-1]
        if after:
            places = [place for place, job in enumerate(every) if job.id == after]
            if not places:
                raise Refusal(404, "not_found", "there is no video of that id to list after", "after")
            every = every[places[0] + 1 :]
        page = [_shown(job, limits) for job in every[:limit]]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return VideoList(data=page, first_id=first, last_id=last, has_more=len(every) > limit)

    @router.get("/videos/{video_id}", response_model=Video)
    async def poll(video_id: str) -> Video:
        """Return a job."""
        return _shown(find(video_id), limits)

    @router.get("/videos/{video_id}/content", response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
    async def content(video_id: str, variant: str = Query("video")) -> Response:
        """Return the finished clip as mp4."""
        job = find(video_id)
        if variant != "video":
            raise Refusal(400, "invalid_value", "variant: only video is made here", "variant")
        if job.state != "completed":
            told = (
                f"it failed: {job.error}"
                if job.state == "failed"
                else f"it is {job.state}: poll it until it is completed"
            )
            raise Refusal(409, "not_ready", f"this video has no content, {told}", "video_id")
        job.fetched = True
        return Response(job.video, media_type="video/mp4")

    @router.delete("/videos/{video_id}", response_model=VideoDeleted)
    async def delete(video_id: str) -> VideoDeleted:
        """Forget a job; one that is being drawn is stopped."""
        job = find(video_id)
        jobs.remove(job)
        return VideoDeleted(id=job.id)

    return router


async def _take(request: Request, catalogue: Catalogue, jobs: Jobs, decoding: asyncio.Semaphore) -> Job:
    """Return the job that a request makes, or that its Idempotency-Key made before."""
    limits, key = catalogue.limits, request.headers.get("idempotency-key", "")
    if len(key) > _KEY:
        told = f"an Idempotency-Key has at most {_KEY} characters, got {len(key)}"
        raise Refusal(400, "invalid_value", told, "Idempotency-Key")
    if catalogue.reading >= limits.bodies:
        raise Refusal(503, "busy", "too many requests are being read: try again later", retry_after=2)
    catalogue.reading += 1
    try:
        return await _read(request, catalogue, jobs, decoding, key)
    finally:
        catalogue.reading -= 1


async def _read(request: Request, catalogue: Catalogue, jobs: Jobs, decoding: asyncio.Semaphore, key: str) -> Job:
    limits = catalogue.limits
    body = await read_body(request, limits)
    wanted, data = await parse(body, request.headers, limits)
    job = _job(catalogue, wanted)
    if data is not None:
        async with decoding:
            try:
                form = job.plan.bundles[0].form
                job.given = await asyncio.to_thread(given_frames, data, form, "input_reference")
            except (ClipError, ConfigError) as error:
                raise Refusal(400, "invalid_value", str(error)[:300], "input_reference") from None
    job.key, job.asked = key, hashlib.sha256(body).hexdigest()
    try:
        return await jobs.add(job)
    except ConfigError as error:
        raise Refusal(409, "idempotency_key_reused", str(error)) from None
    except Refused as error:
        raise Refusal(429, "rate_limit_exceeded", str(error), retry_after=2) from None


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body; Refusal (413) when it is larger than a request with a given file can be."""
    most = limits.given_bytes * 4 // 3 + limits.message_bytes
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise Refusal(413, "too_large", f"a request has at most {most} bytes")
    except ClientDisconnect:
        raise Refusal(400, "incomplete", "the request broke off before its end") from None
    return bytes(body)


async def parse(body: bytes, headers: Mapping[str, str], limits: Limits) -> tuple[VideoRequest, bytes | None]:
    """Return the request in ``body``, and the file to start from.

    Raises:
        Refusal: it is neither JSON nor a form, or something in it cannot be.
    """
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    data: bytes | None = None
    try:
        if kind == "multipart/form-data":
            fields, data = await _form(body, headers, limits)
        elif kind in ("", "application/json"):
            fields = _JSON.validate_json(body)
        else:
            raise Refusal(415, "unsupported_media_type", "send application/json or multipart/form-data")
        wanted = VideoRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        param = str(first["loc"][0])[:64] if first["loc"] else None
        raise Refusal(400, "invalid_value", reason(error), param) from None
    if wanted.input_reference is not None:
        data = _data_address(wanted.input_reference)
    if data is not None and len(data) > limits.given_bytes:
        raise Refusal(413, "too_large", f"a given file has at most {limits.given_bytes} bytes", "input_reference")
    return wanted, data


_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class _InMemory(MultiPartParser):
    """Files stay in memory: a body is bounded before it comes here."""

    spool_max_size: ClassVar[int] = 2**31 - 1  # type: ignore[misc]


async def _form(body: bytes, headers: Mapping[str, str], limits: Limits) -> tuple[dict[str, Any], bytes | None]:
    async def whole() -> AsyncIterator[bytes]:
        yield body

    try:
        parser = _InMemory(headers, whole(), max_files=1, max_fields=64, max_part_size=limits.message_bytes)  # type: ignore[arg-type]
        form = await parser.parse()
        fields: dict[str, Any] = {}
        data = None
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name == "input_reference":
                data = await value.read()
        await form.close()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refusal(400, "invalid_form", f"the form cannot be read: {' '.join(str(error).split())[:200]}") from None
    return fields, data


def _data_address(given: str | dict[str, Any]) -> bytes:
    address = given if isinstance(given, str) else given.get("image_url")
    head, _, rest = address.partition(",") if isinstance(address, str) else ("", "", "")
    if not head.startswith("data:") or not head.endswith(";base64"):
        why = "send a file, or a data: address in base64; nothing is fetched from elsewhere"
        raise Refusal(400, "invalid_value", f"input_reference: {why}", "input_reference")
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "invalid_value", "input_reference: this is no base64", "input_reference") from None


def _job(catalogue: Catalogue, wanted: VideoRequest) -> Job:
    """Return the job that is asked for; Refusal when it cannot be had."""
    name = wanted.model or next(iter(catalogue.bundles))
    if name not in catalogue.bundles:
        told = f"there is no such model; choose from {', '.join(catalogue.bundles)}"
        raise Refusal(400, "model_not_found", told, "model")
    form = catalogue.bundles[name].form
    own = {"size": f"{form.width}x{form.height}", "width": form.width, "height": form.height, "fps": form.fps}
    for field, value in own.items():
        asked = getattr(wanted, field)
        if asked is not None and asked != value:
            raise Refusal(
                400, "invalid_value", f"{field}: this student draws {value}; ask for that or leave it out", field
            )
    frames = wanted.num_frames or (form.frames if wanted.seconds is None else max(1, round(wanted.seconds * form.fps)))
    if frames > catalogue.limits.clip_seconds * form.fps:
        param = "num_frames" if wanted.num_frames else "seconds"
        raise Refusal(400, "invalid_value", f"{param}: a clip has at most {catalogue.limits.clip_seconds:g} s", param)
    seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
    try:
        prompt = catalogue.prompt(wanted.prompt, (name,))
    except PromptRejected as error:
        raise Refusal(400, "moderation_blocked", str(error), "prompt") from None
    except ConfigError as error:
        raise Refusal(400, "invalid_value", str(error), "prompt") from None
    try:
        plan = catalogue.plan(prompt, seed, frames, (name,), Settings(steps=wanted.num_inference_steps))
    except ConfigError as error:
        raise Refusal(400, "invalid_value", str(error)[:300], "num_inference_steps") from None
    if plan.frames < frames:
        raise Refusal(400, "invalid_value", f"this student draws at most {plan.frames} frames", "num_frames")
    ignored = tuple(field[:64] for field in list(wanted.model_extra or {})[:_IGNORED])
    return Job(name, plan, ignored=ignored)


def _shown(job: Job, limits: Limits) -> Video:
    done = job.state == "completed"
    return Video(
        id=job.id,
        model=job.model,
        status=job.state,
        progress=job.progress,
        created_at=int(job.created),
        completed_at=int(job.completed) if done and job.completed else None,
        expires_at=int(job.completed + limits.kept_seconds) if done and job.completed else None,
        seconds=f"{job.plan.frames / job.plan.fps:g}",
        size=f"{job.plan.width}x{job.plan.height}",
        prompt=job.plan.prompt,
        error=VideoError(code="generation_failed", message=job.error) if job.state == "failed" else None,
        seed=job.plan.seed,
        num_frames=job.plan.frames,
        fps=job.plan.fps,
        ignored=job.ignored,
    )
