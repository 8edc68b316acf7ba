"""What decides the results is what makes another run, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, create_model

from understudy.recipes.config import RunConfig, TrainConfig
from understudy.run.identity import config_hash

KIND = RunConfig().student.kind
FREE: list[dict[str, Any]] = [
    {"name": "another"},
    {"out": "elsewhere"},
    {"threads": 2},
    {"clips": {"store": "moved"}},
    {"train": {"checkpoint_every": 7}},
    {"evaluation": {"shown": 2}},
    {"collection": {"concurrency": 4}},
    {"teacher": {"kind": "world"}},
    {"objective": {"kind": "afd"}},
]
DECIDING: list[dict[str, Any]] = [
    {"seed": 1},
    {"train": {"steps": 7}},
    {"clips": {"per_prompt": 3}},
    {"objective": {"kind": "sft"}},
    {"objective": {"kind": "gan"}},
    {"objective": {"kind": "afd", "beta": 0.4}},
    {"compare": {"x": {"objective": {"kind": "sft"}}}},
    {"compare": {"x": {"objective": {"kind": "gan"}}}},
    {"discriminator": {"kind": "clip_cnn", "width": 32}},
    {"teacher": {"kind": "world", "size": 32}},
    {"evaluation": {"prompts": 3}},
    {"student": {"kind": KIND, "start": "builtin:block"}},
    {"prompts": {"kind": "world", "split": 1}},
]


def hashed(change: dict[str, Any]) -> str:
    return config_hash(RunConfig.model_validate(change))


@pytest.mark.parametrize("change", FREE, ids=str)
def test_what_decides_nothing_makes_no_other_run(change: dict[str, Any]) -> None:
    assert hashed(change) == hashed({})


def test_whatever_decides_makes_another_run() -> None:
    hashes = [hashed(change) for change in ({}, *DECIDING)]
    assert len(set(hashes)) == len(hashes)


def test_a_newer_version_with_one_more_field_goes_on_with_an_older_run() -> None:
    newer = create_model("Newer", __base__=TrainConfig, patience=(int, Field(3, ge=1)))
    config = RunConfig()
    assert config_hash(config.model_copy(update={"train": newer()})) == config_hash(config)
    assert config_hash(config.model_copy(update={"train": newer(patience=4)})) != config_hash(config)


def test_prompts_count_by_what_they_say_not_by_where_they_are(tmp_path: Path) -> None:
    def run(folder: str, *prompts: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "train.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
        (tmp_path / folder / "held.txt").write_text("a dog\n")
        paths = {"train": tmp_path / folder / "train.txt", "held_out": tmp_path / folder / "held.txt"}
        return hashed({"prompts": {"kind": "file", **{name: str(path) for name, path in paths.items()}}})

    assert run("a", "a cat") == run("b", "# a comment", "a   cat")
    assert run("a", "a cat") != run("a", "a cat", "a horse")


def test_a_start_student_counts_by_its_weights(start: Path, tmp_path: Path) -> None:
    first = hashed({"student": {"kind": KIND, "start": str(start)}})
    start.rename(tmp_path / "moved")
    assert hashed({"student": {"kind": KIND, "start": str(tmp_path / "moved")}}) == first
    weights = tmp_path / "moved" / "student.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert hashed({"student": {"kind": KIND, "start": str(tmp_path / "moved")}}) != first
