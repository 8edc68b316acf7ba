"""From a recipe's teacher section to the black box it describes."""

from dataclasses import replace
from pathlib import Path

from understudy.teacher_config import (
    ApiTeacherConfig,
    ComfyTeacherConfig,
    DiffusersTeacherConfig,
    FolderTeacherConfig,
    RequestConfig,
    WorldTeacherConfig,
)
from understudy.teachers.base import ClipParams, JobTeacher, Teacher, Terms
from understudy.teachers.comfyui import ComfyTeacher, load_workflow
from understudy.teachers.fields import asked_by
from understudy.teachers.folder import FolderTeacher
from understudy.teachers.pipeline import DEFAULT_CALL, PipelineTeacher
from understudy.teachers.terms import known_terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.teachers.world.teacher import WorldTeacher

TeacherConfig = (
    WorldTeacherConfig | FolderTeacherConfig | ApiTeacherConfig | ComfyTeacherConfig | DiffusersTeacherConfig
)


def build(config: TeacherConfig, sealed: Path | None = None) -> Teacher | JobTeacher:
    """Return the teacher; ``sealed`` is where the embedded world leaves its true states. Nothing is asked yet."""
    if isinstance(config, FolderTeacherConfig):
        return FolderTeacher(config.path, config.listing)
    if isinstance(config, WorldTeacherConfig):
        return WorldTeacher(config.look, config.size, config.fps, config.frames, config.poor, sealed)
    if isinstance(config, DiffusersTeacherConfig):
        terms = _terms(config, "diffusers", config.model or config.path.name)
        return PipelineTeacher(config.path, terms, config.model, config.call, config.dtype, config.device)
    if isinstance(config, ComfyTeacherConfig):
        return ComfyTeacher(
            Web(config.url, config.key_env, plain_http=config.plain_http, max_bytes=config.max_megabytes << 20),
            load_workflow(config.workflow),
            config.nodes,
            _terms(config, "comfyui", config.model),
            config.model,
            config.output,
            config.price_per_clip,
        )
    shape = load_shape(config.shape, config.wire, config.body)
    kind = Path(config.shape).stem
    return WireTeacher(
        shape,
        Web(
            _without_repeat(config.url or shape.url, shape.submit),
            shape.key_env if config.key_env is None else config.key_env,
            shape.auth,
            config.plain_http,
            config.max_megabytes << 20,
        ),
        kind,
        config.model,
        _terms(config, kind, config.model),
        config.price_per_clip,
        config.price_per_second,
        config.currency,
        config.idempotent,
    )


def _without_repeat(url: str, path: str) -> str:
    """Return ``url`` without an end that ``path`` begins with: base addresses are written with /v1 and without."""
    url, parts = url.rstrip("/"), path.split("/")
    for count in range(len(parts), 1, -1):
        if url.endswith(repeated := "/".join(parts[:count])):
            return url.removesuffix(repeated)
    return url


def _terms(config: RequestConfig, kind: str, model: str) -> Terms:
    """Return what the recipe says of the terms, or what is known."""
    own = config.terms
    return known_terms(kind, model) if own is None else Terms(own.training, own.note, own.url, own.checked)


def clip_params(config: TeacherConfig) -> ClipParams:
    """Return what is asked for explicitly: nothing of the embedded world and of a folder, everything of services.

    Of a workflow or a pipeline it is what goes into one of its inputs.
    """
    if not isinstance(config, RequestConfig):
        return ClipParams()
    whole = ClipParams(config.frames, config.fps, config.width, config.height)
    if isinstance(config, ComfyTeacherConfig):
        return asked_by(config.nodes, whole)
    if isinstance(config, DiffusersTeacherConfig):  # the rate is that of the file we write
        return replace(asked_by(DEFAULT_CALL if config.call is None else config.call, whole), fps=config.fps)
    return whole
