"""From a recipe's teacher section to the black box it describes."""

from pathlib import Path

from understudy.config import ApiTeacherConfig, FolderTeacherConfig, RequestConfig, WorldTeacherConfig
from understudy.teachers.base import ClipParams, JobTeacher, Teacher, Terms
from understudy.teachers.folder import FolderTeacher
from understudy.teachers.terms import known_terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.teachers.world.teacher import WorldTeacher

TeacherConfig = WorldTeacherConfig | FolderTeacherConfig | ApiTeacherConfig


def build(config: TeacherConfig, sealed: Path | None = None) -> Teacher | JobTeacher:
    """Return the teacher; ``sealed`` is where the embedded world leaves its true states. Nothing is asked yet."""
    if isinstance(config, FolderTeacherConfig):
        return FolderTeacher(config.path)
    if isinstance(config, WorldTeacherConfig):
        return WorldTeacher(config.look, config.size, config.fps, config.frames, config.poor, sealed)
    shape = load_shape(config.shape, config.wire, config.body)
    kind = Path(config.shape).stem
    own = config.terms
    return WireTeacher(
        shape,
        Web(
            config.url or shape.url,
            shape.key_env if config.key_env is None else config.key_env,
            shape.auth,
            config.plain_http,
            config.max_megabytes << 20,
        ),
        kind,
        config.model,
        known_terms(kind, config.model) if own is None else Terms(own.training, own.note, own.url, own.checked),
        config.price_per_clip,
        config.price_per_second,
        config.currency,
        config.idempotent,
    )


def clip_params(config: TeacherConfig) -> ClipParams:
    """Return what is asked for explicitly: nothing of the embedded world and of a folder, everything of others."""
    if not isinstance(config, RequestConfig):
        return ClipParams()
    return ClipParams(config.frames, config.fps, config.width, config.height)
