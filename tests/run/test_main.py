"""A whole miniature run, as a user starts it: what it leaves behind, what it may see, how it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.errors import ConfigError
from understudy.evaluation.report import write_report
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.run.folder import claim, config_hash
from understudy.run.main import run
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.teachers.world import grammar

RECIPE = """
name: mini
prompts: {kind: world, families: [drop], colours: [red, blue], sizes: [small], per_scene: 2, held_out: 0.5}
clips: {store: STORE, per_prompt: 1}
discriminator: {warmup: 3, pool: 8, width: 16}
objective: {kind: afd, group: 4}
train: {steps: 4, prompts: 2, checkpoint_every: 2}
evaluation: {prompts: 2, rollouts: 2, reference: 2, floor: 2, shown: 1}
compare:
  sft: {objective: {kind: sft}}
out: OUT
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mini.yaml"
    text = RECIPE.replace("STORE", str(tmp_path / "store")).replace("OUT", str(tmp_path / "run"))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_leaves_everything_it_promises(recipe: Path, tmp_path: Path) -> None:
    assert main(["train", str(recipe)]) == 0
    run = tmp_path / "run"
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "report.html", "student/student.safetensors"):
        assert (run / name).is_file(), name
    assert sorted(path.name for path in (run / "clips").iterdir()) == ["afd", "prompts.json", "sft", "start", "teacher"]
    assert list((run / "checkpoints" / "afd").iterdir())
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert {"start", "end", "teacher_floor", "seconds", "steps", "seed", "version"} <= summary.keys()
    assert {"mean", "low", "high", "n"} == summary["end"]["law_error"].keys()
    assert summary["teacher_floor"]["law_error"]["mean"] < 0.5
    resolved = load_recipe(run / "config.yaml", ())
    assert config_hash(resolved) == config_hash(load_recipe(recipe, ()))
    before = (run / "summary.json").read_bytes()
    assert main(["train", str(recipe)]) == 0  # a finished run is not done again
    assert json.loads((run / "summary.json").read_bytes())["end"] == json.loads(before)["end"]
    assert main(["evaluate", str(run)]) == 0
    again = json.loads((run / "summary.json").read_bytes())
    assert again["teacher_clips"] == summary["teacher_clips"] > 0
    assert again["end"] == summary["end"]
    assert main(["report", str(run)]) == 0
    assert main(["generate", str(run), "a small red ball is dropped", "--out", str(tmp_path / "clips")]) == 0
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_student(recipe: Path, tmp_path: Path) -> None:
    """SIGTERM and kill -9 in the middle of training, through the real command."""
    first = load_recipe(recipe, [("out", str(tmp_path / "unbroken"))])
    run(first)
    command = [sys.executable, "-m", "understudy", "train", str(recipe), "--out", str(tmp_path / "killed")]
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        metrics = tmp_path / "killed" / "metrics.jsonl"
        rows = metrics.read_text().count('"phase"') if metrics.is_file() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and metrics.read_text().count('"phase"') > rows + 1:
                process.send_signal(number)
                break
            time.sleep(0.02)
        _, said = process.communicate(timeout=120)
        if number == signal.SIGTERM and process.returncode:
            assert "go on with" in said
            assert "Traceback" not in said
    assert subprocess.run(command, capture_output=True).returncode == 0
    for name in ("student.safetensors", "config.json"):
        unbroken, resumed = tmp_path / "unbroken" / "student" / name, tmp_path / "killed" / "student" / name
        assert unbroken.read_bytes() == resumed.read_bytes()


WATCH = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from understudy.files import ensure_folder
from understudy.video.ingest.guard import Guard
from understudy.recipes.files import load_recipe
from understudy.run.clips import collect, collected
from understudy.run.log import RunLog
from understudy.run.main import train_and_judge
from understudy.run.prompts import training_prompts
from understudy.run.start import load_start
from understudy.training.data import teacher_clips
config = load_recipe(sys.argv[1], ())
collect(config, on_progress=lambda report: None)
opened.clear()
read = Guard.read  # clips are opened by another process
Guard.read = lambda self, path, *how: opened.append(str(path)) or read(self, path, *how)
bundle = load_start(config)
pairs = collected(config, training_prompts(config), 1, config.clips.store, bundle.form)
data = teacher_clips(pairs, bundle.form, bundle.codec)
log = RunLog(ensure_folder(config.out))
train_and_judge(config, "afd", data, bundle, log)
sealed = [path for path in opened if "sealed" in path]
assert any(path.endswith(".mp4") for path in opened)
print(len(sealed))
"""


@pytest.mark.slow
def test_training_never_opens_the_sealed_states(recipe: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", WATCH, str(recipe)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0"
    assert list((tmp_path / "store-sealed").glob("*.npz"))  # they exist, and were not opened
    records = (tmp_path / "store" / "records.jsonl").read_text(encoding="utf-8")
    assert "sealed" not in records
    assert "positions" not in records


def test_held_out_scenes_are_never_trained_on() -> None:
    config = RunConfig()
    training, held_out = training_prompts(config), held_out_prompts(config)
    assert not set(training) & set(held_out)
    scene = grammar.parse
    assert not {scene(text) for text in training} & {scene(text) for text in held_out}
    other = load_recipe("bench/base", ())  # evidence: not what settings were chosen on
    assert len({scene(text) for text in held_out} & {scene(text) for text in held_out_prompts(other)}) < 3


def test_another_config_in_the_same_folder_is_refused(recipe: Path, tmp_path: Path) -> None:
    config = load_recipe(recipe, ())
    os.makedirs(config.out)
    claim(config)
    claim(config.model_copy(update={"threads": 2}))  # threads do not make another run
    with pytest.raises(ConfigError, match="another configuration"):
        claim(load_recipe(recipe, [("seed", "5")]))


def test_one_scene_leaves_nothing_to_hold_out(recipe: Path) -> None:
    config = load_recipe(recipe, [("prompts.colours", "[red]")])
    with pytest.raises(ConfigError, match="too few to hold any out"):
        training_prompts(config)


def test_report_of_a_missing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) != 0
    assert capsys.readouterr().err.count("\n") == 1
    assert callable(write_report)
