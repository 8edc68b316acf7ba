"""One student in several formats, through the command line."""

import pytest
from safetensors.torch import load_file

from understudy.cli import main
from understudy.recipes.config import LoraConfig
from understudy.students.bundle import load_bundle, save_bundle
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.checkpoints.write import write_self_forcing
from understudy.students.lora import adapted, save_adapter


def test_a_public_file_becomes_a_diffusers_folder_and_back(recorded, tmp_path, assert_same, capsys) -> None:
    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "in.pt")
    assert main(["export", str(tmp_path / "in.pt"), str(tmp_path / "d"), "--to", "diffusers", "--heads", "2"]) == 0
    assert "in.pt (generator_ema), for diffusers" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "d"), str(tmp_path / "out.pt"), "--to", "selfforcing"]) == 0
    assert_same(read_checkpoint(tmp_path / "out.pt", heads=2).tensors, recorded.original)


def test_a_bundle_is_written_as_itself(start, tmp_path, assert_same) -> None:
    assert main(["export", str(start), str(tmp_path / "out"), "--to", "bundle"]) == 0
    assert_same(load_bundle(tmp_path / "out").student.state_dict(), load_bundle(start).student.state_dict())


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("diffusers", "holds Wan transformers only: export it as bundle"),
        ("selfforcing", "holds Wan transformers only: export it as bundle"),
        ("lora", "has no LoRA adapter: it was trained in full"),
    ],
)
def test_formats_that_cannot_hold_it_say_so(start, tmp_path, capsys, to, says) -> None:
    assert main(["export", str(start), str(tmp_path / "out"), "--to", to]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(start, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert main(["export", str(start), str(tmp_path / "out"), "--to", "bundle"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_a_trained_adapter_is_copied(start, tmp_path, assert_same) -> None:
    pytest.importorskip("peft")
    bundle = load_bundle(start)
    save_bundle(bundle, tmp_path / "run" / "student")
    save_adapter(adapted(bundle.student, LoraConfig(rank=2, alpha=2), 0), tmp_path / "run" / "student" / "adapter", "b")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "lora"]) == 0
    name = "adapter_model.safetensors"
    assert_same(load_file(tmp_path / "out" / name), load_file(tmp_path / "run" / "student" / "adapter" / name))
