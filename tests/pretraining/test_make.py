from pathlib import Path

import pytest
import torch
import yaml

from understudy.pretraining import make as make_start
from understudy.recipes import shipped
from understudy.students.bundle import load_bundle

TINY = {
    "clips": 4,
    "foreign_clips": 2,
    "size": 16,
    "frames": 4,
    "codec": [{"clips": 4, "steps": 1, "batch": 2, "lr": 1e-3, "square": 4, "jitter": 0.4, "noise": 0.1}],
    "pretrain_steps": [1, 1],
    "pretrain_batch": 2,
    "distil_clips": 4,
    "distil_steps": 1,
    "ode_steps": 2,
}


def recipe(folder: Path, **changes: object) -> str:
    path = folder / "start.yaml"
    path.write_text(yaml.safe_dump({**TINY, "out": str(folder / "start"), **changes}))
    return str(path)


@pytest.mark.slow
def test_every_student_of_the_recipe_is_made_and_loads(tmp_path: Path) -> None:
    assert make_start.main([recipe(tmp_path)]) == 0
    frame, block, base = (load_bundle(tmp_path / "start" / name) for name in ("frame", "block", "base"))
    assert (frame.student.block_frames, block.student.block_frames) == (1, 2)
    assert frame.levels == (1.0, 0.5)
    assert len(base.levels) == 4
    codecs = [bundle.codec.state_dict() for bundle in (frame, block)]
    assert all(torch.equal(codecs[0][key], codecs[1][key]) for key in codecs[0])


@pytest.mark.slow
def test_a_codec_can_be_taken_over(tmp_path: Path) -> None:
    assert make_start.main([recipe(tmp_path, codec_from="builtin:frame", students={"frame": 1})]) == 0
    mine, theirs = (load_bundle(name).codec.state_dict() for name in (tmp_path / "start" / "frame", "builtin:frame"))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_the_shipped_recipe_is_understood() -> None:
    text = (shipped.FOLDER / "start.yaml").read_text()
    config = make_start.StartConfig.model_validate(yaml.safe_load(text))
    assert sum(config.pretrain_steps) > 1000


@pytest.mark.parametrize("args", [[], ["a", "b"], ["missing.yaml"]])
def test_wrong_usage_is_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert make_start.main(args) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_an_unknown_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_start.main([recipe(tmp_path, codecs_from="x")]) == 1
    assert "codecs_from" in capsys.readouterr().err
