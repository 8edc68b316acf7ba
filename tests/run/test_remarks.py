"""What is left out of prompts and folders, and what is cut, is said by every verb that uses them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.cli import main
from understudy.doctor import diagnose
from understudy.recipes.files import load_recipe
from understudy.run import draw as drawing
from understudy.run import main as whole
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.remarks import cut_notes, intake_notes
from understudy.run.start import load_start
from understudy.students.text import Tokenizer, cut_note, cut_prompts
from understudy.students.wan.text import TextSource
from understudy.video.clips import Clip

LONG = "a small red ball is dropped " * 4


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("0", "1", "odd"):
        (clips / f"{name}.mp4").write_bytes(b"x")
    (clips / "0.txt").write_text(LONG)
    (clips / "1.txt").write_text("a small blue ball is dropped")
    (tmp_path / "train.txt").write_text(f"# mine\n{LONG}\n")
    (tmp_path / "held_out.txt").write_text("a small blue ball is dropped\n")
    (tmp_path / "mine.yaml").write_text(
        f"teacher: {{kind: folder, path: {clips}}}\nout: {tmp_path / 'run'}\nclips: {{store: {tmp_path / 'store'}}}\n"
        f"prompts: {{kind: file, train: {tmp_path / 'train.txt'}, held_out: {tmp_path / 'held_out.txt'}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.yaml"


def test_an_encoder_says_what_it_cuts() -> None:
    words = Tokenizer(("a", "ball"), 3)
    assert cut_prompts(words, ["a b c", "a b c d", "a b c d e"]) == ([(5, "a b c d e"), (4, "a b c d")], 3)
    note = cut_note(words, ["a b c", "a b c d", "a b c d e"])
    assert note is not None
    assert note.startswith("2 of 3 prompts are longer than the 3 tokens that the student reads")
    assert note.endswith("the longest has 5: 'a b c d e'")
    assert cut_note(words, ["a b c"]) is None
    assert cut_note(lambda prompts: torch.zeros(1, 2, 3), ["a " * 999]) is None
    wan = TextSource("words", 8, 4)
    assert cut_prompts(wan, ["a b c d e"]) == ([(5, "a b c d e")], 4)
    wan.use(lambda prompts: torch.zeros(len(prompts), 4, 8))
    assert cut_prompts(wan, ["a b c d e"]) == ([], 0)


def test_the_quickstart_has_nothing_to_say() -> None:
    config = load_recipe("quickstart")
    prompts = training_prompts(config), held_out_prompts(config)
    assert intake_notes(config) == cut_notes(load_start(config).student.text_encoder, *prompts) == []


def said(text: str) -> list[bool]:
    return [
        "left out 1 (odd.mp4)" in text,
        "1 lines are comments" in text,
        "1 of 1 prompts are longer than the 16" in text,
    ]


def test_dry_run_and_doctor_say_it(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--dry-run"]) == 0
    assert said(capsys.readouterr().out) == [True] * 3
    findings = {finding.what: str(finding) for finding in diagnose(str(recipe))}
    text = "\n".join(str(finding) for finding in diagnose(str(recipe)))
    assert said(text) == [True] * 3
    assert "2 prompts from texts beside clips" in findings["clip folder"]


def test_train_notes_it(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole, "training_clips", stop)
    assert main(["train", str(recipe)]) == 130
    assert said(" ".join(capsys.readouterr().err.split())) == [True] * 3
    assert said((recipe.parent / "run" / "progress.json").read_text()) == [True] * 3


def test_collect_says_what_it_leaves_out(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["collect", str(recipe)])
    assert said(capsys.readouterr().out)[:2] == [True, True]


@pytest.mark.parametrize("how", ["prompt", "switch", "file"])
def test_generate_says_what_it_cuts(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(*_: Sequence[object]) -> Clip:
        return Clip(np.zeros((2, 8, 8, 3), np.uint8), 8)

    monkeypatch.setattr(drawing, "draw_long_clip", draw)
    (tmp_path / "p.txt").write_text(f"#\n{LONG}\n")
    how_to = {
        "prompt": [LONG],
        "switch": ["a ball", "--switch", f"1s:{LONG}"],
        "file": ["--prompts", str(tmp_path / "p.txt")],
    }
    assert main(["generate", "builtin:frame", *how_to[how], "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "prompts are longer than the 16 tokens" in err
    assert ("1 lines are comments" in err) == (how == "file")


def test_a_prompt_with_control_characters_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "builtin:frame", "a \x1b[31mball"]) == 1
    assert capsys.readouterr().err == "error: a prompt holds the control character U+001B; remove it\n"
