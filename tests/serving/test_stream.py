"""The WebSocket protocol over real sockets."""

import gc
import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.serving.scheduler import Session
from understudy.students.bundle import Bundle
from understudy.students.generate import ClipStream
from understudy.video import clips

RED, BLUE = "a small red ball is dropped", "a large blue ball bounces"
Serve = Any
View = Any


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def pictures(told: list[dict[str, Any]], data: bytes) -> np.ndarray:
    sizes = [size for message in told for size in message["sizes"]]
    ends = np.cumsum(sizes)
    return np.stack([np.array(Image.open(io.BytesIO(data[e - s : e]))) for s, e in zip(sizes, ends, strict=True)])


def test_what_is_watched_is_what_the_student_draws(serve: Serve, view: View, frame: Bundle) -> None:
    with serve() as served, view(served) as viewer:
        facts = viewer.welcome["students"][0]
        assert (facts["name"], facts["width"], facts["fps"], facts["block"], facts["steps"]) == ("frame", 48, 12, 1, 2)
        viewer.say(type="open", prompt=RED, seed=5, seconds=1.9)
        told, data = viewer.watch(12)
        assert viewer.until("ended") == {"type": "ended", "reason": "finished", "detail": ""}
    stream = ClipStream(frame, RED, 5, 23)
    drawn = np.concatenate([next(stream).frames for _ in range(12)])
    seen = clips.decode_mp4(data).frames
    assert seen.shape == drawn.shape == (24, 48, 48, 3)
    assert np.abs(seen.astype(int) - drawn.astype(int)).mean() < 3
    assert [message["block"] for message in told] == list(range(1, 13))
    assert told[-1]["cache_bytes"] == told[-2]["cache_bytes"] > 0


def test_jpeg_settings_and_a_prompt_that_turns_without_a_cut(serve: Serve, view: View) -> None:
    with serve() as served, view(served) as viewer:
        viewer.say(type="open", prompt=RED, format="jpeg", block=2, steps=3, window=6, sink=0)
        told, data = viewer.watch(3)
        assert [message["frames"] for message in told] == [4, 4, 4]
        viewer.say(type="prompt", prompt=BLUE)
        while told[-1]["prompt"] == 0:
            more, later = viewer.watch(1)
            told, data = told + more, data + later
        more, later = viewer.watch(2)
        assert {message["prompt"] for message in more} == {1}
        frames = pictures(told + more, data + later).astype(float)
        steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        turn = 4 * next(i for i, message in enumerate(told) if message["prompt"]) - 1
        assert steps[turn] < 30  # the picture goes on: another clip's first frame would be further away than any step
        viewer.say(type="stop")
        assert viewer.until("ended")["reason"] == "stopped"
        assert served.scheduler.sizes == (0, 0)


@pytest.mark.parametrize("kind", ["png", "mp4"])
def test_a_given_picture_or_clip_is_where_it_starts(kind: str, serve: Serve, view: View, frame: Bundle) -> None:
    stream = ClipStream(frame, BLUE, 1)
    given = np.concatenate([next(stream).frames for _ in range(4)])
    buffer = io.BytesIO()
    Image.fromarray(given[-1]).resize((96, 96)).save(buffer, "PNG")
    data = buffer.getvalue() if kind == "png" else clips.encode_mp4(clips.Clip(given, 12.0))
    with serve() as served, view(served) as viewer:
        viewer.say(type="open", prompt=RED, format="jpeg", given_bytes=len(data))
        viewer.socket.send(data)
        seen = pictures(*viewer.watch(4))
    expected = given[-1:] if kind == "png" else given
    assert np.abs(seen[: len(expected)].astype(int) - expected.astype(int)).mean() < 6


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[" * 10000, "message"),
        ('{"type": "nonsense"}', "type"),
        ('{"type": "open"}', "prompt"),
        ('{"type": "open", "prompt": "x", "path": "/etc/passwd"}', "path"),
        ('{"type": "open", "prompt": "x", "seed": -1}', "seed"),
        ('{"type": "open", "prompt": "x", "seconds": NaN}', ""),
        ('{"type": "open", "prompt": "x", "version": 2}', "version"),
        ('{"type": "open", "prompt": " "}', "1 to 10000 characters"),
        ('{"type": "open", "prompt": "x", "students": ["../../etc"]}', "no such student"),
        ('{"type": "open", "prompt": "x", "students": ["frame", "frame", "frame"]}', "students"),
        ('{"type": "open", "prompt": "x", "block": 3}', "multiple"),
        ('{"type": "open", "prompt": "x", "given_bytes": 99999999}', "at most 4194304 bytes"),
        ('{"type": "prompt", "prompt": "x"}', "send open first"),
        ('{"type": "open", "prompt": "\\ud800"}', ""),
        (b"\x00\x01", "binary"),
        ('{"type": "open", "prompt": "' + "x" * 70000 + '"}', "65536"),
    ],
)
def test_a_refused_message_says_why_and_harms_nothing(
    message: str | bytes, words: str, serve: Serve, view: View
) -> None:
    with serve() as served, view(served) as viewer:
        viewer.socket.send(message)
        told = viewer.hear()
        assert told["type"] == "error"
        assert words in told["detail"]
        assert "passwd" not in told["detail"]
        viewer.say(type="open", prompt=RED)
        viewer.watch(2)


def test_given_files_that_are_none(serve: Serve, view: View) -> None:
    with serve() as served, view(served) as viewer:
        for data in (b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)):
            viewer.say(type="open", prompt=RED, given_bytes=len(data))
            viewer.socket.send(data)
            assert "the given file" in viewer.until("error")["detail"]
        viewer.say(type="open", prompt=RED, given_bytes=5)
        viewer.say(type="stop")
        assert "announced" in viewer.until("error")["detail"]
        assert served.scheduler.sizes == (0, 0)


def test_too_much_nonsense_ends_the_connection_and_says_so(serve: Serve, view: View) -> None:
    with serve() as served:
        with view(served) as viewer:
            for _ in range(10):
                viewer.socket.send("?")
            last = [viewer.hear() for _ in range(11)][-1]
            assert "connection is closed" in last["detail"]
        wait_until(lambda: served.gauge("connections") == 0)


def test_one_clip_at_a_time_and_no_more_viewers_than_there_are_places(serve: Serve, view: View) -> None:
    with serve(sessions=1, queue=1, connections=3) as served, view(served) as first, view(served) as second:
        first.say(type="open", prompt=RED)
        first.watch(1)
        first.say(type="open", prompt=RED)
        assert "send stop first" in first.until("error")["detail"]
        second.say(type="open", prompt=RED)
        assert second.hear() == {"type": "queued", "position": 1}
        with view(served) as third:
            third.say(type="open", prompt=RED)
            assert "try again later" in third.until("error")["detail"]
            with view(served) as fourth:
                assert "too many viewers" in fourth.welcome["detail"]
        first.say(type="stop")
        second.watch(2)
        assert served.scheduler.sizes == (1, 0)


def test_viewers_who_vanish_free_their_places(serve: Serve, view: View) -> None:
    with serve(sessions=1, queue=1) as served:
        with view(served) as first, view(served) as second:
            first.say(type="open", prompt=RED)
            first.watch(1)
            second.say(type="open", prompt=RED)
            second.until("queued")
            first.socket.socket.close()  # without a word
            second.watch(1)
        wait_until(lambda: served.scheduler.sizes == (0, 0) and served.gauge("connections") == 0)
        wait_until(lambda: gc.collect() >= 0 and not [o for o in gc.get_objects() if type(o) in (Session, ClipStream)])


def test_who_does_not_listen_is_freed_and_the_other_plays_on(serve: Serve, view: View) -> None:
    with serve(idle_seconds=1.0, ahead=4) as served, view(served) as deaf, view(served) as other:
        deaf.say(type="open", prompt=RED)
        other.say(type="open", prompt=RED)
        other.watch(24)
        ended = deaf.until("ended", acknowledge=False)
        assert (ended["reason"], "acknowledged" in ended["detail"]) == ("idle", True)
        assert served.scheduler.sizes == (1, 0)


def test_a_connection_without_a_clip_is_closed_after_a_while(serve: Serve, view: View) -> None:
    with serve(idle_seconds=0.5) as served, view(served) as silent:
        assert "nothing was asked for" in silent.until("error")["detail"]
        wait_until(lambda: served.gauge("connections") == 0)


def test_a_student_that_fails_ends_its_own_session_only(serve: Serve, view: View, frame: Bundle) -> None:
    class Broken(type(frame.student)):  # type: ignore[misc]
        def encode_text(self, prompts: Any) -> Any:
            if prompts == [BLUE]:
                raise ZeroDivisionError("a secret")
            return super().encode_text(prompts)

    student = frame.student.with_spec()
    student.__class__ = Broken
    with serve({"frame": replace(frame, student=student)}) as served, view(served) as bad, view(served) as good:
        good.say(type="open", prompt=RED)
        bad.say(type="open", prompt=RED)
        bad.watch(1)
        bad.say(type="prompt", prompt=BLUE)
        ended = bad.until("ended")
        assert ended["reason"] == "failed"
        assert "secret" not in ended["detail"]
        good.watch(4)
        bad.say(type="open", prompt=RED)
        bad.watch(2)


def test_viewers_are_told_of_the_end(serve: Serve, view: View) -> None:
    with serve() as served, view(served) as viewer:
        viewer.say(type="open", prompt=RED)
        viewer.watch(1)
        served.scheduler.close()
        assert viewer.until("ended")["reason"] == "shutdown"
        viewer.say(type="open", prompt=RED)
        assert "stopping" in viewer.until("error")["detail"]


@pytest.mark.parametrize(
    ("token", "headers", "words", "status", "code"),
    [
        (None, {"Origin": "http://evil.example"}, (), 403, "wrong_origin"),
        (None, {"Origin": "null"}, (), 403, "wrong_origin"),
        (None, {"Origin": "http://[evil"}, (), 403, "wrong_origin"),
        ("secret", {}, (), 401, "invalid_api_key"),
        ("secret", {}, ("token.wrong",), 401, "invalid_api_key"),
    ],
)
def test_strangers_are_told_why_they_may_not(
    token: str | None, headers: dict[str, str], words: tuple[str, ...], status: int, code: str, serve: Serve, view: View
) -> None:
    import httpx
    from websockets.exceptions import InvalidStatus

    with serve(token=token) as served:
        with pytest.raises(InvalidStatus) as refused, view(served, *words, **headers):
            pass
        assert refused.value.response.status_code == status
        assert code in (refused.value.response.body or b"").decode()
        auth = {"Authorization": f"Bearer {words[0].removeprefix('token.')}"} if words else {}
        reply = httpx.get(served.url + "/v1/videos", headers={**headers, **auth})
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        if token is not None:
            with view(served, "token.secret") as viewer:
                assert viewer.welcome["type"] == "welcome"
            good = {"Authorization": "Bearer secret"}
            assert httpx.get(served.url + "/metrics", headers=good).status_code == 200
            assert httpx.get(served.url + "/metrics").status_code == 401
            assert httpx.get(served.url + "/health").json() == {"status": "ok"}


def test_other_host_names_are_not_answered(serve: Serve) -> None:
    import httpx

    with serve() as served:
        for path in ("/", "/health", "/v1/videos", "/metrics"):
            reply = httpx.get(served.url + path, headers={"Host": "rebound.example"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize(
    "path", ["/../app.py", "/static/app.py", "/%2e%2e/scheduler.py", "/app.js/../../app.py", "//etc/passwd"]
)
def test_no_path_leads_to_a_file(path: str, serve: Serve) -> None:
    import http.client
    from urllib.parse import urlsplit

    with serve() as served:
        for place in (path, "/v1/videos" + path, f"/v1/videos{path}/content"):
            connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
            connection.putrequest("GET", place)  # as it is: other clients tidy it first
            connection.endheaders()
            reply = connection.getresponse()
            assert reply.status in (404, 405)
            assert b"import" not in reply.read()


def test_every_answer_carries_the_policy(serve: Serve) -> None:
    import httpx

    with serve() as served:
        for path in ("/", "/app.js", "/style.css", "/health", "/v1/videos", "/nowhere"):
            headers = httpx.get(served.url + path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
