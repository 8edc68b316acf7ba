"""The door from Python: what the README shows, on a student of a few weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import understudy as us
from understudy.cli import main
from understudy.errors import CheckpointError, ConfigError, PluginError
from understudy.recipes.files import load_recipe
from understudy.video.clips import decode_mp4


@pytest.fixture
def parts(door: Path) -> Any:
    """The module of plug-ins, imported as a user would."""
    sys.path.insert(0, str(door))
    import door_parts

    return door_parts


def saved(run: us.Run) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    return found


def rows(run: us.Run) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row.get("phase") == "update"]


# --- students -----------------------------------------------------------------------------------------------------


def test_public_names_are_there_and_come_late() -> None:
    lazy = "assert 'torch' not in sys.modules"
    code = f"import sys, understudy as us; {lazy}; print(len([getattr(us, name) for name in us.__all__]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert int(done.stdout) == len(us.__all__), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Rum'"):
        _ = us.Rum


def test_a_student_draws_saves_and_plays(door: Path) -> None:
    student = us.load("start")
    assert "16x16, 12 fps, 0.67 s" in repr(student)
    assert student.words == ("red", "ball")
    clip = student.draw("red ball", seed=1)
    assert clip.frames.shape == (8, 16, 16, 3)
    assert np.array_equal(clip.frames, student.draw("red ball", seed=1).frames)
    assert not np.array_equal(clip.frames, student.draw("red ball", seed=2).frames)
    assert decode_mp4(clip.save("ball.mp4").read_bytes()).size == (16, 16)
    assert clip._repr_html_().startswith("<video")
    longer = student.draw("red ball", seconds=1.0, seed=1, switches=[(0.5, "ball")])
    assert longer.length == 12
    assert np.array_equal(longer.frames[:4], clip.frames[:4])
    onward = student.draw("ball", given="ball.mp4", seed=3)
    assert np.abs(onward.frames[0].astype(int) - clip.frames[0].astype(int)).mean() < 64
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="positive number"):
            student.draw("ball", seconds=seconds)


def test_a_stream_is_the_clip_block_by_block_and_turns(parts: Any) -> None:
    student = us.Student(parts.tiny())
    blocks = list(student.stream("red ball", seconds=7 / 12, seed=1))
    assert [len(block) for block in blocks] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(blocks), student.draw("red ball", seed=1).frames[:7])
    kept, turned = student.stream("red ball", seed=1), student.stream("red ball", seed=1)
    assert np.array_equal(next(kept), next(turned))
    turned.switch("ball")
    assert turned.fps == 12
    assert not np.array_equal(next(kept), next(turned))
    for _ in range(6):  # past the trained length: it never ends
        next(kept)
    with pytest.raises(ConfigError, match="positive number"):
        student.stream("ball", seconds=0)


def test_students_are_saved_exported_and_loaded_again(door: Path) -> None:
    student = us.load("start", window=3, sink=1, levels=[1.0, 0.25])
    again = us.load(student.save("kept"))
    assert again.bundle.student.spec == student.bundle.student.spec
    assert again.bundle.levels == (1.0, 0.25)
    assert np.array_equal(again.draw("ball", seed=4).frames, student.draw("ball", seed=4).frames)
    assert us.load("builtin:frame").bundle.form.height == 48


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("nowhere", {}, "nowhere is not a student"),
        ("builtin:none", {}, "choose one of builtin:"),
        ("start", {"levels": [0.5]}, "must fall from 1"),
        ("start", {"window": "wide"}, r'^Python: student.window is "wide"'),
        ("start", {"windov": 3}, "did you mean student.window"),
        ("start", {"preset": "selfforcing"}, "student"),
        ("start", {"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_what_is_no_student_is_said_in_one_line(door: Path, name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(us.UnderstudyError, match=said) as caught:
        us.load(name, **fields)
    assert "\n" not in str(caught.value)


# --- recipes by keyword -------------------------------------------------------------------------------------------


def test_fields_go_by_their_last_word_where_that_is_clear(door: Path) -> None:
    config = us.recipe(
        "recipe.yaml",
        steps=60,
        seed=3,
        out=Path("elsewhere"),
        name="a \N{VIDEO CAMERA} run",
        group=np.int64(4),
        discriminator__steps=3,
        student__levels=(1.0, 0.5),
        prompts=5,
        lora={"rank": 2},
    )
    assert (config.train.steps, config.seed, config.out, config.objective.group) == (60, 3, Path("elsewhere"), 4)
    assert (config.discriminator.steps, config.student.levels, config.train.prompts) == (3, (1.0, 0.5), 5)
    assert config.name == "a \N{VIDEO CAMERA} run"
    assert config.student.lora is not None
    assert config.student.lora.rank == 2
    turned = us.recipe("recipe.yaml", objective__kind="gan", prompts={"kind": "world"})
    assert (turned.objective.kind, turned.prompts.kind) == ("gan", "world")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rollouts": 3, "path": "x"}, r"path may mean .* or .*: write one of .*__path"),
        ({"stepz": 3}, "there is no field stepz; did you mean .*__steps"),
        ({"train__stepz": 3}, "there is no field train.stepz; did you mean train.steps"),
        ({"steps": "many"}, r'^Python: train.steps is "many"; expected'),
        ({"steps": object()}, "steps is a object: a field takes numbers"),
        ({"NAME": 1}, "there is no field NAME"),
    ],
)
def test_unknown_and_unclear_fields_are_one_line(door: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        us.Run("recipe.yaml", **fields)
    assert "\n" not in str(caught.value)


def test_a_description_takes_no_further_fields(door: Path) -> None:
    described = us.recipe("recipe.yaml", steps=1)
    assert us.Run(described).config == described
    with pytest.raises(ConfigError, match=r"give steps to us.recipe"):
        us.Run(described, steps=2)


# --- objects win over sections ------------------------------------------------------------------------------------


def test_objects_win_and_the_recipe_names_them(parts: Any) -> None:
    run = us.Run(
        "recipe.yaml",
        teacher=parts.Grey(90),
        discriminator=parts.Mean(),
        reward={"bright": parts.brightness, "calm": (-0.5, parts.motion)},
        objective=parts.afd,
        warmup=3,
        discriminator__lr=0.01,
    )
    config = run.config
    assert (config.teacher.kind, config.teacher.call) == ("python", "door_parts:Grey")
    assert (config.discriminator.call, config.discriminator.lr) == ("door_parts:Mean", 0.01)
    assert config.objective.call == "door_parts:afd"
    assert config.objective.arm == "afd"
    assert config.objective.reward == "discriminator"  # one was given
    assert {name: section.weight for name, section in config.rewards.items()} == {"bright": 1.0, "calm": -0.5}
    assert us.Run("recipe.yaml", reward=parts.brightness).config.objective.reward == "rewards"
    beside = us.Run("recipe.yaml", reward=["discriminator", parts.brightness, parts.Near(3.0)]).config
    assert (beside.objective.reward, list(beside.rewards)) == ("discriminator", ["brightness", "Near"])
    assert us.Run("recipe.yaml", reward="random").config.objective.reward == "random"
    named = us.Run("recipe.yaml", reward="door_parts:brightness", teacher="door_parts:Grey").config
    assert named.rewards["brightness"].call == "door_parts:brightness"
    again = us.Run("recipe.yaml", teacher={"kind": "folder", "path": "clips"}, discriminator=parts.Mean)
    assert again.config.teacher.kind == "folder"
    assert us.Run(us.recipe("recipe.yaml", discriminator={"kind": "python", "call": "a:B"}), discriminator=parts.Mean())


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"reward": 3}, "reward 'int' is a int: give a function"),
        ({"reward": {}}, "reward holds no reward"),
        ({"reward": [len, len]}, "two rewards are called 'len'"),
        ({"reward": (float("nan"), len)}, "weight nan"),
        ({"reward": ["discriminator", (2, "discriminator"), len]}, "the discriminator has weight 1, not 2"),
        ({"reward": len, "objective": {"kind": "gan"}}, "objective gan takes no reward"),
        ({"student": 3}, "student is a int"),
        ({"reward": "nobody"}, "Python: objective.reward is"),
        ({"teacher": "my-clips"}, "teacher.call"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(door: Path, objects: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        us.Run("recipe.yaml", **objects)
    assert "\n" not in str(caught.value)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_python(parts: Any) -> None:
    events: list[us.Event] = []
    run = us.Run("recipe.yaml", teacher=parts.Grey(90), reward=parts.brightness, on_event=events.append, out="mine")
    with pytest.raises(CheckpointError, match=r"call train\(\) first"):
        _ = run.summary
    assert run.collect() == 2
    assert run.train() is run
    assert run.summary["objective"] == "afd"
    assert run.summary["teacher"] == "grey-90"
    assert all({"reward_brightness", "spread_brightness"} <= row.keys() for row in rows(run))
    assert "reward_brightness" in run.report().read_text(encoding="utf-8")
    said = saved(run)
    assert said["teacher"]["call"] == "door_parts:Grey"
    assert said["rewards"]["brightness"] == {
        "weight": 1.0, "call": "door_parts:brightness", "settings": {}, "kind": "python"
    }  # fmt: skip
    assert {event.kind for event in events} == {"begin", "figures", "clip"}
    assert {"loss", "reward_brightness"} <= {name for event in events for name in event.values}
    clip = run.student.draw("ball", seed=5)
    assert np.array_equal(clip.frames, us.load("mine").draw("ball", seed=5).frames)
    before = run.summary["end"]
    assert run.evaluate()["end"] == before
    other = us.Run("recipe.yaml", teacher=parts.Grey(90), reward=parts.motion, out="mine")
    with pytest.raises(ConfigError, match="another configuration"):
        other.train()


class Stop(Exception):
    """Somebody pulls the plug."""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["object", "recipe", "command"])
def test_a_run_with_a_reward_goes_on_to_the_same_bits(parts: Any, by: str) -> None:
    def made(out: str) -> us.Run:
        return us.Run("recipe.yaml", reward=["discriminator", parts.brightness], out=out, steps=3)

    whole = made("whole").train()
    calls = 0

    def unplugged(clips: Any, prompts: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        found: list[float] = parts.brightness(clips, prompts)
        return found

    broken = made("broken")
    broken.config.rewards["brightness"]._given = unplugged
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    if by == "object":
        made("broken").train()
    elif by == "recipe":
        us.Run("broken/config.yaml").train()
    else:
        assert main(["train", "broken/config.yaml"]) == 0
    weights = [(Path(name) / "student" / "student.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert [row["reward_brightness"] for row in rows(whole)] == [
        row["reward_brightness"] for row in rows(made("broken"))
    ]


RECIPES = {
    "all": 'student: {kind: python, call: "door_parts:tiny", settings: {seed: 3}, start: none}\n'
    'discriminator: {kind: python, call: "door_parts:Mean", warmup: 1, pool: 4, steps: 1, rerender: null}\n'
    'objective: {kind: python, call: "door_parts:afd", settings: {beta: 0.3}, group: 2}\n'
    'rewards: {near: {kind: python, call: "door_parts:Near", settings: {shade: 9.0}, weight: 2.0}}\n',
    "jobs": 'teacher: {kind: python, call: "door_parts:Jobs"}\ncollection: {poll: 0.01}\n',
    "own family": 'student: {kind: python, call: "door_parts:mine", start: none}\n',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_same_from_yaml_through_the_command(door: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (door / "own.yaml").write_text(f"base: recipe.yaml\n{RECIPES[name]}", encoding="utf-8")
    if name == "jobs":  # it may charge: nothing is asked before somebody says so
        assert main(["train", "own.yaml"]) == 1
        assert "jobs-1 may charge for them" in capfd.readouterr().err
        assert main(["collect", "own.yaml", "--yes"]) == main(["collect", "own.yaml", "--yes", "--held-out"]) == 0
    assert main(["train", "own.yaml"]) == 0, capfd.readouterr().err
    run = us.Run(us.recipe("run/config.yaml"))
    if name == "all":
        assert {"reward_near", "spread_near", "pair_accuracy"} <= rows(run)[0].keys()
    assert load_recipe("run/config.yaml") == load_recipe("own.yaml")
    assert main(["evaluate", "run"]) == 0
    assert us.load("run").draw("ball").length == 8


@pytest.mark.slow
def test_a_student_that_was_given_is_kept_beside_the_run(parts: Any) -> None:
    run = us.Run("recipe.yaml", student=parts.tiny(seed=5), reward=parts.brightness, steps=1).train()
    assert run.config.student.start == "run/start"
    first = run.summary["start"]
    assert us.Run("run/config.yaml").evaluate()["start"] == first
    assert run.student.draw("ball").length == 8
    with pytest.raises(ConfigError, match="began with another student"):
        us.Run("recipe.yaml", student=parts.tiny(seed=6), reward=parts.brightness, steps=1).train()


def test_students_are_given_in_four_ways(parts: Any) -> None:
    loaded = us.Run("recipe.yaml", student=us.load("start", window=3), lora={"rank": 2}).config.student
    assert (loaded.start, loaded.window) == ("start", 3)
    assert loaded.lora is not None
    assert us.Run("recipe.yaml", student="builtin:block").config.student.start == "builtin:block"
    made = us.Run("recipe.yaml", student=parts.mine).config.student
    assert (made.kind, made.call) == ("python", "door_parts:mine")
    assert us.Run("recipe.yaml", student=us.Student(parts.tiny())).config.student.start == "run/start"


# --- errors of plug-ins -------------------------------------------------------------------------------------------

FAULTS = {
    "teacher": (
        'teacher: {kind: python, call: "door_parts:Forgetful"}',
        "teacher door_parts:Forgetful failed: ValueError",
    ),
    "teacher made": (
        'teacher: {kind: python, call: "door_parts:nothing"}',
        "made a NoneType without name, terms, generate",
    ),
    "no module": ('teacher: {kind: python, call: "door_partz:Grey"}', "there is no module 'door_partz'"),
    "settings": (
        'teacher: {kind: python, call: "door_parts:Grey", settings: {colour: 1}}',
        "teacher door_parts:Grey failed: TypeError",
    ),
    "student": (
        'student: {kind: python, call: "door_parts:nothing", start: none}',
        "made a NoneType, not an understudy.B",
    ),
    "discriminator": (
        'discriminator: {kind: python, call: "door_parts:Mean", settings: {bad: raises}, warmup: 1, pool: 4}',
        r"discriminator door_parts:Mean failed: KeyError: 'no such layer' (door_parts.py line",
    ),
    "discriminator shape": (
        'discriminator: {kind: python, call: "door_parts:Mean", settings: {bad: shape}, warmup: 1, pool: 4}',
        "discriminator door_parts:Mean scored",
    ),
    "discriminator made": ('discriminator: {kind: python, call: "door_parts:Near"}', "derive it from understudy.Disc"),
    "objective": ('objective: {kind: python, call: "door_parts:idle"}', "made a object, which has no steps, initial_"),
    "objective step": (
        'objective: {kind: python, call: "door_parts:Restless", group: 2}',
        "objective door_parts:Restless: step returned str, not a StepReport",
    ),
    "no rewards": ("objective: {kind: afd, group: 2, reward: rewards}", "the recipe has none: add one below rewards"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_errors_of_a_plug_in_name_it_in_one_line(door: Path, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    section, said = FAULTS[fault]
    (door / "own.yaml").write_text(f"base: recipe.yaml\n{section}\n", encoding="utf-8")
    assert main(["train", "own.yaml"]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]


def test_errors_of_an_event_handler_do_not_end_a_run(door: Path) -> None:
    from understudy.tracking.base import Tracking
    from understudy.tracking.events import EventTracker

    told: list[str] = []

    def fails(event: us.Event) -> None:
        raise ValueError(event.kind)

    (door / "metrics.jsonl").write_text('{"arm": "afd", "step": 0, "phase": "update", "loss": 1.0}\n')
    tracking = Tracking(door, {"on_event": EventTracker(fails)}, told.append)
    tracking.step("afd")
    assert len(told) == 1
    assert "on_event failed and is left out" in told[0]


def test_rewards_that_fail_are_named(parts: Any) -> None:
    from understudy.objectives.rewards import asked

    clips = [us.Clip(np.zeros((2, 4, 4, 3), np.uint8), 12.0)] * 2
    said = {
        "few": "reward 'mine' returned 1 scores for 2 clips",
        "nan": "returned nan for a clip of 'a'",
        "huge": "not one number for each clip",
        "none": "returned NoneType, not one number for each clip",
        "words": "returned list, not one number",
        "raises": r"reward 'mine' failed: ZeroDivisionError: .*\(door_parts.py line",
    }
    for how, line in said.items():
        with pytest.raises(PluginError, match=line) as caught:
            asked("mine", parts.Wrong(how), clips, ["a", "b"])
        assert "\n" not in str(caught.value)
