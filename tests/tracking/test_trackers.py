"""Each tracker against its package where that is installed, and against a stand-in that writes down the calls."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.cli import main
from understudy.errors import ConfigError
from understudy.recipes.files import load_recipe
from understudy.run import main as whole
from understudy.run.folder import config_hash
from understudy.tracking.base import Tracking
from understudy.tracking.build import check, open_tracking
from understudy.training.loop import record
from understudy.video.clips import Clip, write_mp4

HOSTED = """
import json, os
class Api: api_key = os.environ.get("FAKE_KEY")
api = Api()
class Video:
    def __init__(self, path, caption=None, format=None): self.said = [os.path.basename(path), caption, format]
class Run:
    def say(self, *what):
        with open(os.environ["FAKE_LOG"], "a") as file: file.write(json.dumps(what, default=lambda v: v.said) + "\\n")
    def define_metric(self, name, step_metric=None): self.say("axis", name, step_metric)
    def log(self, values, step=None): self.say("log", values, step)
    def finish(self): self.say("finish")
def init(**given):
    run = Run()
    run.say("init", {name: given.get(name) for name in ("project", "name", "resume", "mode")}, given["config"]["seed"])
    return run
"""


def run_folder(folder: Path) -> Path:
    """A run of three steps with an evaluation to come."""
    (folder / "clips" / "afd").mkdir(parents=True)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[1:, :, :8] = 255
    write_mp4(folder / "clips" / "afd" / "abc-0.mp4", Clip(frames, 8))
    (folder / "clips" / "prompts.json").write_text('{"abc": "a ball"}')
    for step in range(3):
        record(folder / "metrics.jsonl", {"arm": "afd", "step": step, "phase": "update", "loss": 1.0 / (step + 1)})
    return folder


def nobody(line: str) -> None:
    raise AssertionError(line)


def tracked(kind: str, folder: Path) -> Tracking:
    return open_tracking((kind,), folder, "my run", {"seed": 3}, nobody)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-ins for both hosted packages, and what they were told."""
    for name in ("wandb", "trackio"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(HOSTED)
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield lambda: [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    for name in ("wandb", "trackio"):
        __import__("sys").modules.pop(name, None)


def test_wandb_gets_an_axis_an_arm_and_nothing_twice(tmp_path: Path, calls: Any) -> None:
    folder = run_folder(tmp_path / "run")
    tracking = tracked("wandb", folder)
    tracking.step("afd")
    tracking.close()
    assert calls() == [
        ["init", {"project": "understudy", "name": "my run", "resume": "allow", "mode": "offline"}, 3],
        ["axis", "afd/step", None],
        ["axis", "afd/*", "afd/step"],
        *(["log", {"afd/loss": 1.0 / (step + 1), "afd/step": step}, None] for step in range(3)),
        ["finish"],
    ]
    before = len(calls())
    tracking = tracked("wandb", folder)
    tracking.evaluation("afd", {"law": {"mean": 3.0}})
    tracking.close()
    assert [call for call in calls()[before:] if call[0] == "log"] == [
        ["log", {"afd/evaluation/law": 3.0, "afd/step": 2}, None],
        ["log", {"afd/clips/abc-0": ["abc-0.mp4", "a ball", "mp4"], "afd/step": 2}, None],
    ]


@pytest.mark.parametrize(
    ("key", "mode", "expected"), [("k", "", "online"), ("", "", "offline"), ("k", "disabled", "disabled")]
)
def test_wandb_without_a_key_stays_offline(
    key: str, mode: str, expected: str, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY", key)
    monkeypatch.setenv("WANDB_MODE", mode)
    tracked("wandb", run_folder(tmp_path / "run")).close()
    assert calls()[0][1]["mode"] == expected


def test_trackio_gets_the_steps_as_they_are(tmp_path: Path, calls: Any) -> None:
    tracking = tracked("trackio", run_folder(tmp_path / "run"))
    tracking.evaluation("afd", {"law": {"mean": 3.0}})
    tracking.close()
    (_, first, _), *told = calls()
    assert first["name"].startswith("my run-")
    assert told == [
        *(["log", {"afd/loss": 1.0 / (step + 1)}, step] for step in range(3)),
        ["log", {"afd/evaluation/law": 3.0}, 2],
        ["log", {"afd/clips/abc-0": ["abc-0.mp4", "a ball", "mp4"]}, 2],
        ["finish"],
    ]


EVENTS = {
    "__init__.py": "",
    "compat/__init__.py": "",
    "compat/proto/__init__.py": "",
    "compat/proto/event_pb2.py": """
class Event(dict):
    def __init__(self, **named): super().__init__(named)
class SessionLog(dict):
    START = 1
    def __init__(self, **named): super().__init__(named)
""",
    "compat/proto/summary_pb2.py": """
class Summary(dict):
    def __init__(self, **named): super().__init__(named)
    class Value(dict):
        def __init__(self, **named): super().__init__(named)
    class Image(dict):
        def __init__(self, **named): super().__init__(named)
""",
    "summary/__init__.py": "",
    "summary/writer/__init__.py": "",
    "summary/writer/event_file_writer.py": """
import json, os
class EventFileWriter:
    def __init__(self, logdir, flush_secs):
        os.makedirs(logdir, exist_ok=True)
        self.file = open(os.path.join(logdir, "events"), "a")
    def add_event(self, event):
        self.file.write(json.dumps(event, default=lambda data: data[:6].decode()) + "\\n")
    def close(self): self.file.close()
""",
}


@pytest.fixture
def no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in that writes events as JSON lines."""
    import sys

    for name, text in EVENTS.items():
        path = tmp_path / "packages" / "tensorboard" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "tensorboard"}
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.usefixtures("no_tensorboard")
def test_tensorboard_gets_a_folder_an_arm_and_forgets_what_comes_again(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for sitting in range(2):
        tracking = tracked("tensorboard", folder)
        tracking.step("afd")
        if sitting:
            tracking.evaluation("afd", {"law": {"mean": 3.0}})
        tracking.close()
    events = [json.loads(line) for line in (folder / "tensorboard" / "afd" / "events").read_text().splitlines()]
    sitting = [
        {"step": 0, "file_version": "brain.Event:2"},
        {"step": 0, "session_log": {"status": 1}},
        *(
            {"step": step, "summary": {"value": [{"tag": "loss", "simple_value": 1.0 / (step + 1)}]}}
            for step in range(3)
        ),
    ]
    assert events[:-2] == [*sitting, *sitting]
    assert events[-2] == {"step": 2, "summary": {"value": [{"tag": "evaluation/law", "simple_value": 3.0}]}}
    image = events[-1]["summary"]["value"][0]
    assert image["tag"] == "a ball/abc-0"
    assert image["image"] == {"height": 16, "width": 16, "colorspace": 3, "encoded_image_string": "GIF89a"}


def test_the_real_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run_folder(tmp_path / "run")
    for _ in range(2):
        tracking = tracked("tensorboard", folder)
        tracking.step("afd")
        tracking.evaluation("afd", {"law": {"mean": 3.0}})
        tracking.close()
    found = EventAccumulator(str(folder / "tensorboard" / "afd"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    assert [(point.step, point.value) for point in found.Scalars("loss")] == [
        (0, 1.0),
        (1, 0.5),
        (2, pytest.approx(1 / 3)),
    ]
    assert [(point.step, point.value) for point in found.Scalars("evaluation/law")] == [(2, 3.0)]
    assert found.Images("a ball/abc-0")[0].encoded_image_string.startswith(b"GIF89a")


def test_the_real_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run_folder(tmp_path / "run")
    tracking = tracked("wandb", folder)
    tracking.evaluation("afd", {"law": {"mean": 3.0}})
    tracking.close()
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert json.loads((folder / "wandb.json").read_text()) == {"afd": 2}


def test_the_real_trackio_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    folder = run_folder(tmp_path / "run")
    tracking = tracked("trackio", folder)
    tracking.evaluation("afd", {"law": {"mean": 3.0}})
    tracking.close()
    assert json.loads((folder / "trackio.json").read_text()) == {"afd": 2}


def test_a_missing_package_is_one_clear_line_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("understudy.tracking.build.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^track: wandb is not installed; pip install 'understudy\[wandb\]'"):
        check(("wandb",))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"out: {tmp_path / 'run'}\nclips: {{store: {tmp_path / 'store'}}}\ntrack: [tensorboard]\n")
    for more in (["--dry-run"], []):
        assert main(["train", str(recipe), *more]) == 1
        assert capsys.readouterr().err.startswith("error: track: tensorboard is not installed")
    assert not (tmp_path / "store").exists()


def test_a_tracker_that_cannot_begin_is_one_clear_line(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path))  # a folder: the stand-in cannot write
    words = r"^track: trackio cannot begin \(IsADirectoryError: .*\); mend it or leave it out"
    with pytest.raises(ConfigError, match=words) as caught:
        tracked("trackio", run_folder(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_tracking_makes_no_other_run(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\n")
    plain, followed = load_recipe(recipe), load_recipe(recipe, [("track", "[tensorboard, wandb]")])
    assert followed.track == ("tensorboard", "wandb")
    assert config_hash(plain) == config_hash(followed)
    with pytest.raises(ConfigError, match=r'track.0 is "mlflow"; expected one of tensorboard, wandb, trackio'):
        load_recipe(recipe, [("track", "[mlflow]")])


def test_a_run_opens_its_trackers_first_and_closes_them_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Closes:
        def close(self) -> None:
            told.append("close")

    def stop(*_: object) -> None:
        told.append("clips")
        raise KeyboardInterrupt

    monkeypatch.setattr(
        whole,
        "open_tracking",
        lambda track, out, *more: Tracking(out, {track[0]: Closes()}, nobody),  # type: ignore[dict-item]
    )
    monkeypatch.setattr(whole, "training_clips", stop)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"out: {tmp_path / 'run'}\nclips: {{store: {tmp_path / 'store'}}}\ntrack: [wandb]\n")
    with pytest.raises(KeyboardInterrupt):
        whole.run(load_recipe(recipe))
    assert told == ["clips", "close"]
