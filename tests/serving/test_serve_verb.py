import signal
import socket
import subprocess
import sys

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
