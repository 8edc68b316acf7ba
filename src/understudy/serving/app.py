"""The web layer: page, WebSocket, ``/v1/videos``, health and metrics around one scheduler."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from understudy import __version__
from understudy.serving import protocol
from understudy.serving.access import HEADERS, PAGES, Access, Refusal
from understudy.serving.catalogue import Catalogue
from understudy.serving.connection import Connection
from understudy.serving.jobs import Jobs
from understudy.serving.scheduler import Scheduler
from understudy.serving.videos import videos

_LOG = logging.getLogger(__name__)
_STATIC: Final = Path(__file__).parent / "static"


def build_app(catalogue: Catalogue, scheduler: Scheduler, access: Access) -> FastAPI:
    """Return the server of the students in ``catalogue``; ``scheduler`` draws in one thread of its own.

    ``app.state.farewell`` ends all sessions and waits a moment until their viewers have been told: to be awaited before
    the sockets are closed.
    """
    jobs, connections = Jobs(scheduler), set[Connection]()
    decoding = asyncio.Semaphore(1)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=scheduler.run, name="scheduler", daemon=True)
        thread.start()
        workers = [asyncio.create_task(jobs.work()) for _ in range(jobs.workers)]
        yield
        scheduler.close()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await asyncio.to_thread(thread.join, 10)

    async def farewell() -> None:
        scheduler.close()
        if senders := [c.sender for c in connections if c.sender is not None]:
            await asyncio.wait(senders, timeout=1)

    app = FastAPI(title="Understudy", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.farewell = farewell
    _answer_in_one_shape(app, access)
    for path, name in PAGES.items():
        app.add_api_route(path, partial(_page, name), include_in_schema=False, response_class=FileResponse)
    app.include_router(videos(catalogue, jobs, decoding))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server is up."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Return counters and gauges as Prometheus text."""
        playing, waiting = scheduler.sizes
        unfinished, kept, size = jobs.sizes
        gauges = {"playing": playing, "waiting": waiting, "connections": len(connections)}
        gauges |= {"jobs": unfinished, "clips": kept, "clip_bytes": size}
        lines = []
        for kind, values in (("gauge", gauges), ("counter", scheduler.counts)):
            for name, value in values.items():
                full = f"understudy_{name}_total" if kind == "counter" else f"understudy_{name}"
                lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
        return "\n".join(lines) + "\n"

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        """Speak the protocol with one viewer."""
        offered = [word.strip() for word in socket.headers.get("sec-websocket-protocol", "").split(",")]
        token = next((word.removeprefix("token.") for word in offered if word.startswith("token.")), "")
        try:
            access.check(socket.headers, "/stream", token)
        except Refusal as refusal:
            return await socket.send_denial_response(refusal.response())
        await socket.accept("understudy.v1" if "understudy.v1" in offered else None)
        connection = Connection(socket, catalogue, scheduler, decoding)
        if len(connections) >= scheduler.limits.connections:
            full = protocol.Error(detail="too many viewers are connected: try again later")
            await socket.send_text(full.model_dump_json())
            return await socket.close(1013)
        connections.add(connection)
        try:
            return await connection.serve()
        finally:
            connections.discard(connection)

    return app


async def _page(name: str) -> FileResponse:
    return FileResponse(_STATIC / name)


def _answer_in_one_shape(app: FastAPI, access: Access) -> None:
    """Guard every request, and give every refusal and failure the same form."""

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Any]) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            access.check(request.headers, request.url.path, token)
            response: Response = await call_next(request)
        except Refusal as refusal:
            response = refusal.response()
        except Exception:
            _LOG.exception("a request failed")
            response = Refusal(500, "server_error", "the server failed; its log says why").response()
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        return Refusal(422, "invalid_value", f"{param}: {first['msg']}"[:300], param).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        response = Refusal(
            error.status_code, "not_found" if error.status_code == 404 else "refused", error.detail
        ).response()
        response.headers.update(error.headers or {})
        return response
