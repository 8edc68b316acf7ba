"""One viewer's WebSocket: the protocol of ``protocol`` spoken over one session after another."""

import asyncio
import io
import logging
import time
from contextlib import suppress

from fastapi import WebSocket, WebSocketDisconnect
from PIL import Image
from pydantic import ValidationError

from understudy.errors import ConfigError, UnderstudyError
from understudy.serving import protocol
from understudy.serving.catalogue import Catalogue, Plan, Settings
from understudy.serving.scheduler import Scheduler, Session, waker
from understudy.students.generate import given_frames
from understudy.video.mp4 import FragmentedMp4, Frames

_LOG = logging.getLogger(__name__)
_TOO_MANY_ERRORS = 10
_MESSAGES_A_SECOND = 100  # more are read later, which holds the sender back


class Connection:
    """One viewer's WebSocket, from the welcome to its end.

    Args:
        socket: accepted already.
        catalogue, scheduler: what can be drawn, and by whose leave.
        decoding: held while a given file is decoded, so that one at a time is.

    Attributes:
        sender: the task that sends the session, if there has been one.
    """

    def __init__(
        self, socket: WebSocket, catalogue: Catalogue, scheduler: Scheduler, decoding: asyncio.Semaphore
    ) -> None:
        self._socket, self._catalogue, self._scheduler, self._decoding = socket, catalogue, scheduler, decoding
        self._limits = scheduler.limits
        self._session: Session | None = None
        self._students: tuple[str, ...] = ()  # that the session shows
        self.sender: asyncio.Task[None] | None = None
        self._second, self._messages = 0.0, 0

    async def serve(self) -> None:
        """Answer until the viewer goes, says nothing for too long or only nonsense."""
        errors = 0
        try:
            await self._send(
                protocol.Welcome(
                    students=self._catalogue.facts(),
                    prompt_chars=self._limits.prompt_chars,
                    given_bytes=self._limits.given_bytes,
                )
            )
            while errors < _TOO_MANY_ERRORS:
                text, _ = await self._receive()
                try:
                    await self._answer(self._read(text))
                except (ValidationError, UnderstudyError) as error:
                    errors += 1
                    await self._send(protocol.Error(detail=reason(error)))
            await self._send(protocol.Error(detail=f"{errors} messages were refused: the connection is closed"))
            await self._socket.close(1008)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):  # RuntimeError: sent to a socket that has gone
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.close(1001)
        finally:
            if self._session is not None:
                self._scheduler.leave(self._session)
            if self.sender is not None:
                self.sender.cancel()

    async def _receive(self) -> tuple[str | None, bytes | None]:
        """Return the next message, a text or bytes.

        Raises:
            WebSocketDisconnect: the viewer has gone.
            TimeoutError: no session is alive, and nothing was said for long.
        """
        now = time.monotonic()
        if now - self._second >= 1:
            self._second, self._messages = now, 0
        self._messages += 1
        if self._messages > _MESSAGES_A_SECOND:
            await asyncio.sleep(self._second + 1 - now)
        while True:
            try:
                received = await asyncio.wait_for(self._socket.receive(), self._limits.idle_seconds)
                break
            except TimeoutError:
                if self._session is None or self._session.ended is not None:
                    await self._send(protocol.Error(detail="nothing was asked for: the connection is closed"))
                    raise
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        return received.get("text"), received.get("bytes")

    def _read(self, text: str | None) -> protocol.ViewerMessage:
        if text is None:
            raise ConfigError("messages are JSON text; a binary one follows an open that announces it")
        if len(text) > self._limits.message_bytes:
            raise ConfigError(f"a message has at most {self._limits.message_bytes} bytes")
        return protocol.VIEWER.validate_json(text)

    async def _answer(self, message: protocol.ViewerMessage) -> None:
        if isinstance(message, protocol.Open):
            return await self._open(message)
        if self._session is None or self._session.ended is not None:
            if isinstance(message, protocol.Prompt):
                raise ConfigError("nothing is playing: send open first")
            return None
        if isinstance(message, protocol.Stop):
            return self._scheduler.leave(self._session)
        if isinstance(message, protocol.Prompt):
            return self._scheduler.heard(self._session, prompt=self._catalogue.prompt(message.prompt, self._students))
        return self._scheduler.heard(self._session, acked=message.block)

    async def _open(self, message: protocol.Open) -> None:
        data = await self._given(message.given_bytes) if message.given_bytes else None  # first: it is on its way
        if self.sender is not None and not self.sender.done():
            raise ConfigError("a clip is playing: send stop first")
        settings = Settings(message.block, message.window, message.sink, message.steps)
        frames = None
        if message.seconds is not None:
            fps = self._catalogue.bundle(next(iter(message.students or self._catalogue.bundles))).form.fps
            frames = round(min(message.seconds, self._limits.seconds) * fps)
        plan = self._catalogue.plan(message.prompt, message.seed, frames, message.students, settings)
        given = None
        if data is not None:
            async with self._decoding:
                given = await asyncio.to_thread(given_frames, data, plan.bundles[0].form, "the given file")
        news = asyncio.Event()
        self._students = message.students
        self._session = self._scheduler.join(plan.opener(given), plan.fps, waker(news))
        self.sender = asyncio.create_task(self._play(self._session, news, plan, message.format))

    async def _given(self, announced: int) -> bytes:
        """Return the file that follows an open."""
        if announced > self._limits.given_bytes:
            raise ConfigError(f"a given file has at most {self._limits.given_bytes} bytes, not {announced}")
        _, data = await self._receive()
        if data is None or len(data) != announced:
            raise ConfigError(f"a binary message of {announced} bytes was announced and did not follow")
        return data

    async def _play(self, session: Session, news: asyncio.Event, plan: Plan, form: str) -> None:
        """Send what the session has until it ends; whatever goes wrong here ends this session only."""
        try:
            pack: Packer = Jpeg()
            if form == "mp4":
                pack = await asyncio.to_thread(FragmentedMp4, plan.height, plan.width, plan.fps)
            position = -1
            while True:
                ended = session.ended  # read first: what was drawn before the end is taken below
                if session.position != position and ended is None:
                    position = session.position
                    await self._send(protocol.Queued(position=position))
                while part := session.take():
                    if part.number == 1:
                        await self._start(plan, pack)
                    data: bytes | list[bytes] = await asyncio.to_thread(pack.push, part.drawn.frames)
                    parts: tuple[bytes, ...] = (data,) if isinstance(data, bytes) else tuple(data)
                    block = protocol.Block(
                        block=part.number,
                        frames=len(part.drawn.frames),
                        prompt=part.prompt,
                        milliseconds=1000 * part.seconds,
                        cache_bytes=part.drawn.cache_bytes,
                        sizes=tuple(map(len, parts)),
                    )
                    await self._send(block)
                    await self._socket.send_bytes(b"".join(parts))
                if ended is not None:
                    await self._send(protocol.Ended(reason=ended[0], detail=ended[1]))
                    return
                await news.wait()
                news.clear()
        except (WebSocketDisconnect, RuntimeError):  # it has gone; ``serve`` frees the place
            return
        except Exception:
            _LOG.exception("a session could not be sent")
            self._scheduler.leave(session, "failed", "this session failed; the server's log says why")
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._send(protocol.Ended(reason="failed", detail="it could not be sent"))

    async def _start(self, plan: Plan, pack: "Packer") -> None:
        started = protocol.Started(mime=pack.mime, width=plan.width, height=plan.height, fps=plan.fps)
        await self._send(started)
        if pack.header:
            await self._socket.send_bytes(pack.header)

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


def reason(error: Exception) -> str:
    """Return in one line what is wrong with a message; never what it held."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'message'}: {first['msg']}"[:300]
    return str(error)[:300]
