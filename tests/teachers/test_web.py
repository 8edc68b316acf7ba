"""What a server may and may not do to whoever asks it."""

import asyncio
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import (
    AssetGone,
    ClipError,
    ClipRefused,
    ConfigError,
    TeacherError,
    TeacherStopped,
    TransientError,
)
from understudy.teachers import web as module
from understudy.teachers.web import Web, find_key

httpx = pytest.importorskip("httpx")

KEY = "s3cret-key"
Answers = Callable[[Any], Any]


def web(answers: Answers, **how: object) -> Web:
    return Web("https://api.example/v1", transport=httpx.MockTransport(answers), **how)  # type: ignore[arg-type]


def says(status: int = 200, **how: Any) -> Answers:
    return lambda request: httpx.Response(status, **how)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What names mean: by host, an address; every other host is a public one."""
    known: dict[str, str] = {}

    def look_up(host: str, port: int) -> list[tuple[Any, ...]]:
        if known.get(host) == "":
            raise OSError("no such host")
        return [(0, 0, 0, "", (known.get(host, "93.184.215.14"), port))]

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(module, "getproxies", dict)
    return known


def test_a_key_comes_from_the_environment_or_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert find_key("SOME_KEY") == KEY
    monkeypatch.delenv("SOME_KEY")
    ring = types.SimpleNamespace(get_password=lambda service, name: "from-ring" if service == "understudy" else None)
    monkeypatch.setitem(sys.modules, "keyring", ring)
    assert find_key("SOME_KEY") == "from-ring"

    def locked(service: str, name: str) -> str:
        raise RuntimeError("locked")

    for broken in (types.SimpleNamespace(get_password=locked), None):
        monkeypatch.setitem(sys.modules, "keyring", broken)
        with pytest.raises(ConfigError, match=r"set the environment variable SOME_KEY, or `keyring set"):
            find_key("SOME_KEY")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("api.example", "is no address"),
        ("ftp://api.example", "is no address"),
        ("https://[", "is no address"),
        ("https://api.example:port", "is no address"),
        ("https://user:pass@api.example", "holds a user or password"),
        ("http://api.example", "is not encrypted"),
        ("http://10.0.0.7:8000", "is not encrypted"),
    ],
)
def test_addresses_that_are_not_asked(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Web(url)


def test_http_is_for_this_machine_or_a_host_of_ones_own() -> None:
    for url in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        assert Web(url).host in ("localhost", "127.0.0.1", "::1")
    assert Web("http://10.0.0.7:8000", plain_http=True).host == "10.0.0.7"


def test_the_key_goes_to_the_own_origin_and_into_no_message(monkeypatch: pytest.MonkeyPatch, addresses) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    seen: list[tuple[str, str | None]] = []

    def answers(request: Any) -> Any:
        seen.append((str(request.url), request.headers.get("x-api-key")))
        if request.url.host == "api.example" and "clip" in request.url.path:
            return httpx.Response(302, headers={"location": "https://cdn.example/clip"})
        return httpx.Response(400, json={"error": {"message": f"you sent {KEY}"}})

    asked = web(answers, key_env="SOME_KEY", auth="X-Api-Key: {key}")
    reply = asked.ask("POST", "/jobs", json={})
    assert (reply.status, reply.reason) == (400, "you sent ***")
    assert KEY not in reply.text + str(reply.data)
    with pytest.raises(ClipError, match="status 400"):
        asked.download("/clip", Path("unused"))
    assert seen == [
        ("https://api.example/v1/jobs", KEY),
        ("https://api.example/v1/clip", KEY),
        ("https://cdn.example/clip", None),
    ]
    with pytest.raises(TeacherError, match=r"another host \(https://evil.example/x\)"):
        asked.ask("GET", "https://evil.example/x?token=1")
    for other in ("https://api.example:444/x", "http://api.example/x", "https://[", "https://api.example:x/"):
        with pytest.raises(TeacherError, match="another host"):
            asked.ask("GET", other)


@pytest.mark.parametrize(
    ("status", "unsure"),
    [
        *((status, True) for status in (408, 409, 460, 499, 500, 502, 503, 504, 520, 522, 524, 527, 530, 599)),
        *((status, False) for status in (425, 429)),
    ],
)
def test_what_passes_is_told_and_whether_the_request_may_have_arrived(status: int, unsure: bool) -> None:
    with pytest.raises(TransientError, match=f"answered {status} busy") as caught:
        web(says(status, json={"detail": "busy"})).ask("POST", "/jobs")
    assert (caught.value.unsure, caught.value.retry_after) == (unsure, None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        # Their clock is years behind: what counts is the difference.
        ({"retry-after": "Mon, 01 Jan 2001 00:01:30 GMT", "date": "Mon, 01 Jan 2001 00:00:30 GMT"}, 60.0),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT", "date": "Mon, 01 Jan 2001 00:00:30 GMT"}, 0.0),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(TransientError) as caught:
        web(says(429, headers=headers)).ask("GET", "/jobs/1")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("error", "unsure"),
    [(httpx.ConnectError, False), (httpx.ConnectTimeout, False), (httpx.ReadTimeout, True), (httpx.ReadError, True)],
)
def test_no_answer(error: type[Exception], unsure: bool) -> None:
    def answers(request: Any) -> Any:
        raise error("gone: https://api.example/?key=1")

    with pytest.raises(TransientError, match=r"no answer from api\.example") as caught:
        web(answers).ask("POST", "/jobs")
    assert caught.value.unsure is unsure
    assert "key=1" not in str(caught.value)
    with pytest.raises(TransientError, match="broke off"):
        web(answers).download("/clip", Path("unused"))


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_key_stops_everything(status: int) -> None:
    for call in (lambda w: w.ask("GET", "/x"), lambda w: w.download("/x", Path("unused"))):
        with pytest.raises(TeacherStopped, match=r"teacher\.key_env"):
            call(web(says(status)))


def test_replies_that_are_no_json_or_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = web(says(200, text="<html>  busy\n</html>")).ask("GET", "/x")
    assert (reply.data, reply.reason) == (None, "<html> busy </html>")
    assert web(says(400, json={"detail": [{"msg": "no"}]})).ask("GET", "/x").reason == "[{'msg': 'no'}]"
    monkeypatch.setattr(module, "_MAX_REPLY", 10)
    with pytest.raises(TeacherError, match="more than 0 MiB of text"):
        web(says(200, content=b"x" * 11)).ask("GET", "/x")


def test_a_form_is_sent_as_one() -> None:
    def answers(request: Any) -> Any:
        return httpx.Response(200, json={"kind": request.headers["content-type"], "body": request.content.decode()})

    said = web(answers).ask("POST", "/x", form={"prompt": "a ball"}).data
    assert said["kind"].startswith("multipart/form-data; boundary=")
    assert 'name="prompt"\r\n\r\na ball' in said["body"]
    assert "filename" not in said["body"]


def test_a_download_lies_where_we_say_whatever_the_server_calls_it(tmp_path: Path) -> None:
    headers = {"content-disposition": 'attachment; filename="../../evil.mp4"'}
    web(says(200, content=b"clip", headers=headers)).download("/clip", tmp_path / "part")
    assert [path.name for path in tmp_path.rglob("*")] == ["part"]
    assert (tmp_path / "part").read_bytes() == b"clip"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_clip_that_is_gone(status: int) -> None:
    with pytest.raises(AssetGone, match=r"the clip at https://api\.example/v1/clip is gone") as caught:
        web(says(status)).download("/clip?signature=1", Path("unused"))
    assert "signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "address", "words"),
    [
        ("http://cdn.example/a", "93.184.215.14", "is not https"),
        ("ftp://cdn.example/a", "93.184.215.14", "is not https"),
        ("https://cdn.example/a", "10.0.0.1", "private network"),
        ("https://cdn.example/a", "127.0.0.1", "private network"),
        ("https://cdn.example/a", "169.254.169.254", "private network"),
        ("https://cdn.example/a", "::1", "private network"),
        ("https://cdn.example/a", "fd00::1", "private network"),
        ("https://cdn.example/a", "::ffff:10.0.0.1", "private network"),
        ("https://cdn.example/a", "224.0.0.1", "private network"),
        ("https://cdn.example/a", "fe80::1%eth0", "private network"),
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
def test_addresses_that_nothing_is_fetched_from(
    addresses: dict[str, str], url: str, address: str, words: str, redirected: bool
) -> None:
    addresses["cdn.example"] = address
    asked: list[str] = []

    def answers(request: Any) -> Any:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"location": url})

    with pytest.raises(ClipError, match=words):
        web(answers).download("/clip" if redirected else url, Path("unused"))
    assert asked == (["api.example"] if redirected else [])


def test_a_name_that_came_to_mean_a_private_address_meanwhile(addresses: dict[str, str], tmp_path: Path) -> None:
    class Stream:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            return ("10.0.0.1", 443)

    with pytest.raises(ClipError, match="private network"):
        web(says(200, content=b"x", extensions={"network_stream": Stream()})).download(
            "https://cdn.example/a", tmp_path / "part"
        )
    assert not (tmp_path / "part").exists()


def test_a_host_that_is_not_found_may_be_found_later(addresses: dict[str, str], monkeypatch, tmp_path: Path) -> None:
    addresses["cdn.example"] = ""
    with pytest.raises(TransientError, match="is not found"):
        web(says(200)).download("https://cdn.example/a", tmp_path / "part")
    monkeypatch.setattr(module, "getproxies", lambda: {"https": "http://proxy.example"})  # which looks names up
    web(says(200, content=b"clip")).download("https://cdn.example/a", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"clip"


def test_redirects_without_an_end_or_an_aim(addresses: dict[str, str]) -> None:
    with pytest.raises(ClipError, match="more than 5 others"):
        web(says(302, headers={"location": "https://api.example/v1/clip"})).download("/clip", Path("unused"))
    for odd in ("https://", "https://["):
        with pytest.raises(ClipError):
            web(says(302, headers={"location": odd})).download("/clip", Path("unused"))


def test_downloads_are_limited_in_size_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"larger than 1 MiB \(teacher\.max_megabytes\)"):
        web(says(200, content=b"x" * (2**20 + 1)), max_bytes=2**20).download("/clip", tmp_path / "part")
    monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", -1.0)
    with pytest.raises(TransientError, match="took longer than"):
        web(says(200, content=b"x")).download("/clip", tmp_path / "part")


def test_a_full_disk_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(TeacherStopped, match="no such file or directory"):
        web(says(200, content=b"x")).download("/clip", tmp_path / "missing" / "part")


def test_without_httpx_there_is_one_line_of_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"pip install 'understudy\[api\]'"):
        Web("https://api.example").ask("GET", "/x")


# --- whatever an answer claims to be ----------------------------------------------------------------------------


class Drip(httpx.AsyncByteStream):
    """A body that comes a byte at a time, without end."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        while True:
            yield b"x"
            await asyncio.sleep(0.02)


def test_every_request_has_a_total_time(tmp_path: Path) -> None:
    drip = web(lambda request: httpx.Response(200, stream=Drip()), seconds=0.2)
    with pytest.raises(TransientError, match="TimeoutError") as caught:
        drip.ask("POST", "/jobs", json={})
    assert caught.value.unsure
    with pytest.raises(TransientError, match=r"took longer than 0\.2 seconds"):
        drip.download("/clip", tmp_path / "part", 0.2)


def test_questions_and_downloads_can_be_given_up_and_submissions_not(tmp_path: Path) -> None:
    drip = web(lambda request: httpx.Response(200, stream=Drip()), seconds=1.0)
    ends: dict[str, float] = {}

    def note(name: str, call: Callable[[], Any]) -> None:
        begun = time.monotonic()
        with pytest.raises(TransientError):
            call()
        ends[name] = time.monotonic() - begun

    calls = {
        "ask": lambda: drip.ask("GET", "/x"),
        "download": lambda: drip.download("/clip", tmp_path / "part"),
        "submit": lambda: drip.ask("POST", "/x"),
    }
    threads = [threading.Thread(target=note, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    drip.give_up()
    for thread in threads:
        thread.join()
    assert ends["submit"] >= 1.0 > max(ends["ask"], ends["download"])


def test_an_announced_size_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    class Unread(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("it was read")
            yield b""

    huge = web(lambda request: httpx.Response(200, headers={"content-length": str(2**40)}, stream=Unread()))
    with pytest.raises(ClipRefused, match="larger than 512 MiB"):
        huge.download("/clip", tmp_path / "part")
    with pytest.raises(TransientError, match="more than 8 MiB of text"):
        huge.ask("GET", "/x")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'\xef\xbb\xbf{"id": "\xc3\xa9"}', {}),
        ('{"id": "é"}'.encode("utf-16"), {}),
        ('{"id": "é"}'.encode("utf-32-le"), {}),
        ('{"id": "é"}'.encode("latin-1"), {"content-type": "application/json; charset=ISO-8859-1"}),
        ('{"id": "é"}'.encode(), {"content-type": "application/json; charset=klingon"}),
        ('{"id": "é"}'.encode(), {"content-type": "application/json; charset=ascii"}),
        (b'{"id": "\\u00e9"}', {}),
    ],
)
def test_json_is_read_in_whatever_encoding(body: bytes, headers: dict[str, str]) -> None:
    assert web(says(200, content=body, headers=headers)).ask("GET", "/x").data == {"id": "é"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"id": "1',
        b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"id": ' + b"9" * 50_000 + b"}",
        bytes(range(256)),
    ],
)
def test_what_is_no_json_is_none_and_no_exception(body: bytes) -> None:
    reply = web(says(200, content=body)).ask("GET", "/x")
    assert reply.data is None
    assert len(reply.reason) <= 300


def test_halves_of_surrogate_pairs_and_control_characters_go_no_further() -> None:
    reply = web(says(400, content=b'{"error": {"message": "\\ud800a\\udfff \\ud83d\\ude00\\u001b[31m\\u0000"}}')).ask(
        "GET", "/x"
    )
    assert reply.data["error"]["message"].encode()
    assert "\U0001f600" in reply.data["error"]["message"]
    assert reply.reason.isprintable()


def test_a_body_that_is_not_what_its_encoding_says_passes(tmp_path: Path) -> None:
    for call in (lambda w: w.ask("POST", "/x"), lambda w: w.download("/x", tmp_path / "part")):
        with pytest.raises(TransientError, match="DecodingError") as caught:
            call(web(lambda request: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Plain())))
    assert not caught.value.unsure  # a download


class Plain(httpx.AsyncByteStream):
    async def __aiter__(self):  # type: ignore[no-untyped-def]
        yield b"plainly not gzip"


def test_a_429_for_want_of_money_is_no_rate_limit() -> None:
    with pytest.raises(TeacherStopped, match="credit is used up"):
        web(says(429, json={"error": {"code": "insufficient_quota", "message": "check your plan"}})).ask("POST", "/x")
    with pytest.raises(TransientError):
        web(says(429, json={"error": {"code": "rate_limit_exceeded", "message": "slow down"}})).ask("POST", "/x")


def test_addresses_without_a_scheme_are_under_the_same_guard(addresses: dict[str, str], tmp_path: Path) -> None:
    asked: list[str] = []

    def answers(request: Any) -> Any:
        asked.append(str(request.url))
        return httpx.Response(200, content=b"clip")

    web(answers).download("//cdn.example/clip", tmp_path / "part")
    web(answers).download("/from?to=https://x.example/", tmp_path / "part")
    assert asked == ["https://cdn.example/clip", "https://api.example/v1/from?to=https://x.example/"]
    addresses["cdn.example"] = "10.0.0.1"
    with pytest.raises(ClipError, match="private network"):
        web(answers).download("//cdn.example/clip", tmp_path / "part")
    with pytest.raises(ClipError, match="not https"):
        web(answers).download("file:///etc/hostname", tmp_path / "part")


def test_a_clip_in_a_data_address_is_under_the_same_limit(tmp_path: Path) -> None:
    def nobody(request: Any) -> Any:
        raise AssertionError("somebody was asked")

    web(nobody).download("data:video/mp4;base64,Y2xpcA==", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"clip"
    with pytest.raises(ClipRefused, match="larger than 1 MiB"):
        web(nobody, max_bytes=2**20).download("data:," + "a" * (2**20 + 1), tmp_path / "part")


def test_a_key_that_no_header_can_carry_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "k\u00e9y\nx")
    with pytest.raises(ConfigError, match="characters that no header can carry"):
        web(says(200), key_env="SOME_KEY").ask("POST", "/x")
