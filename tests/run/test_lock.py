"""One process at a time works in a run folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.errors import ConfigError
from understudy.run.lock import LOCK, Busy, group, holding, while_holding

HOLD = "import sys, time; from pathlib import Path; from understudy.run.lock import holding\n"
HOLD += "with holding(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def holder(folder: Path, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    process.said = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_another_process_is_refused_in_one_line_that_says_who_holds_it(tmp_path: Path) -> None:
    other = holder(tmp_path / "run")
    try:
        with pytest.raises(Busy) as caught, holding(tmp_path / "run"):
            pass
    finally:
        end(other)
    said = str(caught.value)
    assert f"process {other.pid} on {socket.gethostname()} since 20" in said
    assert "\n" not in said


def test_a_killed_holder_frees_it_and_nothing_is_left_behind(tmp_path: Path) -> None:
    other = holder(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert (tmp_path / LOCK).is_file()
    with holding(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_it_is_held_against_the_same_process_too(tmp_path: Path) -> None:
    with holding(tmp_path):
        with pytest.raises(Busy), holding(tmp_path):
            pass
        assert (tmp_path / LOCK).is_file()  # the refused one took nothing away


RANKS = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_the_ranks_of_one_torchrun_share_it_and_keep_others_out(tmp_path: Path) -> None:
    first, second = (holder(tmp_path, **RANKS, RANK=rank) for rank in "01")
    assert (first.said, second.said) == ("held", "held")  # type: ignore[attr-defined]
    try:
        with pytest.raises(Busy), holding(tmp_path):
            pass
        elsewhere = holder(tmp_path, **{**RANKS, "MASTER_PORT": "29501"}, RANK="0")
        assert "is in use by process" in elsewhere.communicate()[1]
        end(first)
        with pytest.raises(Busy), holding(tmp_path):  # the second rank still works in it
            pass
    finally:
        end(first), end(second)
    with holding(tmp_path):
        pass


def test_only_a_rank_is_of_a_group() -> None:
    assert group({"RANK": "0"}) == ""
    assert group({**RANKS, "RANK": "3"}) == group({**RANKS, "RANK": "0"}) != ""


def test_a_folder_that_is_not_there_is_made_or_left_alone(tmp_path: Path) -> None:
    with holding(tmp_path / "absent", make=False):
        assert not (tmp_path / "absent").exists()
    with holding(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot lock"), holding(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_function_holds_the_folder_it_works_in(tmp_path: Path) -> None:
    @while_holding(lambda folder: folder)
    def work(folder: Path) -> bool:
        return (folder / LOCK).is_file()

    assert work(tmp_path)
    with holding(tmp_path), pytest.raises(Busy):
        work(tmp_path)


@pytest.mark.parametrize("verb", ["train", "evaluate", "report", "bench"])
def test_every_verb_that_writes_into_a_run_folder_respects_it(verb: str, tmp_path: Path, start: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "r.yaml").write_text(f"out: {run}\nclips: {{store: {tmp_path / 'store'}}}\nstudent: {{start: {start}}}")
    (tmp_path / "s.yaml").write_text(f"kind: bench\nname: x\nout: {run}\nseeds: [0]\nrows: {{a: {{recipe: r.yaml}}}}")
    given = {"train": tmp_path / "r.yaml", "bench": tmp_path / "s.yaml"}.get(verb, run)
    other = holder(run)
    began = time.monotonic()
    try:
        command = [sys.executable, "-m", "understudy", verb, str(given)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        end(other)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {run} is in use by process {other.pid} on")
    assert time.monotonic() - began < 100
    assert sorted(path.name for path in run.iterdir()) == [LOCK]
