"""Whoever has not finished asking keeps nobody else out."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
httpx = pytest.importorskip("httpx")

from understudy.serving.doors import DoorLimits, Doors  # noqa: E402

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HEAD = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


def connected(served: Any, said: bytes = b"") -> socket.socket:
    address = urlsplit(served.url)
    client = socket.create_connection((address.hostname, address.port), timeout=20)
    client.sendall(said)
    return client


def drip(client: socket.socket) -> None:
    """Send a byte every tenth of a second."""
    began = time.monotonic()
    while time.monotonic() - began < 20:
        client.sendall(b"G")
        time.sleep(0.1)


@contextmanager
def crowd(served: Any, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    clients = [connected(served, said) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def is_closed(client: socket.socket) -> bool:
    """Wait until the other side closes; False when it does not within the socket's time."""
    try:
        while client.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("said", [b"", b"GET / HT", HEAD], ids=["silent", "half a head", "half a body"])
def test_half_open_connections_make_room_for_whoever_asks(serve: Any, view: Any, said: bytes) -> None:
    with serve(door={"unfinished": 8, "grace_seconds": 0.0}) as served, crowd(served, 40, said) as clients:
        assert httpx.get(served.url + "/health").json() == {"status": "ok"}
        with view(served) as viewer:
            viewer.say(type="open", prompt="a red ball is dropped")
            viewer.watch(1)
            assert all(is_closed(client) for client in clients[:30])  # the oldest went


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["silent", "half a head"])
def test_a_head_has_to_arrive_in_time(serve: Any, said: bytes) -> None:
    with serve(door={"head_seconds": 0.3}) as served, closing(connected(served, said)) as client:
        assert is_closed(client)


def test_a_head_that_drips_has_no_more_time_than_one_that_waits(serve: Any) -> None:
    with (
        serve(door={"head_seconds": 0.5}) as served,
        closing(connected(served)) as client,
        pytest.raises(ConnectionError),
    ):
        drip(client)


def test_a_body_has_to_arrive_in_time(serve: Any) -> None:
    with serve(door={"body_seconds": 0.3}) as served, closing(connected(served, HEAD)) as client:
        assert is_closed(client)


def test_who_is_answered_and_who_streams_is_left_alone(serve: Any, view: Any) -> None:
    limits = {"head_seconds": 0.3, "body_seconds": 0.3, "stalled_seconds": 0.3, "unfinished": 1, "grace_seconds": 0.0}
    with serve(door=limits) as served, view(served) as viewer:
        time.sleep(1.2)
        viewer.say(type="open", prompt="a red ball is dropped")
        viewer.watch(1)
        assert httpx.get(served.url + "/v1/videos").status_code == 200


BAD = {
    "a reserved opcode": b"\x83\x80\0\0\0\0",
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "not masked": b"\x81\x05hello",
    "text that is none": b"\x81\x82\0\0\0\0\xff\xff",
    "a close of one byte": b"\x88\x81\0\0\0\0\x03",
    "a long ping": b"\x89\xfe\x01\x00\0\0\0\0" + bytes(256),
    "the end of nothing": b"\x80\x80\0\0\0\0",
    "two beginnings": b"\x01\x80\0\0\0\0\x01\x80\0\0\0\0",
    "a length beyond all": b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_malformed_frame_is_closed_without_a_traceback(serve: Any, bad: bytes) -> None:
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    with serve() as served, closing(connected(served, UPGRADE)) as client:
        logging.getLogger("uvicorn.error").addHandler(handler)  # which passes nothing on to pytest's
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        client.sendall(bad + b"\x88\x80\0\0\0\0")  # and the answer to the server's close
        assert is_closed(client)
    logging.getLogger("uvicorn.error").removeHandler(handler)
    assert not [record for record in told if record.exc_info]


class Transport:
    """As much of a transport as doors look at."""

    def __init__(self, address: Any) -> None:
        self.address, self.aborted = address, False

    def get_extra_info(self, name: str) -> Any:
        return self.address

    def get_write_buffer_size(self) -> int:
        return 10

    def abort(self) -> None:
        self.aborted = True


class Protocol:
    cycle = None


@pytest.mark.parametrize(
    ("address", "most"),
    [
        (("127.0.0.1", 1), 9),
        (("::1", 1, 0, 0), 9),
        (("::ffff:127.0.0.1", 1, 0, 0), 9),
        (("10.0.0.7", 1), 3),
        (("2001:db8::1", 1, 0, 0), 3),
        ("/a/socket", 9),
        (None, 9),
    ],
)
def test_one_address_that_is_not_this_machine_has_a_bound(address: Any, most: int) -> None:
    async def enter() -> list[Transport]:
        doors = Doors(DoorLimits(per_address=3))
        transports = [Transport(address) for _ in range(9)]
        for transport in transports:
            doors.enter(transport, Protocol())  # type: ignore[arg-type]
        assert sum(not transport.aborted for transport in transports) == most
        doors.leave(transports[0])  # type: ignore[arg-type]
        assert doors.enter(Transport(address), Protocol())  # type: ignore[arg-type]
        assert doors.enter(Transport(("10.0.0.8", 1)), Protocol())  # type: ignore[arg-type]
        return transports

    asyncio.run(enter())


def test_addresses_of_one_ipv6_network_are_counted_together() -> None:
    async def enter() -> int:
        doors = Doors(DoorLimits(per_address=3))
        return sum(doors.enter(Transport((f"2001:db8::{n}", 1, 0, 0)), Protocol()) for n in range(9))  # type: ignore[arg-type]

    assert asyncio.run(enter()) == 3


def test_an_answer_that_nobody_takes_ends() -> None:
    class Cycle:
        response_complete, more_body = False, False

    async def stall() -> bool:
        doors, transport, protocol = Doors(DoorLimits(stalled_seconds=0.2)), Transport(("127.0.0.1", 1)), Protocol()
        protocol.cycle = Cycle()  # type: ignore[assignment]
        doors.enter(transport, protocol)  # type: ignore[arg-type]
        doors.heard(transport)  # type: ignore[arg-type]
        await asyncio.sleep(1.3)
        return transport.aborted

    assert asyncio.run(stall())


def test_a_key_that_is_too_long_is_refused_and_never_cut(serve: Any) -> None:
    with serve() as served:
        for length, status in ((200, 200), (201, 400), (4000, 400)):
            headers = {"Idempotency-Key": "k" * length}
            answer = httpx.post(served.url + "/v1/videos", json={"prompt": "a red ball"}, headers=headers)
            assert answer.status_code == status, answer.text
        assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_requests_that_are_read_into_memory_are_bounded(serve: Any) -> None:
    with serve(bodies=2) as served, crowd(served, 2, HEAD):
        until = time.monotonic() + 20
        while (answer := httpx.post(served.url + "/v1/videos", json={"prompt": "x"})).status_code != 503:
            assert time.monotonic() < until
        assert answer.json()["error"]["code"] == "busy"
        assert httpx.get(served.url + "/health").status_code == 200
