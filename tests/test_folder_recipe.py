"""A folder of mp4 files with a CSV of prompts trains by changing two lines of the quickstart recipe."""

from pathlib import Path

import pytest
import yaml

from understudy.cli import main
from understudy.recipes import shipped
from understudy.recipes.files import load_recipe
from understudy.teachers.base import ClipParams
from understudy.teachers.world.teacher import WorldTeacher

RECIPES = shipped.FOLDER
SMALL = [
    "--discriminator.warmup=2",
    "--discriminator.pool=4",
    "--discriminator.width=16",
    "--objective.group=2",
    "--train.steps=2",
    "--train.prompts=2",
    "--evaluation.prompts=1",
    "--evaluation.rollouts=2",
    "--evaluation.reference=2",
    "--evaluation.floor=2",
]


def test_the_recipe_changes_teacher_and_prompts_and_where_things_go() -> None:
    own = yaml.safe_load((RECIPES / "folder.yaml").read_text(encoding="utf-8"))
    assert own.pop("base") == "quickstart.yaml"
    assert own.keys() == {"name", "out", "clips", "teacher", "prompts"}
    assert own["clips"].keys() == {"store"}
    folder, quick = (load_recipe(RECIPES / name, ()) for name in ("folder.yaml", "quickstart.yaml"))
    changed = {name for name in type(quick).model_fields if getattr(folder, name) != getattr(quick, name)}
    assert changed == own.keys()


@pytest.mark.slow
def test_afd_trains_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = tmp_path / "my-clips"
    clips.mkdir()
    prompts = [f"a small {colour} ball is dropped" for colour in ("red", "blue", "green", "yellow")]
    rows = []
    for i, prompt in enumerate(prompts):
        for take in range(2):
            (clips / f"{i}-{take}.mp4").write_bytes(WorldTeacher().generate(prompt, take, ClipParams()))
            rows.append(f"{i}-{take}.mp4,{prompt}")
    (clips / "prompts.csv").write_text("\n".join(["file,prompt", *rows]) + "\n", encoding="utf-8")
    (clips / "train.txt").write_text("\n".join([*prompts[:3], prompts[0]]) + "\n", encoding="utf-8")
    (clips / "held_out.txt").write_text(prompts[3] + "\n", encoding="utf-8")
    recipe = (RECIPES / "quickstart.yaml").read_text(encoding="utf-8").partition("compare:")[0]
    recipe += "teacher: {kind: folder, path: my-clips}\n"
    recipe += "prompts: {kind: file, train: my-clips/train.txt, held_out: my-clips/held_out.txt}\n"
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mine.yaml", *SMALL]) == 0
    assert (tmp_path / "runs" / "quickstart" / "student" / "student.safetensors").is_file()
    records = (tmp_path / "runs" / "store" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(records) == 6  # three prompts, a repeated one counted once, two takes each
