"""The verb serve: watch students in the browser while they draw."""

import secrets
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb
from understudy.errors import ConfigError


@dataclass(frozen=True)
class Serve(Verb):
    """Serve students: a page that plays them while they draw, and a WebSocket protocol."""

    students: Annotated[Positional[tuple[str, ...]], arg(metavar="STUDENT...")]
    """Run folders, bundle folders, builtin:frame or builtin:block; two of equal form can be shown side by side."""
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
            import uvicorn
        except ImportError as error:
            raise UsageError(f"{error.name} is missing; install it with: pip install 'understudy[serve]'") from None
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        import torch

        from understudy.serving.app import Access, build_app
        from understudy.serving.scheduler import Limits, Scheduler
        from understudy.students.bundle import load_bundle

        if self.threads:
            torch.set_num_threads(self.threads)
        bundles = {}
        for name in self.students:
            bundle = load_bundle(name)
            window = self.window or bundle.student.spec.window or bundle.student.spec.max_frames
            bundles[name] = bundle.with_window(window, self.sink)
        loopback = self.host in ("127.0.0.1", "localhost", "::1")
        token = None if loopback else secrets.token_urlsafe(16)
        access = Access() if loopback else Access(hosts=None, token=token)
        limits = Limits(sessions=self.sessions, queue=self.queue)
        app = build_app(bundles, Scheduler(limits), access)
        config = uvicorn.Config(app, log_level="warning", ws_max_size=limits.message_bytes, timeout_graceful_shutdown=3)
        server = uvicorn.Server(config)
        listening = _listen(self.host, self.port)
        # uvicorn stops gracefully, then raises the signal again for us: an ordered stop is no failure.
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
        host = f"[{self.host}]" if ":" in self.host else self.host
        print(f"open http://{host}:{listening.getsockname()[1]}/{f'#token={token}' if token else ''}", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        return 0


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, so that an address that cannot be had is known before any other word."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot listen on {host} port {port} ({reason}); choose another --port or --host") from None
