import threading
from collections.abc import Callable, Iterator

import pytest

from understudy.teachers.world.server import World, serve
from understudy.teachers.world.teacher import WorldTeacher

KEY = "s3cret-key"


@pytest.fixture
def start() -> Iterator[Callable[..., World]]:
    """Starts a world that speaks the shape asked for, ``start("fal", delay=1)``; its address is in ``world.url``."""
    servers = []

    def make(shape: str, **how: object) -> World:
        world = World(WorldTeacher(size=16, frames=4, fps=8.0), shape=shape, **how)  # type: ignore[arg-type]
        server = serve(world)
        world.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return world

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()
