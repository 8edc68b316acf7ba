"""A server of the built-in student over real sockets."""

import importlib.util
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from understudy.students.bundle import Bundle, load_bundle


@dataclass(frozen=True)
class Served:
    """A running server: its address, and what is behind it."""

    url: str
    scheduler: Any
    catalogue: Any

    @property
    def stream(self) -> str:
        return self.url.replace("http", "ws", 1) + "/stream"

    def gauge(self, name: str) -> float:
        import httpx

        lines = httpx.get(self.url + "/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"understudy_{name} "))


@contextmanager
def running(
    bundles: dict[str, Bundle],
    denied: tuple[str, ...] = (),
    token: str | None = None,
    door: dict[str, float] | None = None,
    **limits: Any,
) -> Iterator[Served]:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    from uvicorn.protocols.http.auto import AutoHTTPProtocol
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

    from understudy.serving.access import Access
    from understudy.serving.app import build_app
    from understudy.serving.catalogue import Catalogue
    from understudy.serving.doors import DoorLimits, Doors, guarded_http, guarded_websocket
    from understudy.serving.scheduler import Limits, Scheduler

    bounds = Limits(**limits)
    scheduler, catalogue = Scheduler(bounds), Catalogue(bundles, bounds, denied)
    app = build_app(catalogue, scheduler, Access() if token is None else Access(None, token))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        doors = Doors(DoorLimits(**(door or {})))  # type: ignore[arg-type]
        guards = {"http": guarded_http(AutoHTTPProtocol, doors), "ws": guarded_websocket(AutoWebSocketsProtocol, doors)}
        config = uvicorn.Config(app, log_level="warning", ws_max_size=bounds.given_bytes, **guards)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler, catalogue)
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def frame() -> Bundle:
    return load_bundle("builtin:frame").with_window(8, 0)


@pytest.fixture(scope="session")
def block() -> Bundle:
    return load_bundle("builtin:block").with_window(8, 0)


@pytest.fixture
def serve(frame: Bundle) -> Serve:
    def start(bundles: dict[str, Bundle] | None = None, **settings: Any) -> AbstractContextManager[Served]:
        return running({"frame": frame} if bundles is None else bundles, **settings)

    return start


class Viewer:
    """A client of the WebSocket protocol; ``websockets`` speaks the frames."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.welcome = self.hear()

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self, seconds: float = 30) -> Any:
        """Return the next message: a dictionary, or bytes."""
        got = self.socket.recv(seconds)
        return got if isinstance(got, bytes) else json.loads(got)

    def until(self, kind: str, acknowledge: bool = True) -> Any:
        """Return the first message of this type, acknowledging blocks on the way."""
        while True:
            message = self.hear()
            if isinstance(message, bytes):
                continue
            if message["type"] == "block" and acknowledge:
                self.say(type="ack", block=message["block"])
            if message["type"] == kind:
                return message

    def watch(self, blocks: int) -> tuple[list[dict[str, Any]], bytes]:
        """Return the next blocks' messages and all binary data so far."""
        told: list[dict[str, Any]] = []
        data = b""
        message: Any = None
        while len(told) < blocks or not isinstance(message, bytes):
            message = self.hear()
            if isinstance(message, bytes):
                data += message
            elif message["type"] == "block":
                told.append(message)
                self.say(type="ack", block=message["block"])
            else:
                assert message["type"] in ("queued", "started"), message
        return told, data


@contextmanager
def viewing(served: Served, *words: str, **headers: str) -> Iterator[Viewer]:
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(
        served.stream, subprotocols=["understudy.v1", *words], additional_headers=headers, max_size=None
    ) as socket:
        yield Viewer(socket)


@pytest.fixture
def view() -> Callable[..., AbstractContextManager[Viewer]]:
    return viewing


@pytest.fixture(scope="session")
def bench() -> Any:
    """benchmarks/serving.py, whose short versions run here."""
    pytest.importorskip("websockets")
    path = Path(__file__).parents[2] / "benchmarks" / "serving.py"
    spec = importlib.util.spec_from_file_location("serving_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
