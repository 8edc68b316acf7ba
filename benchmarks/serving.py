"""The streaming server under measurement: latency, rate, fairness, memory, crowds and nonsense, over loopback sockets.

    python benchmarks/serving.py latency --opens 30        # from `open` to the first fragment; rate of one viewer
    python benchmarks/serving.py fair --viewers 8 --seconds 30
    python benchmarks/serving.py memory --frames 10000     # one viewer as fast as it goes: memory of the server's process
    python benchmarks/serving.py blocks --blocks 1000      # a stream's late blocks against another's early ones, in turn
    python benchmarks/serving.py crowd --viewers 200 --seconds 300
    python benchmarks/serving.py nonsense --messages 5000
    python benchmarks/serving.py --json FILE ...           # adds the figures to FILE, by name

The server is `understudy serve builtin:frame`, a process of its own, except where pace is to be left out. Times depend on
what else runs; what the machine's load was stands beside them. Memory is the server process's alone.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

PROMPTS = ("a small red ball is dropped", "a large blue ball bounces", "a small green ball is thrown to the left")
Figures = dict[str, Any]


class Server:
    """A running server: its address, its process, and what that process has."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid

    @property
    def stream(self) -> str:
        return self.url.replace("http", "ws", 1) + "/stream"

    @property
    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        """Open files and sockets; a socket that has just been left may take a moment to go."""
        counts = []
        for _ in range(5):
            counts.append(len(list(Path(f"/proc/{self.pid}/fd").iterdir())))
            time.sleep(0.05)
        return min(counts)

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def gauges(self) -> dict[str, float]:
        with urlopen(self.url + "/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        return {line.split()[0].removeprefix("understudy_"): float(line.split()[1]) for line in lines if line[0] != "#"}

    def settled(self) -> bool:
        """Wait until nobody is there any more; say whether it came to that."""
        for _ in range(300):
            now = self.gauges()
            if not now["playing"] + now["waiting"] + now["connections"]:
                return True
            time.sleep(0.1)
        return False


@contextmanager
def serving(*options: str, fine: Sequence[str] = ("Invalid HTTP request received",)) -> Iterator[Server]:
    """Run `understudy serve builtin:frame`; what it writes to its error output is an error, but for ``fine`` lines."""
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[1].rstrip("/")
            urlopen(url + "/health", timeout=60).close()
            yield Server(url, process.pid)
            if process.poll() is not None:
                raise SystemExit(f"the server died with status {process.returncode}")
        finally:
            process.terminate()
            process.wait(60)
            log.seek(0)
            told = [line for line in log if not any(words in line for words in fine)]  # that is what was sent
            if told:
                raise SystemExit(f"the server complained:\n{''.join(told)[:4000]}")


async def opened(socket: ClientConnection, **wish: Any) -> tuple[float, float]:
    """Open a clip; return when it was asked for and when the first fragment was there."""
    asked = time.perf_counter()
    await socket.send(json.dumps({"type": "open", "prompt": PROMPTS[0], **wish}))
    pieces = 0
    while pieces < 2:  # the header, then the first fragment
        pieces += isinstance(await socket.recv(), bytes)
    return asked, time.perf_counter()


async def watched(socket: ClientConnection, seconds: float, **wish: Any) -> tuple[int, float, list[float]]:
    """Watch for a while; return the frames after the first block, over how long, and the blocks' seconds too late."""
    _, first = await opened(socket, **wish)
    await socket.send(json.dumps({"type": "ack", "block": 1}))
    frames, until, late, fps = 0, first + seconds, [], 12.0
    while time.perf_counter() < until:
        message = await socket.recv()
        if isinstance(message, bytes):
            continue
        told = json.loads(message)
        if told["type"] == "block":
            now = time.perf_counter()
            frames += told["frames"]
            late.append(now - first - frames / fps)
            await socket.send(json.dumps({"type": "ack", "block": told["block"]}))
    return frames, time.perf_counter() - first, late


def latency(opens: int, seconds: float) -> Figures:
    """Seconds to the first fragment, opened again and again; then the rate that one viewer gets."""

    async def ask(server: Server) -> tuple[list[float], tuple[int, float, list[float]]]:
        took = []
        for seed in range(opens):
            async with connect(server.stream, subprotocols=["understudy.v1"], max_size=None) as socket:
                await socket.recv()
                asked, there = await opened(socket, seed=seed)
                took.append(there - asked)
        async with connect(server.stream, subprotocols=["understudy.v1"], max_size=None) as socket:
            return took, await watched(socket, seconds)

    with serving() as server:
        took, (frames, lasted, late) = asyncio.run(ask(server))
    return {
        "first_open_s": round(took[0], 3),
        "median_s": round(statistics.median(took), 3),
        "slowest_s": round(max(took), 3),
        "opens": opens,
        "rate_fps": round(frames / lasted, 2),
        "clip_fps": 12.0,
        "watched_s": round(lasted, 1),
        "latest_block_s": round(max(late), 3),
        "late_blocks": sum(one > 0 for one in late),
        "blocks": len(late),
    }


def fair(viewers: int, seconds: float) -> Figures:
    """Frames per second of each of several viewers, once at the clip's pace and once with more asked than can be drawn."""

    async def crowd(server: Server, **wish: Any) -> list[float]:
        async def one(seed: int) -> float:
            async with connect(server.stream, subprotocols=["understudy.v1"], max_size=None) as socket:
                await socket.recv()
                frames, lasted, _ = await watched(socket, seconds, seed=seed, **wish)
                return frames / lasted

        return list(await asyncio.gather(*(one(seed) for seed in range(viewers))))

    figures: Figures = {"viewers": viewers, "seconds": seconds}
    with serving("--sessions", str(viewers)) as server:
        for name, wish in {"own steps": {}, "16 steps": {"steps": 16}}.items():
            rates = asyncio.run(crowd(server, **wish))
            mean = statistics.mean(rates)
            figures[name] = {
                "mean_fps": round(mean, 2),
                "slowest_fps": round(min(rates), 2),
                "slowest_to_mean": round(min(rates) / mean, 3),
            }
    return figures


def memory(frames: int) -> Figures:
    """Memory of a process that draws, encodes and sends ``frames`` frames to one viewer as fast as it goes."""
    code = (
        "import sys, socket, uvicorn, torch; torch.set_num_threads(1)\n"
        "from understudy.serving.access import Access; from understudy.serving.app import build_app\n"
        "from understudy.serving.catalogue import Catalogue; from understudy.serving.scheduler import Limits, Scheduler\n"
        "from understudy.students.bundle import load_bundle\n"
        "limits = Limits(lead=1e9); bundle = load_bundle('builtin:frame').with_window(8, 0)\n"
        "app = build_app(Catalogue({'frame': bundle}, limits), Scheduler(limits), Access())\n"
        "listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True)\n"
        "uvicorn.Server(uvicorn.Config(app, log_level='warning')).run(sockets=[listener])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    server = Server(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid)
    samples: list[tuple[int, int]] = []
    cache: set[int] = set()

    async def watch() -> float:
        async with connect(server.stream, subprotocols=["understudy.v1"], max_size=None) as socket:
            await socket.recv()
            await socket.send(json.dumps({"type": "open", "prompt": PROMPTS[0]}))
            seen, began = 0, time.perf_counter()
            while seen < frames:
                message = await socket.recv()
                if isinstance(message, bytes):
                    continue
                told = json.loads(message)
                if told["type"] != "block":
                    continue
                seen += told["frames"]
                await socket.send(json.dumps({"type": "ack", "block": told["block"]}))
                if seen > 100:
                    cache.add(told["cache_bytes"])
                if seen % 500 == 0:
                    samples.append((seen, server.resident))
                if seen % 1000 == 0:
                    await socket.send(json.dumps({"type": "prompt", "prompt": PROMPTS[seen // 1000 % 3]}))
            return seen / (time.perf_counter() - began)

    try:
        rate = asyncio.run(watch())
    finally:
        process.terminate()
        process.wait(60)
    half = [size for seen, size in samples if seen > frames / 2]
    return {
        "frames": frames,
        "drawn_and_sent_fps": round(rate, 1),
        "resident_mib": {str(seen): round(size / 2**20, 1) for seen, size in samples},
        "growth_in_second_half_mib": round((half[-1] - half[0]) / 2**20, 2),
        "cache_bytes": sorted(cache),
    }


def blocks(count: int, repeats: int) -> Figures:
    """Processor time of a stream's last 100 blocks, drawn in turn with another stream's blocks 10 to 109."""
    import torch

    from understudy.students.bundle import load_bundle
    from understudy.students.generate import ClipStream

    torch.set_num_threads(1)
    bundle = load_bundle("builtin:frame").with_window(8, 0)
    ratios, sizes = [], set()
    for seed in range(repeats):
        old, new = ClipStream(bundle, PROMPTS[0], seed), ClipStream(bundle, PROMPTS[0], seed + 1000)
        for _ in range(count - 100):
            next(old)
        for _ in range(9):
            next(new)
        took: dict[str, list[float]] = {"old": [], "new": []}
        for _ in range(100):
            for name, stream in (("old", old), ("new", new)):
                began = time.thread_time()
                sizes.add(next(stream).cache_bytes)
                took[name].append(time.thread_time() - began)
        ratios.append(statistics.median(took["old"]) / statistics.median(took["new"]))
    return {
        "late_to_early": [round(ratio, 3) for ratio in ratios],
        "median": round(statistics.median(ratios), 3),
        "blocks": count,
        "cache_bytes": sorted(sizes),
    }


async def visit(server: Server, rng: random.Random, until: float, told: Counter[str]) -> None:
    """Come and go at random until it is time: watch, steer, stop, close or vanish. Unclear endings are counted as such."""
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0, 3))
        try:
            async with connect(server.stream, subprotocols=["understudy.v1"], max_size=None, open_timeout=60) as socket:
                told["connected"] += 1
                await stay(socket, rng, until, told)
        except ConnectionClosed as error:
            told[f"closed without a word (code {error.rcvd.code if error.rcvd else 'none'})"] += 1
        except (OSError, WebSocketException) as error:
            told[f"unclear: {type(error).__name__}"] += 1


async def stay(socket: ClientConnection, rng: random.Random, until: float, told: Counter[str]) -> None:
    """Spend one visit."""
    message = json.loads(await asyncio.wait_for(socket.recv(), 60))
    if message["type"] == "error":
        told[f"refused: {message['detail']}"] += 1
        return
    wish = {"seed": rng.randrange(2**31), "format": rng.choice(("mp4", "jpeg")), "steps": rng.choice((None, 1, 4))}
    await socket.send(json.dumps({"type": "open", "prompt": rng.choice(PROMPTS), **wish}))
    leaving = min(until, time.monotonic() + rng.expovariate(1 / 4))
    acks = rng.random() < 0.9  # some never acknowledge
    while time.monotonic() < leaving:
        with suppress(TimeoutError):
            message = await asyncio.wait_for(socket.recv(), max(0.01, leaving - time.monotonic()))
            if isinstance(message, bytes):
                continue
            said = json.loads(message)
            if said["type"] == "block":
                told["blocks"] += 1
                if acks:
                    await socket.send(json.dumps({"type": "ack", "block": said["block"]}))
                if rng.random() < 0.05:
                    await socket.send(json.dumps({"type": "prompt", "prompt": rng.choice(PROMPTS)}))
            elif said["type"] == "error":
                told[f"refused: {said['detail']}"] += 1
                return
            elif said["type"] == "ended":
                told[f"ended: {said['reason']}"] += 1
                return
    how = rng.choice(("stops", "closes", "vanishes"))
    told[how] += 1
    if how == "stops":
        await socket.send('{"type": "stop"}')
        while True:
            message = await asyncio.wait_for(socket.recv(), 60)
            said = {} if isinstance(message, bytes) else json.loads(message)
            if said.get("type") == "error":  # the open before it was refused, so there is nothing to stop
                told[f"refused: {said['detail']}"] += 1
            if said.get("type") in ("error", "ended"):
                return
    elif how == "vanishes":
        socket.transport.abort()


def crowd_at(server: Server, viewers: int, seconds: float, seed: int = 0) -> Figures:
    """Let ``viewers`` come and go at random; return what they were told, and what is left of them in the server."""
    told: Counter[str] = Counter()

    async def all_of_them(duration: float) -> None:
        until = time.monotonic() + duration
        await asyncio.gather(*(visit(server, random.Random(seed + i), until, told) for i in range(viewers)))

    left: list[tuple[int, int, int]] = []  # after each sixth, when all have gone
    settled = True
    for _ in range(6):
        asyncio.run(all_of_them(seconds / 6))
        settled &= server.settled()
        left.append((server.resident, server.files, server.threads))

    async def fresh() -> float:
        async with connect(server.stream, max_size=None) as socket:
            await socket.recv()
            asked, there = await opened(socket)
            return there - asked

    first = asyncio.run(fresh())
    server.settled()
    return {
        "viewers": viewers,
        "seconds": seconds,
        "told": dict(sorted(told.items())),
        "unclear": sum(n for name, n in told.items() if name.startswith(("unclear", "closed without"))),
        "all_places_free_afterwards": settled,
        "fresh_viewer_first_fragment_s": round(first, 3),
        "resident_mib_after_each_sixth": [round(size / 2**20, 1) for size, _, _ in left],
        "open_files_after_each_sixth": [files for _, files, _ in left],
        "threads_after_each_sixth": [threads for _, _, threads in left],
        "gauges": server.gauges(),
    }


def nonsense_http(server: Server, requests: int) -> Counter[str]:
    """Ask what schemathesis makes of our own OpenAPI description, valid and not; return statuses by endpoint."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.generation.modes import GenerationMode
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    told: Counter[str] = Counter()
    checks = [schemathesis.checks.not_a_server_error, content_type_conformance, response_schema_conformance]
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
                continue

            @settings(
                max_examples=max(1, requests // (2 * len(operations))),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def run(case: Any) -> None:
                reply = case.call(base_url=server.url)
                told[f"{case.operation.label} {reply.status_code}"] += 1
                case.validate_response(reply, checks=checks)

            with suppress(Unsatisfiable):  # everything is allowed there
                run()
    return told


def nonsense_raw(server: Server, requests: int, rng: random.Random) -> Counter[str]:
    """Send broken HTTP, byte by byte our own; return the first words of the answers."""
    place = urlsplit(server.url)
    good = (
        f"POST /v1/videos HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        'Content-Length: 44\r\nConnection: close\r\n\r\n{"prompt": "a small red ball", "seconds": 1}\n'
    ).encode()
    told: Counter[str] = Counter()
    for _ in range(requests):
        data = mutated(good, rng)
        with socket.create_connection((place.hostname, place.port), 10) as client, suppress(OSError):
            client.settimeout(2)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(4096).split(b"\r\n")[0].decode("latin-1")
            told[" ".join(answer.split()[:2]) or "nothing"] += 1
    return told


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with a few bytes changed, dropped, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(out) + 1)
        do = rng.randrange(4)
        if do == 0 and out:
            out[min(at, len(out) - 1)] = rng.randrange(256)
        elif do == 1:
            del out[at : at + rng.randrange(1, 20)]
        elif do == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 20))
        else:
            out[at:at] = out[at : at + rng.randrange(1, 40)]
    return bytes(out)


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    1e308,
    10**30,
    "",
    "a",
    "\x00",
    "x" * 600,
    "../../etc/passwd",
    "<script>",
    [],
    {},
    [[]],
)
FIELDS = (
    "type",
    "prompt",
    "seed",
    "seconds",
    "students",
    "block",
    "window",
    "sink",
    "steps",
    "given_bytes",
    "format",
    "path",
)


def broken_message(rng: random.Random) -> str | bytes:
    """Return a message that a viewer should not send, or one that it could."""
    kind = rng.choice(("open", "prompt", "ack", "stop", "open"))
    message = (
        {"type": kind, "prompt": rng.choice(PROMPTS)} if kind in ("open", "prompt") else {"type": kind, "block": 1}
    )
    for _ in range(rng.randrange(4)):
        message[rng.choice(FIELDS)] = rng.choice(VALUES)
    text = json.dumps(message)
    do = rng.randrange(4)
    if do == 0:
        return rng.randbytes(rng.randrange(200))
    if do == 1:
        return mutated(text.encode(), rng).decode("utf-8", "replace")
    return text


def nonsense_socket(server: Server, messages: int, rng: random.Random) -> Counter[str]:
    """Send broken messages, a few on each connection; return what the server says, and how connections end."""
    told: Counter[str] = Counter()

    async def send() -> None:
        async with connect(server.stream, max_size=None) as socket:
            with suppress(ConnectionClosed):
                for _ in range(rng.randrange(1, 30)):
                    with suppress(TimeoutError):
                        while True:  # what it has to say, and blocks of clips that did open
                            message = await asyncio.wait_for(socket.recv(), 0.02)
                            told["binary" if isinstance(message, bytes) else json.loads(message)["type"]] += 1
                            if rng.random() < 0.2:
                                break
                    await socket.send(broken_message(rng))
                    told["sent"] += 1

    async def all_of_them() -> None:
        while told["sent"] < messages:
            await send()

    asyncio.run(all_of_them())
    return told


def nonsense(messages: int) -> Figures:
    """Send ``messages`` broken requests and messages in all; a status of 500 and above or a dead server is a failure."""
    rng = random.Random(0)
    with serving() as server:
        http = nonsense_http(server, int(messages * 0.4))
        raw = nonsense_raw(server, messages // 10, rng)
        told = nonsense_socket(server, messages - sum(http.values()) - sum(raw.values()), rng)
        settled = server.settled()
        gauges = server.gauges()
    failures = sum(n for name, n in (http + raw).items() if name.split()[-1].startswith("5"))
    return {
        "requests_from_the_description": sum(http.values()),
        "raw_requests": sum(raw.values()),
        "messages": told["sent"],
        "server_errors": failures,
        "failed_sessions": gauges["failed_total"],
        "all_places_free_afterwards": settled,
        "http": dict(sorted(http.items())),
        "raw": dict(sorted(raw.items())),
        "websocket": dict(sorted(told.items())),
    }


def main() -> None:
    """Run one measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, options in {
        "latency": {"opens": 30, "seconds": 60.0},
        "fair": {"viewers": 8, "seconds": 30.0},
        "memory": {"frames": 10000},
        "blocks": {"count": 1000, "repeats": 5},
        "crowd": {"viewers": 200, "seconds": 300.0},
        "nonsense": {"messages": 5000},
    }.items():
        part = parts.add_parser(name)
        for option, value in options.items():
            part.add_argument(f"--{option}", type=type(value), default=value)
    given = vars(parser.parse_args())
    path, name = given.pop("json"), given.pop("part")
    load = os.getloadavg()[0]
    if name == "crowd":
        with serving() as server:
            figures = crowd_at(server, **given)
    else:
        figures = {"latency": latency, "fair": fair, "memory": memory, "blocks": blocks, "nonsense": nonsense}[name](
            **given
        )
    machine = {"cores": os.cpu_count(), "load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    figures["machine"] = {**machine, "arch": platform.machine(), "python": platform.python_version()}
    print(json.dumps({name: figures}, indent=1))
    if path is not None:
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
