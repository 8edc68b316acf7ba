import signal
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
