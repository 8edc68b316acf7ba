"""The prompts of a run: those for evaluation are never trained on."""

from pathlib import Path

import pytest

from understudy.errors import ConfigError
from understudy.recipes.config import RunConfig
from understudy.run.prompts import held_out_prompts, training_prompts


def config(tmp_path: Path, train: list[str], held_out: list[str]) -> RunConfig:
    for name, prompts in (("train", train), ("held_out", held_out)):
        (tmp_path / f"{name}.txt").write_text("\n".join(prompts))
    files = {"kind": "file", "train": tmp_path / "train.txt", "held_out": tmp_path / "held_out.txt"}
    return RunConfig.model_validate({"prompts": files})


def test_a_held_out_prompt_that_is_trained_on_is_refused_however_it_is_spelt(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"held-out prompt 'a red ball' is also a training prompt") as caught:
        held_out_prompts(config(tmp_path, ["a blue ball", "a red  ball"], ["a cat", " a red ball"]))
    assert "\n" not in str(caught.value)


def test_prompts_of_two_files_stay_apart(tmp_path: Path) -> None:
    found = config(tmp_path, ["a", "b"], ["c", "d"])
    assert (training_prompts(found), held_out_prompts(found)) == (["a", "b"], ["c", "d"])


def test_scenes_of_the_world_are_on_one_side_only() -> None:
    found = RunConfig()
    training, held_out = training_prompts(found), held_out_prompts(found)
    assert training
    assert held_out
    assert not set(training) & set(held_out)
