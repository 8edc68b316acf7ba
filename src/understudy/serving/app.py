"""The web layer: page, WebSocket, health and metrics around one scheduler. Shape legend: T pixel frames, H/W pixels."""

import asyncio
import io
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from PIL import Image
from pydantic import ValidationError

from understudy.errors import ConfigError
from understudy.mp4 import FragmentedMp4, Frames
from understudy.prompts import normalise
from understudy.serving import protocol
from understudy.serving.scheduler import Refused, Scheduler, Session
from understudy.students.bundle import Bundle
from understudy.students.generate import ClipStream, Drawn

_STATIC: Final = Path(__file__).parent / "static"
_PAGES: Final = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css"}
_OPEN: Final = {*_PAGES, "/health"}  # nothing of a session in them: no token needed
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TOO_MANY_ERRORS: Final = 10


@dataclass(frozen=True)
class Access:
    """Who may connect: ``hosts`` are the Host names answered to (None: any), ``token`` what they have to show."""

    hosts: frozenset[str] | None = frozenset({"localhost", "127.0.0.1", "[::1]"})
    token: str | None = None

    def refusal(self, headers: Mapping[str, str], path: str, token: str) -> str:
        """Return why a request is refused, or nothing."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:
            return f"this server answers to {', '.join(sorted(self.hosts))} only"  # DNS rebinding
        if origin is not None and urlsplit(origin).netloc != host:
            return "requests from pages of another origin are refused"
        if self.token is not None and path not in _OPEN and not secrets.compare_digest(token, self.token):
            return "a token is needed: open the address that `understudy serve` printed"
        return ""


class SideBySide:
    """One or two clips drawn from the same noise and shown beside one another."""

    def __init__(self, bundles: tuple[Bundle, ...], prompt: str, seed: int, frames: int | None) -> None:
        self._streams = [ClipStream(bundle, prompt, seed, frames) for bundle in bundles]

    def __iter__(self) -> "SideBySide":
        return self

    def __next__(self) -> Drawn:
        """Draw the next block of each: frames [T, H, W, 3], W the sum of the widths."""
        drawn = [next(stream) for stream in self._streams]
        return Drawn(np.concatenate([d.frames for d in drawn], axis=2), sum(d.cache_bytes for d in drawn))

    def switch(self, prompt: str) -> None:
        """Turn all to another prompt."""
        for stream in self._streams:
            stream.switch(prompt)


def check_students(bundles: Mapping[str, Bundle]) -> None:
    """Raise ConfigError unless every student can stream, and all can be shown side by side."""
    forms = {(b.form.height, b.form.width, b.form.fps, b.student.block_frames) for b in bundles.values()}
    if len(forms) > 1:
        raise ConfigError("the students differ in size, rate or block: side by side they need the same")
    for bundle in bundles.values():
        ClipStream(bundle, "", 0)  # says so when it has no window


def build_app(bundles: Mapping[str, Bundle], scheduler: Scheduler, access: Access) -> FastAPI:
    """Return the server of ``bundles`` (name -> student with a window); it draws in one thread of its own."""
    check_students(bundles)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=scheduler.run, name="scheduler", daemon=True)
        thread.start()
        yield
        scheduler.close()
        await asyncio.to_thread(thread.join, 10)

    app = FastAPI(title="Understudy", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Any]) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        why = access.refusal(request.headers, request.url.path, token)
        response: Response = JSONResponse({"error": why}, 403) if why else await call_next(request)
        response.headers.update(_HEADERS)
        return response

    for path, name in _PAGES.items():
        app.add_api_route(path, partial(_page, name), include_in_schema=False, response_class=FileResponse)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the server is up."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Return counters and gauges as Prometheus text."""
        playing, waiting = scheduler.sizes
        lines = []
        for kind, values in (("gauge", {"playing": playing, "waiting": waiting}), ("counter", scheduler.counts)):
            for name, value in values.items():
                full = f"understudy_{name}_total" if kind == "counter" else f"understudy_{name}"
                lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
        return "\n".join(lines) + "\n"

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        """Speak the protocol with one viewer."""
        offered = [word.strip() for word in socket.headers.get("sec-websocket-protocol", "").split(",")]
        token = next((word.removeprefix("token.") for word in offered if word.startswith("token.")), "")
        if access.refusal(socket.headers, "/stream", token):
            await socket.close(1008)
            return
        await socket.accept("understudy.v1" if "understudy.v1" in offered else None)
        await Connection(socket, bundles, scheduler).serve()

    return app


async def _page(name: str) -> FileResponse:
    return FileResponse(_STATIC / name)


class Connection:
    """One viewer's WebSocket."""

    def __init__(self, socket: WebSocket, bundles: Mapping[str, Bundle], scheduler: Scheduler) -> None:
        self._socket, self._bundles, self._scheduler = socket, bundles, scheduler
        self._session: Session | None = None
        self._sender: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer until the viewer goes, says nothing for too long or only nonsense."""
        limits, errors = self._scheduler.limits, 0
        try:
            await self._send(protocol.Welcome(students=tuple(self._bundles), prompt_chars=limits.prompt_chars))
            while errors < _TOO_MANY_ERRORS:
                received = await asyncio.wait_for(self._socket.receive(), 2 * limits.idle_seconds)
                if received["type"] == "websocket.disconnect":
                    return
                try:
                    await self._answer(protocol.VIEWER.validate_json(received.get("text") or ""))
                except (ValidationError, ConfigError, Refused) as error:
                    errors += 1
                    await self._send(protocol.Error(detail=_reason(error)))
            await self._socket.close(1008)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):  # RuntimeError: sent to a socket that has gone
            with suppress(RuntimeError):
                await self._socket.close(1001)
        finally:
            if self._session is not None:
                self._scheduler.leave(self._session)
            if self._sender is not None:
                self._sender.cancel()

    async def _answer(self, message: protocol.Open | protocol.Prompt | protocol.Ack | protocol.Stop) -> None:
        if isinstance(message, protocol.Open):
            return self._open(message)
        if self._session is None or self._session.ended is not None:
            if isinstance(message, protocol.Prompt):
                raise ConfigError("nothing is playing: send open first")
            return None
        if isinstance(message, protocol.Stop):
            return self._scheduler.leave(self._session)
        if isinstance(message, protocol.Prompt):
            return self._scheduler.heard(self._session, prompt=self._prompt(message.prompt))
        return self._scheduler.heard(self._session, acked=message.block)

    def _prompt(self, text: str) -> str:
        prompt, most = normalise(text), self._scheduler.limits.prompt_chars
        if not 0 < len(prompt) <= most:
            raise ConfigError(f"a prompt has 1 to {most} characters, got {len(prompt)}")
        return prompt

    def _open(self, message: protocol.Open) -> None:
        if self._sender is not None and not self._sender.done():
            raise ConfigError("a clip is playing: send stop first")
        names = message.students or tuple(self._bundles)[:1]
        if unknown := [name for name in names if name not in self._bundles]:
            raise ConfigError(f"there is no student {unknown[0]!r}; choose from {', '.join(self._bundles)}")
        bundles = tuple(self._bundles[name] for name in names)
        form, most = bundles[0].form, self._scheduler.limits.seconds
        frames = max(1, round(min(message.seconds or most, most) * form.fps))
        draw = partial(SideBySide, bundles, self._prompt(message.prompt), message.seed, frames)
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(news.set)

        self._session = self._scheduler.join(draw, form.fps, wake)
        pack: Packer = (
            Jpeg() if message.format == "jpeg" else FragmentedMp4(form.height, form.width * len(names), form.fps)
        )
        started = protocol.Started(mime=pack.mime, width=form.width * len(names), height=form.height, fps=form.fps)
        self._sender = asyncio.create_task(self._play(self._session, news, pack, started))

    async def _play(self, session: Session, news: asyncio.Event, pack: "Packer", started: protocol.Started) -> None:
        """Send what the session has until it ends."""
        position = -1
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                if session.position != position and session.ended is None:
                    position = session.position
                    await self._send(protocol.Queued(position=position))
                while session.outbox:
                    number, drawn, seconds = session.outbox.popleft()
                    if number == 1:
                        await self._send(started)
                        if pack.header:
                            await self._socket.send_bytes(pack.header)
                    data: bytes | list[bytes] = await asyncio.to_thread(pack.push, drawn.frames)
                    parts: tuple[bytes, ...] = (data,) if isinstance(data, bytes) else tuple(data)
                    block = protocol.Block(
                        block=number,
                        frames=len(drawn.frames),
                        milliseconds=1000 * seconds,
                        cache_bytes=drawn.cache_bytes,
                        sizes=tuple(map(len, parts)),
                    )
                    await self._send(block)
                    await self._socket.send_bytes(b"".join(parts))
                if session.ended is not None:
                    await self._send(protocol.Ended(reason=session.ended[0], detail=session.ended[1]))
                    return
                await news.wait()
                news.clear()

    async def _send(self, message: protocol.Message) -> None:
        await self._socket.send_text(message.model_dump_json())


class Jpeg:
    """The fallback: every frame a JPEG picture."""

    header = b""
    mime = "image/jpeg"

    def push(self, frames: Frames) -> list[bytes]:
        """Return one picture for each of the frames [T, H, W, 3]."""
        pictures = []
        for frame in frames:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "JPEG", quality=90)
            pictures.append(buffer.getvalue())
        return pictures


Packer = Jpeg | FragmentedMp4


def _reason(error: Exception) -> str:
    """Return in one line what is wrong with a message; never what it held."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'message'}: {first['msg']}"[:300]
    return str(error)[:300]
