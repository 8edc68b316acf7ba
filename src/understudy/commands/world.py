"""The verb world serve: the embedded world as a server."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import arg

from understudy.commands.base import UsageError, Verb
from understudy.errors import ConfigError


@dataclass(frozen=True)
class WorldServe(Verb):
    """Serve the embedded world in the shape of a service, with faults on demand: for trying out collections."""

    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen at."""
    port: Annotated[int, arg(metavar="N")] = 8000
    """Port to listen at; 0: any free one."""
    shape: Annotated[str, arg(metavar="NAME")] = "openai-videos"
    """How it speaks: openai-videos, form-only (the same without JSON), openrouter, fal, ark, minimax, replicate, comfyui."""
    look: Literal["film", "house"] = "film"
    """Look of its clips."""
    delay: Annotated[float, arg(metavar="S")] = 0.0
    """Seconds a job takes."""
    faults: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Share of the requests that meet a fault, 0 to 1."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Which faults."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy world serve --delay 5 --faults 0.2",
        "understudy world serve --shape fal --port 8001",
        "understudy collect my.yaml --teacher.kind api --teacher.url http://127.0.0.1:8000",
    )

    def do(self) -> int:
        """Serve until Ctrl-C."""
        if not 0 <= self.faults < 1 or self.delay < 0 or not 0 <= self.port < 65536:
            raise UsageError("--faults takes 0 to 1, --delay at least 0, --port 0 to 65535")
        from understudy.teachers.world.server import World, serve
        from understudy.teachers.world.teacher import WorldTeacher

        world = World(WorldTeacher(self.look), self.delay, self.faults, self.seed, shape=self.shape)
        try:
            server = serve(world, self.host, self.port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {self.host}:{self.port} ({(error.strerror or str(error)).lower()}); choose another --port"
            ) from None
        print(
            f"the embedded world is at http://{self.host}:{server.server_port} and speaks {self.shape} "
            f"(jobs go to {world.dialect.entry})",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        server.server_close()
        return 0
