"""Who stands in the door: connections that have not asked for anything yet, or ask without end, keep nobody else out.

A web server answers whoever has finished asking. Until then a connection costs a socket and no token has been looked at, so
that is where a stranger can take up room. Here a head and a body have to arrive in time, unfinished requests are bounded
(the oldest goes when another comes), and so are the connections of one address that is not this machine's own.
"""

import asyncio
import ipaddress
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

_LOG = logging.getLogger(__name__)
_SWEEP = 0.5  # seconds between two looks at all connections

Phase = Literal["head", "body", "answer", "stream"]


@dataclass(frozen=True)
class DoorLimits:
    """What a connection may take up before it is known.

    Attributes:
        head_seconds, body_seconds: in which the head and the body of a request have to be there.
        stalled_seconds: that a client may go without taking any of its answer.
        unfinished: requests on their way in, above which the oldest that is older than ``grace_seconds`` goes.
        burst: the same, whatever their age.
        per_address: connections of one address (of IPv6: one network of 64 bits) other than this machine's own.
    """

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    stalled_seconds: float = 30.0
    unfinished: int = 256
    grace_seconds: float = 0.5
    burst: int = 1024
    per_address: int = 64


@dataclass(eq=False)
class _Guest:
    transport: asyncio.Transport
    address: str
    protocol: Any
    phase: Phase
    since: float
    arrived: float
    unsent: int = field(default=0)


class Doors:
    """All connections of one server; used from its event loop alone."""

    def __init__(self, limits: DoorLimits | None = None) -> None:
        self.limits = limits or DoorLimits()
        self._guests: dict[asyncio.Transport, _Guest] = {}  # oldest first
        self._unfinished: dict[asyncio.Transport, _Guest] = {}
        self._by_address: Counter[str] = Counter()
        self._sweeping = False

    def enter(self, transport: asyncio.Transport, protocol: Any) -> bool:
        """Let a new connection in; False, and it is closed, when its address has too many."""
        loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        address = _network(transport.get_extra_info("peername"))
        if address and self._by_address[address] >= self.limits.per_address:
            transport.abort()
            return False
        guest = _Guest(transport, address, protocol, "head", now, now)
        self._guests[transport] = self._unfinished[transport] = guest
        if address:
            self._by_address[address] += 1
        self._make_room(now)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP, self._sweep)
        return True

    def heard(self, transport: asyncio.Transport) -> None:
        """Look again at a connection from which something came."""
        if (guest := self._guests.get(transport)) is not None:
            self._look(guest, asyncio.get_running_loop().time())

    def streams(self, transport: asyncio.Transport) -> None:
        """Note that a connection has become a WebSocket, which has limits of its own."""
        if (guest := self._guests.get(transport)) is not None:
            guest.protocol = None
            self._look(guest, asyncio.get_running_loop().time())

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection that has gone."""
        self._unfinished.pop(transport, None)
        if (guest := self._guests.pop(transport, None)) is not None and guest.address:
            self._by_address[guest.address] -= 1
            if not self._by_address[guest.address]:
                del self._by_address[guest.address]

    def close(self) -> None:
        """Close every connection that has not finished asking: the server stops."""
        for guest in list(self._unfinished.values()):
            self._close(guest)

    def _make_room(self, now: float) -> None:
        limits = self.limits
        while len(self._unfinished) > limits.unfinished:
            guest = next(iter(self._unfinished.values()))
            if now - guest.arrived < limits.grace_seconds and len(self._unfinished) <= limits.burst:
                return
            self._close(guest)

    def _look(self, guest: _Guest, now: float) -> None:
        """Note what a connection is at, and since when."""
        phase = _phase(guest.protocol)
        if phase != guest.phase:
            guest.phase, guest.since, guest.unsent = phase, now, 0
            self._unfinished.pop(guest.transport, None)
            if phase in ("head", "body"):
                guest.arrived = now
                self._unfinished[guest.transport] = guest
        if phase == "answer":
            unsent = guest.transport.get_write_buffer_size()
            if not unsent or unsent < guest.unsent:
                guest.since = now
            guest.unsent = unsent

    def _sweep(self) -> None:
        limits, loop = self.limits, asyncio.get_running_loop()
        most = {
            "head": limits.head_seconds,
            "body": limits.body_seconds,
            "answer": limits.stalled_seconds,
            "stream": float("inf"),
        }
        now = loop.time()
        for guest in list(self._guests.values()):
            self._look(guest, now)
            if now - guest.since > most[guest.phase]:
                self._close(guest)
        self._make_room(now)
        if self._guests:
            loop.call_later(_SWEEP, self._sweep)
        else:
            self._sweeping = False

    def _close(self, guest: _Guest) -> None:
        self._unfinished.pop(guest.transport, None)
        guest.transport.abort()  # what waits to be sent would hold it open


def _phase(protocol: Any) -> Phase:
    """Return what one of uvicorn's HTTP connections is at; None stands for a WebSocket."""
    if protocol is None:
        return "stream"
    cycle = getattr(protocol, "cycle", None)
    if cycle is None or cycle.response_complete:
        return "head"
    return "body" if cycle.more_body else "answer"


def _network(peer: Any) -> str:
    """Return whose connections are counted together; empty for those of this machine, which are not counted."""
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except (TypeError, IndexError, ValueError):  # a socket of another kind
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return ""
    bits = 32 if address.version == 4 else 64
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))


def guarded_http(base: Any, doors: Doors) -> Any:
    """Return uvicorn's HTTP protocol ``base`` with ``doors`` before it."""

    class GuardedHTTP(base):
        """See `Doors`."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            doors.enter(transport, self)

        def data_received(self, data: bytes) -> None:
            _carefully(self.transport, super().data_received, data)
            doors.heard(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            doors.leave(self.transport)
            super().connection_lost(exc)

    return GuardedHTTP


def guarded_websocket(base: Any, doors: Doors) -> Any:
    """Return uvicorn's WebSocket protocol ``base`` with ``doors`` before it; what is malformed closes it, no more."""

    class GuardedWebSocket(base):
        """See `Doors`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.logger: Any = _plain_logger()
            if hasattr(getattr(self, "conn", None), "logger"):
                self.conn.logger = self.logger

        def connection_made(self, transport: Any) -> None:
            doors.streams(transport)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            _carefully(self.transport, super().data_received, data)

        def connection_lost(self, exc: Exception | None) -> None:
            doors.leave(self.transport)
            super().connection_lost(exc)

    return GuardedWebSocket


def _carefully(transport: asyncio.Transport, read: Any, data: bytes) -> None:
    """Hand ``data`` to ``read``; what that cannot make sense of ends the connection, in one line of the log."""
    try:
        read(data)
    except Exception as error:
        _LOG.warning("a connection sent what cannot be read (%s): closed", type(error).__name__)
        transport.abort()


def _plain_logger() -> logging.Logger:
    """Return a logger whose lines have no tracebacks: what a stranger sends is no error of ours."""
    logger = logging.getLogger("uvicorn.error.websocket")
    logger.setLevel(logging.getLogger("uvicorn.error").getEffectiveLevel())
    if _without_traceback not in logger.filters:
        logger.addFilter(_without_traceback)
    return logger


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True
