"""A reward behind an address, asked through a server of our own on this machine."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.errors import ConfigError, PluginError
from understudy.rewards.build import build_reward
from understudy.rewards.http.config import HttpRewardConfig
from understudy.video.clips import Clip, decode_mp4

pytest.importorskip("httpx")

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class Server:
    """Answers with ``answer``, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = lambda body: scores([0.5] * len(body["clips"]))
        self.drip = 0.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.asked.append(body)
                owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, data = owner.answer(body)
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                try:
                    for byte in data if owner.drip else ():
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(owner.drip)
                    if not owner.drip:
                        self.wfile.write(data)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/score"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.rewards.http.reward.time.sleep", lambda seconds: None)


def scores(values: list[Any]) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": values}).encode()


def clips(count: int) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [Clip(rng.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8), 12.0) for _ in range(count)]


def ask(server: Server, count: int = 3, **settings: Any) -> list[float]:
    reward = build_reward(HttpRewardConfig(url=server.url, **settings))
    return list(reward(clips(count), [f"prompt {i}" for i in range(count)]))


@pytest.mark.parametrize("frames", ["mp4", "png"])
def test_clips_arrive_as_they_are_and_scores_in_their_order(server: Server, frames: str) -> None:
    def shade(sent: dict[str, Any]) -> float:
        if frames == "mp4":
            return float(decode_mp4(base64.b64decode(sent["mp4"])).frames.mean())
        pictures = [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in sent["png"]]
        return float(np.stack(pictures).mean())

    server.answer = lambda body: scores([shade(sent) for sent in body["clips"]])
    found = ask(server, 5, frames=frames, clips_at_once=2)
    assert [len(body["clips"]) for body in server.asked] == [2, 2, 1]
    asked = [sent for body in server.asked for sent in body["clips"]]
    assert [(sent["prompt"], sent["fps"]) for sent in asked] == [(f"prompt {i}", 12.0) for i in range(5)]
    truth = [float(clip.frames.mean()) for clip in clips(5)]
    np.testing.assert_allclose(found, truth, atol=0 if frames == "png" else 3.0)


def test_the_key_goes_along_and_has_to_be_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    ask(server, key_env="MY_KEY")
    assert server.headers[0]["authorization"] == "Bearer secret"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        ask(server, key_env="MY_KEY")


ANSWERS: dict[str, tuple[Any, str]] = {
    "few": (scores([0.1]), "answered 1 scores for 3 clips"),
    "many": (scores([0.1] * 4), "answered 4 scores for 3 clips"),
    "no list": ((200, b'{"score": 1}'), "answered no list named scores for 3 clips"),
    "a list": ((200, b"[1, 2, 3]"), "answered no list named scores"),
    "nan": ((200, b'{"scores": [1, NaN, 2]}'), "scores that are not finite numbers"),
    "infinite": ((200, b'{"scores": [1, -Infinity, 2]}'), "scores that are not finite numbers"),
    "huge": ((200, b'{"scores": [1, 1' + b"0" * 400 + b", 2]}"), "scores that are not finite numbers"),
    "words": (scores([1, "good", 2]), "scores that are not finite numbers"),
    "truth": (scores([1, True, 2]), "scores that are not finite numbers"),
    "null": (scores([1, None, 2]), "scores that are not finite numbers"),
    "html": ((200, b"<html>\n\x1b[31mhello"), "did not answer JSON: <html>"),
    "long": ((200, b"[" * (2 << 20)), "answered more than 1 MiB"),
    "forbidden": ((403, b"no\nentry"), r"status 403: no entry"),
    "elsewhere": ((302, b""), "status 302"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_is_said_in_one_line_and_not_asked_for_again(server: Server, name: str) -> None:
    answer, said = ANSWERS[name]
    server.answer = lambda body: answer
    with pytest.raises(PluginError, match=said) as caught:
        ask(server)
    assert str(caught.value).startswith(f"reward {server.url}")
    assert str(caught.value).isprintable()
    assert len(server.asked) == 1


def test_a_server_that_stumbles_is_asked_again(server: Server) -> None:
    server.answer = lambda body: (503, b"busy") if len(server.asked) < 3 else scores([1, 2, 3])
    assert ask(server) == [1.0, 2.0, 3.0]
    server.answer = lambda body: (500, b"broken")
    with pytest.raises(PluginError, match=r"gave no scores \(status 500: broken\).*the same command goes on"):
        ask(server, attempts=2)
    assert len(server.asked) == 5


def test_one_that_drips_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    server.drip = 0.05
    with pytest.raises(PluginError, match=r"gave no scores \(TimeoutError: no whole answer in 0.2 s\)"):
        ask(server, timeout=0.2, attempts=1)


def test_one_that_is_not_there_is_said(server: Server) -> None:
    server.http.server_close()
    with pytest.raises(PluginError, match=r"gave no scores .*ConnectError"):
        ask(server, attempts=2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/score", "plain http to another machine"),
        ("ftp://example.org/score", "is no address"),
        ("score", "is no address"),
        ("http://", "is no address"),
        ("http://[::1/score", "is no address"),
    ],
)
def test_addresses_are_looked_at_before_anything_is_sent(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_reward(HttpRewardConfig(url=url))
    for fine in ("http://localhost:1/x", "http://[::1]:1/x", "https://example.org/x"):
        build_reward(HttpRewardConfig(url=fine))
    build_reward(HttpRewardConfig(url="http://example.org/score", plain_http=True))
