"""The section of a workflow on a ComfyUI server."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from understudy.recipes.section import far
from understudy.teachers.base import ClipParams
from understudy.teachers.config import RequestConfig
from understudy.teachers.fields import asked_by


class ComfyTeacherConfig(RequestConfig):
    """A workflow on a ComfyUI server of your own; needs the extra [api]."""

    kind: Literal["comfyui"] = "comfyui"
    workflow: Path
    """The workflow, as ComfyUI's Export (API) writes it."""
    nodes: dict[str, Any] = Field({})
    """What goes into which input, as NODE.input: '{prompt}'; NODE is a node's id or its title. {prompt} and {seed} have to
    go somewhere; also {frames} {fps} {width} {height}, as the workflow needs them."""
    output: str = ""
    """Node whose file is the clip, when the workflow saves several videos."""
    url: str = "http://127.0.0.1:8188"
    """Address of the server."""
    model: str = ""
    """What to call it; the terms of known weights go by this name."""
    key_env: str = ""
    """Environment variable, or keyring entry of `understudy`, with a key for a server behind a login."""
    plain_http: bool = False
    """Allow http to this host although it is not this machine (a server in your own network)."""
    max_megabytes: int = Field(512, ge=1, le=far(1_000_000))
    """Largest clip that is taken."""
    price_per_clip: float = Field(0.0, ge=0, le=far(1e6))
    """What one clip costs, for workflows with nodes that ask paid services."""

    jobs_at_once: ClassVar[int] = 2

    def clip_params(self) -> ClipParams:
        """Return what of the wanted clip goes into one of the workflow's inputs."""
        return asked_by(self.nodes, super().clip_params())
