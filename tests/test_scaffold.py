"""From a few answers to a recipe that loads, prompts that are split, and steps with sizes, licences, fees, hours, memory."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from understudy.cli import main
from understudy.errors import ConfigError, UnderstudyError
from understudy.recipes.files import load_recipe
from understudy.recipes.shipped import shipped
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.scaffold import STUDENTS, Answers, scaffold


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for i in range(20):
        for take in range(2):
            (tmp_path / "clips" / f"a small ball number {i}-{take}.mp4").write_bytes(b"x")
    (tmp_path / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(30)))
    (tmp_path / "flow.json").write_text("{}")


def test_every_student_builds_on_a_recipe_that_ships() -> None:
    assert {base for base, _ in STUDENTS.values()} <= {item.name for item in shipped() if item.kind == "recipe"}


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize(
    ("teacher", "more"),
    [
        ("world", {}),
        ("clips", {"source": Path("clips")}),
        ("api", {"shape": "fal", "model": "some/model", "prompts": Path("p.txt"), "price": 0.25}),
        ("comfyui", {"source": Path("flow.json"), "prompts": Path("p.txt")}),
        ("diffusers", {"source": Path("pipe"), "prompts": Path("p.txt")}),
    ],
)
def test_every_pair_of_student_and_teacher_gives_a_recipe_that_loads(
    student: Any, teacher: Any, more: dict[str, Any]
) -> None:
    answers = Answers(student, teacher, gpus=0 if student in ("frame", "block") else 1, **more)
    if teacher == "world" and not answers.small:
        with pytest.raises(ConfigError, match="the embedded world teaches the small students"):
            scaffold(Path("mine"), answers)
        return
    lines = scaffold(Path("mine"), answers)
    config, base = load_recipe("mine"), load_recipe(STUDENTS[student][0])
    assert config.name == "mine"
    assert config.out == Path("runs/mine")
    assert config.objective == base.objective
    assert config.train == base.train
    assert config.student.preset == base.student.preset
    assert config.teacher.kind == {"clips": "folder"}.get(teacher, teacher)
    assert (Path("mine") / "STEPS.md").read_text().endswith("\n".join(lines) + "\n")
    assert [int(line.split(".")[0]) for line in lines if line[0].isdigit()] == list(
        range(1, 1 + sum(line[0].isdigit() for line in lines))
    )
    if teacher != "world":
        training, held_out = training_prompts(config), held_out_prompts(config)
        assert len(training) + len(held_out) == (20 if teacher == "clips" else 30)
        assert not set(training) & set(held_out)
    text = "\n".join(lines)
    assert ("hf download" in text) == (not answers.small)
    assert "understudy train mine" in text
    assert ("fees: " in text) == (teacher != "world")


def test_the_steps_of_a_wan_student_say_sizes_licences_fees_hours_and_memory() -> None:
    answers = Answers(
        "selfforcing", "api", prompts=Path("p.txt"), shape="fal", model="m", price=0.5, gpus=2, downloads=Path("w")
    )
    text = "\n".join(scaffold(Path("paid"), answers))
    for words in (
        "pip install 'understudy[wan,api]'",
        "fetch the weights, 38 GB in all",
        "CC BY-NC-SA 4.0 (no commercial use)",
        "hf download gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt --local-dir w",
        "--local-dir w/Wan2.1-T2V-1.3B-Diffusers",
        "the terms of the model behind it apply",
        "27 clips of 27 prompts to train on, up to 12 of 3 others",
        "fees: 19.50 at 0.5 a clip",
        "estimated memory: ",
        "estimated time: ",
        "one of your 2 GPUs is used",
    ):
        assert words in text, words
    config = load_recipe("paid")
    assert config.student.start == "w/checkpoints/self_forcing_dmd.pt"
    assert config.student.codec.path == config.student.text.path == Path("w/Wan2.1-T2V-1.3B-Diffusers")  # type: ignore[union-attr]
    assert config.teacher.price_per_clip == 0.5  # type: ignore[union-attr]


def test_what_is_there_is_not_fetched_again() -> None:
    Path("checkpoints/checkpoints").mkdir(parents=True)
    Path("checkpoints/checkpoints/self_forcing_dmd.pt").write_bytes(b"x")
    text = "\n".join(scaffold(Path("mine"), Answers("selfforcing", "clips", Path("clips"), gpus=1)))
    assert "four steps: 5.7 GB, weights CC BY-NC-SA 4.0 (no commercial use), code Apache-2.0; there already" in text
    assert "fetch the weights, 33 GB in all" in text
    assert load_recipe("mine").clips.per_prompt == 2


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (Answers("frame", "clips"), "needs the folder of clips: give --source PATH"),
        (Answers("frame", "api", prompts=Path("p.txt")), "give --model NAME"),
        (Answers("frame", "diffusers", Path("x")), "give --prompts FILE"),
        (Answers("longlive", "clips", Path("clips")), "needs a GPU of 80 GB"),
        (Answers("frame", "clips", Path("nowhere")), "nowhere does not exist"),
        (Answers("frame", "api", model="m", prompts=Path("one.txt")), r"has 1 prompt\(s\)"),
    ],
)
def test_answers_that_do_not_go_together_write_nothing(answers: Answers, words: str) -> None:
    Path("one.txt").write_text("only one\n")
    with pytest.raises(ConfigError, match=words):
        scaffold(Path("mine"), answers)
    assert not Path("mine").exists()
    assert not list(Path().glob(".tmp-*"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    Path("mine").mkdir()
    (Path("mine") / "recipe.yaml").write_text("name: precious\n")
    with pytest.raises(UnderstudyError, match="exists already"):
        scaffold(Path("mine"), Answers("frame", "world"))
    assert yaml.safe_load((Path("mine") / "recipe.yaml").read_text()) == {"name": "precious"}


def test_the_verb_takes_options_and_asks_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "a", "--student", "frame", "--teacher", "world"]) == 0
    assert "written: a/recipe.yaml; these steps: a/STEPS.md" in capsys.readouterr().out
    assert main(["train", "a", "--dry-run"]) == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(["init", "b", "--student", "frame"]) == 2
    assert capsys.readouterr().err == "error: --teacher is missing, and there is nobody to ask\n"
    answers = iter(["3", "clips", "clips", "1"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert main(["init", "c"]) == 0
    assert load_recipe("c").student.preset == "selfforcing"
    answers = iter(["mochi"])
    assert main(["init", "d"]) == 2
    assert "'mochi' is none of frame, block, selfforcing" in capsys.readouterr().err
    assert main(["init", "d", "--student", "frame", "--teacher", "world", "--price", "-1"]) == 2
