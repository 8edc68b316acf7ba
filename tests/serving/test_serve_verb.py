import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")


@pytest.mark.parametrize("ready", [False, True], ids=["on its way up", "up"])
def test_sigterm_is_an_ordered_stop(ready: bool) -> None:
    command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("open http://127.0.0.1:")
        if ready:
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(3)
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1 port {port}")
    assert done.stderr.count("\n") == 1


def test_sigterm_tells_viewers_and_names_do_not_say_where_students_lie(tmp_path: Path) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    from understudy.students.bundle import load_bundle, save_bundle

    save_bundle(load_bundle("builtin:frame"), tmp_path / "mine")
    (tmp_path / "no.txt").write_text("blue ball\n")
    command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", str(tmp_path / "mine"), "--port", "0"]
    command += ["--deny", str(tmp_path / "no.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip().strip("/").rsplit(":", 1)[1]
        with connect(f"ws://127.0.0.1:{port}/stream") as viewer:
            welcome = json.loads(viewer.recv())
            assert [student["name"] for student in welcome["students"]] == ["builtin:frame", "mine"]
            viewer.send('{"type": "open", "prompt": "a Blue ball"}')
            assert "moderation" in json.loads(viewer.recv())["detail"]
            viewer.send('{"type": "open", "prompt": "a red ball"}')
            while isinstance(viewer.recv(), str):
                pass
            server.send_signal(signal.SIGTERM)
            told = []
            with suppress(ConnectionClosed):
                while True:
                    message = viewer.recv(30)
                    told += [json.loads(message)] if isinstance(message, str) else []
        out, err = server.communicate(timeout=60)
    assert told[-1] == {"type": "ended", "reason": "shutdown", "detail": "the server is stopping"}
    assert (server.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--deny", "nowhere.txt"], "--deny nowhere.txt cannot be read"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["--window", "99"], "window 99"),
    ],
)
def test_what_cannot_be_served_is_one_line(options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode > 0, done.stdout) == (True, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_elsewhere_a_token_is_drawn_and_asked_for() -> None:
    import httpx

    command = [sys.executable, "-m", "understudy", "serve", "builtin:frame", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address, token = server.stdout.readline().removeprefix("open ").strip().split("#token=")
        address = address.replace("0.0.0.0", "127.0.0.1")
        assert len(token) >= 20
        assert httpx.get(address).status_code == 200
        assert httpx.get(address + "v1/videos").status_code == 401
        assert httpx.get(address + "v1/videos", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
