"""From a recipe's section to a service over HTTP."""

from pathlib import Path

from understudy.teachers.api.config import ApiTeacherConfig
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape


def build(config: ApiTeacherConfig, sealed: Path | None) -> WireTeacher:
    """Return the service as a teacher; nothing is asked yet."""
    shape = load_shape(config.shape, config.wire, config.body)
    kind = Path(config.shape).stem
    return WireTeacher(
        shape,
        Web(
            without_repeat(config.url or shape.url, shape.submit),
            shape.key_env if config.key_env is None else config.key_env,
            shape.auth,
            config.plain_http,
            config.max_megabytes << 20,
        ),
        kind,
        config.model,
        config.stated_terms(kind, config.model),
        config.price_per_clip,
        config.price_per_second,
        config.currency,
        config.idempotent,
    )


def without_repeat(url: str, path: str) -> str:
    """Return ``url`` without an end that ``path`` begins with: base addresses are written with /v1 and without."""
    url, parts = url.rstrip("/"), path.split("/")
    for count in range(len(parts), 1, -1):
        if url.endswith(repeated := "/".join(parts[:count])):
            return url.removesuffix(repeated)
    return url
