"""SIGTERM means what Ctrl-C means, whatever is going on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from understudy.collection.store import ClipStore, Origin
from understudy.errors import StoreError
from understudy.run.clips import open_store
from understudy.run.stopping import Terminated, terminable


def test_it_is_raised_where_it_arrives_and_the_way_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    came: list[int] = []

    def wait() -> None:
        with terminable() as signals:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                came.extend(signals)

    with pytest.raises(KeyboardInterrupt) as caught:
        wait()
    assert isinstance(caught.value, Terminated)
    assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def work() -> None:
        with terminable():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start(), thread.join()
    assert during == [before]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_verb_ends_in_order_with_the_signal_s_status(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "understudy", "generate", "builtin:frame", "a small red ball is dropped"]
    command += ["--per-prompt", "5000", "--out", str(tmp_path / "clips")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not list((tmp_path / "clips").glob("[!.]*.mp4") if (tmp_path / "clips").is_dir() else ()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.strip().splitlines()[-1].startswith("stopped: ")
    assert "Traceback" not in said
    assert not list((tmp_path / "clips").glob(".tmp-*"))


def test_a_store_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClipStore(tmp_path / "store", create=True)
    store.add(Origin("folder-1", "a red ball", {}, 0, "own clips"), b"a clip", {"frames": 1})

    def read_only(path: object, mode: int) -> bool:
        return mode == os.F_OK or not mode & os.W_OK

    monkeypatch.setattr(os, "access", read_only)
    assert len(open_store(tmp_path / "store")) == 1
    with pytest.raises(StoreError):
        open_store(tmp_path / "none")
