"""The server while strangers stand in its door: half-open sockets, slow heads, and a crowd that comes and goes.

    python benchmarks/doors.py --sockets 2000 --heads 600 --seconds 600 --json benchmarks/results/doors.json

The server is `understudy serve builtin:frame`, a process of its own. Meanwhile a viewer on another connection asks for
/health, and opens a clip: seconds to the answer, and to the first fragment. Then a crowd connects, sends half of something
and goes, for `--seconds`: memory and open files of the server's process, ten times on the way.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from serving import Server, opened, serving
from websockets.asyncio.client import connect

HALF = (
    b"",
    b"GET / HT",
    b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /v1/videos HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
)
MALFORMED = (b"\x83\x80\0\0\0\0", b"\x81\x05hello", b"\x81\x82\0\0\0\0\xff\xff", b"\x80\x80\0\0\0\0")
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def joined(server: Server, said: bytes = b"") -> socket.socket:
    """Return a connection that has said so much."""
    address = urlsplit(server.url)
    client = socket.create_connection((address.hostname, address.port), timeout=30)
    client.sendall(said)
    return client


async def viewed(server: Server) -> float:
    """Open a clip as a viewer does; return the seconds to the first fragment."""
    began = time.perf_counter()
    async with connect(server.stream, max_size=None) as viewer:
        await viewer.recv()  # the welcome
        await opened(viewer)
    return time.perf_counter() - began


def asked(server: Server) -> float:
    """Return the seconds that /health takes."""
    began = time.perf_counter()
    with urlopen(server.url + "/health", timeout=60) as answer:
        assert answer.status == 200
    return time.perf_counter() - began


def besieged(server: Server, sockets: int, heads: int, asks: int = 20) -> dict[str, Any]:
    """Let silent sockets and slow heads stand in the door; return what a viewer meets meanwhile."""
    alone = {"health": max(asked(server) for _ in range(5)), "fragment": asyncio.run(viewed(server))}
    silent = [joined(server) for _ in range(sockets)]
    slow = [joined(server, b"G") for _ in range(heads)]
    health, fragments = [], []
    for number in range(asks):
        for client in slow:
            with suppress(OSError):
                client.sendall(b"E")
        health.append(asked(server))
        if number % 5 == 0:
            fragments.append(asyncio.run(viewed(server)))
    time.sleep(12)
    left = sum(not _closed(client) for client in (*silent, *slow))
    for client in (*silent, *slow):
        client.close()
    return {
        "alone_seconds": alone,
        "health_slowest_seconds": max(health),
        "first_fragment_slowest_seconds": max(fragments),
        "answered": len(health) + len(fragments),
        "half_open_after_12_s": left,
    }


def _closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def churned(server: Server, seconds: float, rng: random.Random) -> dict[str, Any]:
    """Let a crowd come and go; return memory and open files on the way."""
    memory, files, count = [], [], 0
    until, next_look = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        clients = [joined(server, rng.choice(HALF)) for _ in range(20)]
        bad = joined(server, UPGRADE)
        with suppress(OSError):
            bad.recv(4096)
            bad.sendall(rng.choice(MALFORMED))
        asked(server)
        for client in (*clients, bad):
            client.close()
        count += len(clients) + 2
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + seconds / 10
            memory.append(round(server.resident / 2**20, 1))
            files.append(server.files)
    return {"connections": count, "memory_mb": memory, "open_files": files, "settled": server.settled()}


def main() -> None:
    """Besiege the server, then let the crowd in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument("--heads", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = options.sockets + options.heads + 256
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "load": os.getloadavg()[0]}
    with serving() as server:  # leaving it fails if the server has complained, tracebacks included
        figures |= {"sockets": options.sockets, "heads": options.heads}
        figures |= besieged(server, options.sockets, options.heads)
    with serving(fine=("Invalid HTTP request", "Invalid UTF-8 sequence")) as server:
        figures["churn"] = churned(server, options.seconds, random.Random(options.seed))
    text = json.dumps(figures, indent=1) + "\n"
    print(text) if options.json is None else options.json.write_text(text)
    sys.exit(0 if figures["churn"]["settled"] else 1)


if __name__ == "__main__":
    main()
