"""Messages of the WebSocket protocol, version 1; docs/serving.md describes their order."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

VERSION = 1


class Message(BaseModel):
    """Base of all messages: JSON text, told apart by ``type``; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Open(Message):
    """Viewer: begin a clip.

    ``seconds`` null goes on for ever; two ``students`` are shown side by side. ``block``, ``window`` and ``sink`` (latent
    frames) and ``steps`` (sampling steps a block) null are the student's own. With ``given_bytes`` above 0 the next message
    is binary, of that many bytes: a PNG, JPEG, WebP or video file to go on from.
    """

    type: Literal["open"]
    version: Literal[1] = 1
    prompt: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**31)
    seconds: float | None = Field(None, gt=0)
    students: tuple[str, ...] = Field((), max_length=2)
    block: int | None = Field(None, ge=1, lt=2**16)
    window: int | None = Field(None, ge=1, lt=2**16)
    sink: int | None = Field(None, ge=0, lt=2**16)
    steps: int | None = Field(None, ge=1, lt=2**16)
    given_bytes: int = Field(0, ge=0, lt=2**31)
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


class StudentFacts(Message):
    """A student on offer: its clips, its own settings, and the longest span it attends to (latent frames)."""

    name: str
    width: int
    height: int
    fps: float
    block: int
    window: int
    sink: int
    steps: int
    span: int
    endless: bool


class Welcome(Message):
    """Server: first message; the students, and how long a prompt and how large a given file may be."""

    type: Literal["welcome"] = "welcome"
    version: int = VERSION
    students: tuple[StudentFacts, ...]
    prompt_chars: int
    given_bytes: int


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
    """Server: exactly one binary message follows, ``sizes`` its parts in bytes (one fragment, or one JPEG a frame).

    ``prompt`` counts the prompts turned to: 0 is that of ``open``.
    """

    type: Literal["block"] = "block"
    block: int
    frames: int
    prompt: int
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


ViewerMessage = Open | Prompt | Ack | Stop
VIEWER: TypeAdapter[ViewerMessage] = TypeAdapter(Annotated[ViewerMessage, Field(discriminator="type")])
