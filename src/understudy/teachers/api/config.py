"""The section of a service over HTTP."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from understudy.recipes.section import far
from understudy.teachers.config import RequestConfig


class ApiTeacherConfig(RequestConfig):
    """A service or server over HTTP that takes jobs; needs the extra [api]."""

    kind: Literal["api"] = "api"
    shape: str = "openai-videos"
    """How it wants to be asked: openai-videos, openrouter, fal, ark, minimax, replicate, or a YAML file like shapes.yaml."""
    model: str = ""
    """The model's name there."""
    url: str | None = None
    """Its address; null: the service's own."""
    key_env: str | None = None
    """Environment variable, or keyring entry of `understudy`, that holds the key; null: the service's usual one."""
    body: dict[str, Any] = Field({})
    """Fields of the request, on top of the shape's; null leaves one out."""
    wire: dict[str, Any] = Field({})
    """Changes of the shape itself."""
    idempotent: bool = False
    """The server makes one job of requests with the same Idempotency-Key."""
    plain_http: bool = False
    """Allow http to this host although it is not this machine (a server in your own network)."""
    max_megabytes: int = Field(512, ge=1, le=far(1_000_000))
    """Largest clip that is taken."""
    price_per_clip: float | None = Field(None, ge=0, le=far(1e6))
    """What one clip costs; 0 for your own server."""
    price_per_second: float | None = Field(None, ge=0, le=far(1e6))
    """What one second of video costs."""
    currency: str = "USD"
    """What prices and the budget count in."""

    jobs_at_once: ClassVar[int] = 2
