"""Messages of the WebSocket protocol, version 1; docs/serving.md describes their order."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

VERSION = 1


class Message(BaseModel):
    """Base of all messages: JSON text, told apart by ``type``; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Open(Message):
    """Viewer: begin a clip. ``seconds`` null goes on for ever; two ``students`` are shown side by side."""

    type: Literal["open"]
    version: Literal[1] = 1
    prompt: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**31)
    seconds: float | None = Field(None, gt=0)
    students: tuple[str, ...] = Field((), max_length=2)
    format: Literal["mp4", "jpeg"] = "mp4"


class Prompt(Message):
    """Viewer: turn to another prompt from the next block on."""

    type: Literal["prompt"]
    prompt: str = Field(min_length=1)


class Ack(Message):
    """Viewer: block number ``block`` has arrived; the server stays a few blocks ahead of this."""

    type: Literal["ack"]
    block: int = Field(ge=0, lt=2**53)


class Stop(Message):
    """Viewer: end the clip."""

    type: Literal["stop"]


class Welcome(Message):
    """Server: first message; the names of the students."""

    type: Literal["welcome"] = "welcome"
    version: int = VERSION
    students: tuple[str, ...]
    prompt_chars: int


class Queued(Message):
    """Server: ``position`` in the queue, from 1; 0: it is your turn."""

    type: Literal["queued"] = "queued"
    position: int


class Started(Message):
    """Server: the clip begins. In mp4, one binary message with the header follows."""

    type: Literal["started"] = "started"
    mime: str
    width: int
    height: int
    fps: float


class Block(Message):
    """Server: exactly one binary message follows, ``sizes`` its parts in bytes (one fragment, or one JPEG a frame)."""

    type: Literal["block"] = "block"
    block: int
    frames: int
    milliseconds: float
    cache_bytes: int
    sizes: tuple[int, ...]


class Ended(Message):
    """Server: the clip is over; another ``open`` may follow."""

    type: Literal["ended"] = "ended"
    reason: str
    detail: str = ""


class Error(Message):
    """Server: a message was refused; what is wrong and what to do."""

    type: Literal["error"] = "error"
    detail: str


Viewer = Annotated[Open | Prompt | Ack | Stop, Field(discriminator="type")]
VIEWER: TypeAdapter[Open | Prompt | Ack | Stop] = TypeAdapter(Viewer)
