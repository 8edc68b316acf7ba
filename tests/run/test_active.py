"""Active collection through the real command: a small run's discriminator decides where a budget goes."""

from collections import Counter
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.collection.collect import CollectReport
from understudy.collection.store import ClipStore
from understudy.errors import CheckpointError, ConfigError
from understudy.recipes.files import load_recipe
from understudy.run import active, clips
from understudy.run.prompts import training_prompts

RECIPE = """
name: mini
prompts: {kind: world, families: [drop], colours: [red, blue], sizes: [small], per_scene: 4, held_out: 0.5}
clips: {store: STORE, per_prompt: 1}
discriminator: {warmup: 2, pool: 8, width: 16}
objective: {kind: KIND, group: 4}
train: {steps: 2, prompts: 2, checkpoint_every: 2}
evaluation: {prompts: 2, rollouts: 2, reference: 2, floor: 2, shown: 1}
out: OUT
"""


def write(tmp_path: Path, kind: str = "afd") -> Path:
    text = RECIPE.replace("STORE", str(tmp_path / "store")).replace("OUT", str(tmp_path / kind)).replace("KIND", kind)
    path = tmp_path / f"{kind}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def takes(store: Path) -> Counter[str]:
    return Counter(record.prompt for record in ClipStore(store))


@pytest.mark.slow
def test_the_budget_goes_to_the_prompts_furthest_from_the_teacher(tmp_path: Path, capsys) -> None:
    recipe, store = write(tmp_path), tmp_path / "store"
    assert main(["train", str(recipe)]) == 0
    before = takes(store)
    assert set(before.values()) == {1}
    ranked = active.ranked_prompts(load_recipe(recipe, ()), tmp_path / "afd", rollouts=2)
    assert sorted(ranked) == sorted(before)
    more = ["collect", str(recipe), "--clips.per-prompt", "3", "--active", str(tmp_path / "afd")]
    assert main([*more, "--budget-clips", str(len(before) + 4)]) == 0
    bought = takes(store) - before
    chosen = active.ranked_prompts(load_recipe(recipe, ()), tmp_path / "afd")  # its prompts have more clips by now
    assert sorted(bought.values()) == [2, 2]
    said = capsys.readouterr().out
    assert all(prompt in said for prompt in bought)
    assert len(chosen) == len(before)


@pytest.mark.slow
def test_active_collection_needs_a_discriminator_and_a_budget(tmp_path: Path, capsys) -> None:
    recipe = write(tmp_path, "sft")
    assert main(["train", str(recipe)]) == 0
    budget = ["--budget-clips", "9"]
    for arguments, words in (
        (["--active", str(tmp_path / "sft"), *budget], "has no discriminator"),
        (["--active", str(tmp_path / "none"), *budget], "holds no finished run"),
        (["--active", str(tmp_path / "sft")], "give --budget or --budget-clips"),
        (["--active", str(tmp_path / "sft"), "--held-out", *budget], "no --held-out"),
    ):
        capsys.readouterr()
        assert main(["collect", str(recipe), *arguments]) == 1
        assert words in capsys.readouterr().err
    config = load_recipe(recipe, [("clips.store", str(tmp_path / "empty"))])
    with pytest.raises((ConfigError, CheckpointError)):
        active.ranked_prompts(config, tmp_path / "sft")


def test_prompts_without_a_clip_come_first_then_the_order_given(tmp_path: Path, monkeypatch) -> None:
    asked: list[str] = []

    def remember(teacher: object, jobs: list, *rest: object) -> CollectReport:
        asked.extend(job.prompt for job in jobs)
        return CollectReport(total=len(jobs))

    monkeypatch.setattr(clips, "collect_jobs", remember)
    config = load_recipe(write(tmp_path), [("clips.per_prompt", "2")])
    prompts = training_prompts(config)
    clips.collect(config, first=prompts[:1:-1])
    assert asked == [*prompts[:2], *prompts[:2], *(prompt for prompt in prompts[:1:-1] for _ in range(2))]
