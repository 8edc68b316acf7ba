"""The verb serve: watch students in the browser while they draw."""

import secrets
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb
from understudy.errors import ConfigError

if TYPE_CHECKING:
    from understudy.students.bundle import Bundle


@dataclass(frozen=True)
class Serve(Verb):
    """Serve students: a page that plays them while they draw, a WebSocket protocol, and /v1/videos."""

    students: Annotated[Positional[tuple[str, ...]], arg(metavar="STUDENT...")]
    """Run folders, bundle folders, builtin:frame, block or base; two of equal form can be shown side by side."""
    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen on; any but a loopback address asks viewers for a token, which is printed."""
    port: Annotated[int, arg(metavar="N")] = 8000
    """Port to listen on."""
    sessions: Annotated[int, arg(metavar="N")] = 8
    """Viewers that play at once, in turns."""
    queue: Annotated[int, arg(metavar="N")] = 32
    """Viewers that wait for a place."""
    window: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: the student's own, or its longest)")
    ] = None
    """Latent frames that are attended to."""
    sink: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the student's own)")] = None
    """First latent frames that stay visible when the window rolls."""
    deny: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Words and phrases, one a line, that no prompt may hold."""
    device: Annotated[str, arg(metavar="DEVICE")] = "cpu"
    """Torch device to draw on, as in cuda."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """Torch threads; 0 leaves the choice to torch."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy serve builtin:frame",
        "understudy serve builtin:frame runs/quickstart --port 9000",
    )

    def do(self) -> int:
        """Serve until Ctrl-C or SIGTERM."""
        for name, value, least in (("port", self.port, 0), ("sessions", self.sessions, 1), ("queue", self.queue, 0)):
            if not least <= value < 65536:
                raise UsageError(f"--{name} is {value}; give a whole number of at least {least} and below 65536")
        if not self.students:
            raise UsageError("there is no student; name at least one, as in builtin:frame")
        try:
            import fastapi  # noqa: F401
            import python_multipart  # noqa: F401
            import uvicorn
            from uvicorn.protocols.http.auto import AutoHTTPProtocol
            from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
        except ImportError as error:
            raise UsageError(f"{error.name} is missing; install it with: pip install 'understudy[serve]'") from None
        denied = self._denied()
        import torch

        from understudy.serving.access import Access
        from understudy.serving.app import build_app
        from understudy.serving.catalogue import Catalogue
        from understudy.serving.doors import DoorLimits, Doors, guarded_http, guarded_websocket
        from understudy.serving.scheduler import Limits, Scheduler

        if self.threads:
            torch.set_num_threads(self.threads)
        loopback = self.host in ("127.0.0.1", "localhost", "::1")
        token = None if loopback else secrets.token_urlsafe(16)
        access = Access() if loopback else Access(hosts=None, token=token)
        limits = Limits(sessions=self.sessions, queue=self.queue)
        scheduler = Scheduler(limits)
        app = build_app(Catalogue(self._bundles(), limits, denied), scheduler, access)

        doors = Doors(DoorLimits(burst=_room(limits.connections)))

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                await app.state.farewell()  # before the sockets are closed
                doors.close()
                await super().shutdown(sockets)

        most = max(limits.message_bytes, limits.given_bytes)
        config = uvicorn.Config(
            app,
            http=guarded_http(AutoHTTPProtocol, doors),
            ws=guarded_websocket(AutoWebSocketsProtocol, doors),
            log_level="warning",
            ws_max_size=most,
            timeout_graceful_shutdown=3,
        )
        server = Server(config)
        listening = _listen(self.host, self.port)
        # uvicorn stops gracefully, then raises the signal again for us: an ordered stop is no failure.
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
        host = f"[{self.host}]" if ":" in self.host else self.host
        print(f"open http://{host}:{listening.getsockname()[1]}/{f'#token={token}' if token else ''}", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        return 0

    def _bundles(self) -> "dict[str, Bundle]":
        """Load the students under short names: viewers need not know where they lie."""
        from understudy.students.bundle import load_bundle

        bundles: dict[str, Bundle] = {}
        for source in self.students:
            bundle = load_bundle(source)
            bundle.to(self.device)
            if bundle.student.rolls:
                window = self.window or bundle.student.spec.window or bundle.student.spec.max_frames
                bundle = bundle.with_window(window, self.sink)
            name = short = source if source.startswith("builtin:") else Path(source).resolve().name or "student"
            while name in bundles:
                name = f"{short}-{len(bundles) + 1}"
            bundles[name] = bundle
        return bundles

    def _denied(self) -> list[str]:
        if self.deny is None:
            return []
        from understudy.tables import read_text

        try:
            return read_text(self.deny, "--deny", 1 << 20).splitlines()
        except ConfigError as error:
            raise UsageError(
                f"--deny {self.deny} cannot be read ({error}); give a text file, one phrase a line"
            ) from None


def _room(streams: int) -> int:
    """Return how many unfinished requests fit beside ``streams`` WebSockets into the files this process may open."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(64, min(2048, (8192 if soft == resource.RLIM_INFINITY else soft) // 2 - streams))


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, so that an address that cannot be had is known before any other word."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot listen on {host} port {port} ({reason}); choose another --port or --host") from None
