"""The GPU benchmarks of the Wan student run from end to end on a CPU, at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, out: Path, *options: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--device", "cpu", "--json", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_wan_benchmark(tmp_path: Path) -> None:
    found = run("wan.py", tmp_path / "out.json", "--size", "recordings", "--repeat", "1")
    assert found["matrix_tflops_per_second"] > 0
    for part in ("first block", "middle block", "last block", "velocity", "commit", "rollout"):
        assert found[part]["ms"] > 0
        assert found[part]["share_of_ceiling"] > 0
    assert found["first block"]["tflop"] < found["middle block"]["tflop"] < found["last block"]["tflop"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--whole", "--recompute", "1"), ("--preset", "longlive", "--recompute", "0")])
def test_the_wan_step_benchmark(more: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = run("wan_step.py", tmp_path / "out.json", "--size", "tiny", "--rank", "4", *more)
    assert found["by_block"] is ("--whole" not in more)
    assert found["loss"] > 0
    assert found["update_of_rollout"] == pytest.approx(found["update_seconds"] / found["rollout_seconds"])
    assert found["estimated_gib"] > 0


@pytest.mark.slow
def test_the_benchmark_of_paid_work(tmp_path: Path) -> None:
    pytest.importorskip("httpx")
    command = [sys.executable, str(ROOT / "benchmarks" / "paid.py"), "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    found = json.loads((tmp_path / "paid.json").read_text())
    assert [line for trial in found["trials"].values() for line in trial["bad"]] == []
    assert done.returncode == 0, done.stderr
    assert found["signals"]["SIGINT"]["unsure"] == found["signals"]["SIGTERM"]["unsure"] == 0
    assert found["answers"] > 40
    assert "every count has to be 0" in (tmp_path / "paid.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_rehearsal_of_a_whole_run(tmp_path: Path) -> None:
    for package in ("diffusers", "peft", "transformers"):
        pytest.importorskip(package)
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "rehearsal.py"),
        str(tmp_path / "files"),
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1150, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["estimated_gib"] >= 0
    phases = (
        "doctor",
        "dry run",
        "train, killed",
        "resume",
        "generate",
        "evaluate",
        "export comfyui",
        "export lora-diffusers",
    )
    assert set(phases) <= found["phases"].keys()


SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SCRIPTS if "argparse" in path.read_text()], ids=lambda p: p.stem)
def test_every_script_starts(path: Path) -> None:
    """They import what they use from all over the house: a move must not leave one behind."""
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.slow
def test_the_shares_of_a_step(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "step.py"), str(ROOT / "examples" / "small.yaml")]
    out = tmp_path / "out.json"
    done = subprocess.run([*command, "--steps", "1", "--clips", "2", "--json", str(out)], check=False, cwd=tmp_path)
    assert done.returncode == 0
    shares = json.loads(out.read_text())["shares"]
    assert shares.keys() == {"rollout", "discriminator", "verdict", "averages", "update"}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())
