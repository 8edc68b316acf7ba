"""Settings under which nothing is trained, or something breaks later, are refused at the start."""

from pathlib import Path

import pytest

from understudy import cli
from understudy.errors import ConfigError
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.run.checks import check
from understudy.students.bundle import load_bundle


def checked(start: Path, text: str, tmp_path: Path) -> list[str]:
    (tmp_path / "r.yaml").write_text(text)
    return check(load_recipe(tmp_path / "r.yaml"), load_bundle(start))  # four blocks of two frames


IDLE = [
    ("objective: {shared_blocks: 4}", "objective.shared_blocks: 4 of 4 blocks"),
    ("objective: {kind: dmd, shared_blocks: 9}", "objective.shared_blocks: 9 of 4 blocks"),
    ("objective: {kind: sft, masked_blocks: 4}", "objective.masked_blocks: 4 of 4 blocks"),
    ("compare: {x: {objective: {kind: sft, masked_blocks: 4}}}", "compare.x.objective.masked_blocks: 4"),
    ("objective: {group: 1}\ntrain: {prompts: 1}", "every advantage is 0"),
    ("objective: {group: 1, scope: batch}\ntrain: {prompts: 1}", "every advantage is 0"),
    ("objective: {kind: grpo, group: 1}\ntrain: {prompts: 1}", "every advantage is 0"),
    ("objective: {kind: tilt, group: 1}\ntrain: {prompts: 1}", "every advantage is 0"),
    ("objective: {group: 1, branches: rectified}", "every weight is 1"),
    ("discriminator: {skip_frames: 8}", "discriminator.skip_frames: 8 of 8 frames"),
    ("objective: {group: 4096}\ntrain: {prompts: 4096}", "train.prompts: 4096 prompts of 4096 rollouts are too many"),
]


@pytest.mark.parametrize(("text", "said"), IDLE)
def test_what_trains_nothing_or_breaks_later_is_refused(start: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(start, text, tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{seed: 0}",
        "objective: {shared_blocks: 3}",
        "objective: {shared_blocks: 4, shared_share: 0.5}",
        "objective: {group: 1}",
        "objective: {kind: gan, group: 1}\ntrain: {prompts: 1}",
        "objective: {kind: sft, group: 1}\ntrain: {prompts: 1}",
        "objective: {kind: sft}\ndiscriminator: {skip_frames: 8}",
    ],
)
def test_what_trains_something_passes(start: Path, tmp_path: Path, text: str) -> None:
    assert checked(start, text, tmp_path) == []


def test_a_verdict_that_is_never_trained_is_said(start: Path, tmp_path: Path) -> None:
    (said,) = checked(start, "discriminator: {warmup: 0, steps: 0}", tmp_path)
    assert "its verdict is noise" in said
    assert checked(start, "objective: {kind: sft}\ndiscriminator: {warmup: 0, steps: 0}", tmp_path) == []


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_run_refuses_before_it_collects(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (tmp_path / "r.yaml").write_text("objective: {shared_blocks: 4}\n")
    places = ["--out", str(tmp_path / "run"), "--clips.store", str(tmp_path / "store"), "--student.start", str(start)]
    assert cli.main(["train", str(tmp_path / "r.yaml"), *places, *options]) == 1
    assert "nothing is trained" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


ABSURD = [
    ("seed", 2**64),
    ("seed", 2**63),
    ("clips.seed", 2**64),
    ("prompts.split", 2**64),
    ("train.steps", 10**12),
    ("train.prompts", 10**9),
    ("objective.group", 10**9),
    ("discriminator.width", 10**9),
    ("discriminator.width", 9),
    ("discriminator.size", 10**6),
    ("evaluation.prompts", 10**12),
    ("collection.timeout", 1e300),
    ("collection.poll", 1e300),
    ("collection.per_minute", 1e-300),
    ("objective.temperature", 1e-300),
    ("teacher.fps", 1e-300),
    ("threads", 10**6),
    ("discriminator.rates", [1.0, 0.5]),
    ("discriminator.rates", [0.0, 0.5]),
    ("discriminator.band", [0.9, 0.7]),
    ("discriminator.band", [-1, 2]),
    ("student.size", [10**9, 10**9]),
    ("student.levels", [1.0] * 2000),
]


@pytest.mark.parametrize(("key", "value"), ABSURD)
def test_absurd_values_are_one_line_when_the_recipe_is_read(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "r.yaml", [(key, str(value))])
    assert all(key.rsplit(".", 1)[0] in line for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 300


def test_a_bound_that_is_passed_is_said_though_the_list_of_fields_leaves_it_out(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train: {steps: 1000000000000}\n")
    with pytest.raises(ConfigError, match=r"train.steps is 1000000000000; expected whole number >= 1 and <= 1e\+07"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "..", "a/b", "a\\b", "x" * 65, "start", "teacher", "a\x1b[1m"])
def test_an_arm_has_a_name_that_can_be_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="compare"):
        RunConfig.model_validate({"compare": {name: {"objective": {"kind": "sft"}}}})


@pytest.mark.parametrize("text", ['"a\\0b"', '"a\\ud800b"'])
@pytest.mark.parametrize("key", ["name", "out", "student.start"])
def test_text_that_no_path_can_hold_is_one_line(tmp_path: Path, key: str, text: str) -> None:
    *above, last = key.split(".")
    (tmp_path / "r.yaml").write_text("".join(f"{name}:\n  " for name in above) + f"{last}: {text}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
