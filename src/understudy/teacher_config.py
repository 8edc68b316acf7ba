"""The sections of a run's description (`understudy.config`) that say who the teacher is."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys forbidden, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class WorldTeacherConfig(Section):
    """The embedded physics world."""

    kind: Literal["world"] = "world"
    look: Literal["film", "house"] = "film"
    """Look of its clips: film (another look than the student's) or house."""
    size: int = Field(64, ge=16, le=512)
    """Side of its square frames in pixels."""
    fps: float = Field(24.0, gt=0, le=240)
    """Frames per second."""
    frames: int = Field(32, ge=2, le=4096)
    """Frames per clip."""
    poor: bool = False
    """Random physics unrelated to the prompt: the source that start students are pre-trained on."""


class FolderTeacherConfig(Section):
    """A folder of mp4 files with their prompts."""

    kind: Literal["folder"] = "folder"
    path: Path
    """Folder of clips with their prompts, in this project's layout or another trainer's: prompts.csv, metadata.csv or
    .jsonl, videos2caption.json, prompts.txt with videos.txt, WebDataset tars, a .txt beside each clip, VBench's names."""
    listing: Path | None = None
    """The table that lists the clips, when the folder has several or it lies elsewhere; null: the one in the folder."""


class TermsConfig(Section):
    """What the teacher's terms say about training on its outputs, as you have read them."""

    training: Literal["yes", "no", "conditional", "unknown"]
    """Whether they allow it."""
    note: str = Field(min_length=1)
    """What they say, in a sentence."""
    url: str = ""
    """Where they say it."""
    checked: str = ""
    """When you read them, as 2026-11-01."""


class RequestConfig(Section):
    """What is asked of a teacher that is not the embedded world."""

    frames: int = Field(81, ge=1)
    """Frames asked for."""
    fps: float = Field(16.0, gt=0)
    """Frames per second asked for."""
    width: int = Field(832, ge=16)
    """Pixels asked for."""
    height: int = Field(480, ge=16)
    """Pixels asked for."""
    terms: TermsConfig | None = None
    """What the terms say; null: what is known of the teacher (`understudy collect` prints it)."""


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
    body: dict[str, Any] = {}
    """Fields of the request, on top of the shape's; null leaves one out."""
    wire: dict[str, Any] = {}
    """Changes of the shape itself."""
    idempotent: bool = False
    """The server makes one job of requests with the same Idempotency-Key."""
    plain_http: bool = False
    """Allow http to this host although it is not this machine (a server in your own network)."""
    max_megabytes: int = Field(512, ge=1)
    """Largest clip that is taken."""
    price_per_clip: float | None = Field(None, ge=0)
    """What one clip costs; 0 for your own server."""
    price_per_second: float | None = Field(None, ge=0)
    """What one second of video costs."""
    currency: str = "USD"
    """What prices and the budget count in."""


class ComfyTeacherConfig(RequestConfig):
    """A workflow on a ComfyUI server of your own; needs the extra [api]."""

    kind: Literal["comfyui"] = "comfyui"
    workflow: Path
    """The workflow, as ComfyUI's Export (API) writes it."""
    nodes: dict[str, Any] = {}
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
    max_megabytes: int = Field(512, ge=1)
    """Largest clip that is taken."""
    price_per_clip: float = Field(0.0, ge=0)
    """What one clip costs, for workflows with nodes that ask paid services."""


class DiffusersTeacherConfig(RequestConfig):
    """A text-to-video pipeline of diffusers in a folder on this machine; needs the extra [wan]."""

    kind: Literal["diffusers"] = "diffusers"
    path: Path
    """The pipeline's folder, with model_index.json and safetensors; nothing is downloaded."""
    model: str = ""
    """What to call it; the terms of known weights go by this name. Empty: the folder's name."""
    call: dict[str, Any] | None = None
    """Arguments of the call, with {prompt} {frames} {fps} {width} {height}; null: prompt, num_frames, width, height."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of its weights and arithmetic."""
    device: str = "cpu"
    """Torch device it runs on."""
