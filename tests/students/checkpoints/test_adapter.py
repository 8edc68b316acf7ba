"""LongLive's LoRA file merged into its base, and what peft itself makes of the same adapter."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from understudy.cli import main
from understudy.errors import CheckpointError
from understudy.recipes.config import LoraConfig
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.layout import module_names
from understudy.students.checkpoints.read import Checkpoint, read_checkpoint
from understudy.students.checkpoints.start import spec_of
from understudy.students.checkpoints.write import write_self_forcing
from understudy.students.lora import adapted, merged, save_adapter
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import preset

RANK = 4


@pytest.fixture
def base(recorded) -> Checkpoint:
    return Checkpoint(dict(recorded.original), recorded.sizes, "original", "generator", "base.pt")


@pytest.fixture
def halves(recorded) -> dict[str, Tensor]:
    """An adapter of all linear layers of the blocks under the names that LongLive's trainer gives it."""
    generator, found = torch.Generator().manual_seed(4), {}
    for name in module_names(recorded.sizes.layers):
        weight = recorded.original.get(f"{name}.weight")
        if name.startswith("blocks.") and weight is not None and weight.ndim == 2:
            found[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
            found[f"base_model.model.{name}.lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator)
    assert len(found) == 2 * 10 * recorded.sizes.layers
    return found


@pytest.fixture
def saved(halves, tmp_path: Path) -> Callable[..., Path]:
    def save(content: object = None) -> Path:
        path = tmp_path / "lora.pt"
        torch.save({"generator_lora": halves, "critic_lora": {}, "step": 3} if content is None else content, path)
        return path

    return save


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_merged_is_base_plus_scaled_product(base, halves, saved, alpha) -> None:
    found = with_adapter(base, saved(), alpha)
    assert found.tensors.keys() == base.tensors.keys()
    assert found.origin == f"base.pt with lora.pt, alpha {2 if alpha else 4} over rank 4"
    for name, weight in base.tensors.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A.weight" in halves:
            change = halves[f"{layer}.lora_B.weight"] @ halves[f"{layer}.lora_A.weight"]
            assert torch.allclose(found.tensors[name], weight + change * (0.5 if alpha else 1), atol=1e-6)
        else:
            assert torch.equal(found.tensors[name], weight)


@pytest.mark.parametrize(
    "form",
    [
        lambda halves: halves,
        lambda halves: {key.replace(".weight", ".default.weight"): value for key, value in halves.items()},
        lambda halves: {
            key.replace("model.blocks", "model._fsdp_wrapped_module.blocks"): v for key, v in halves.items()
        },
        lambda halves: {key.removeprefix("base_model.model."): value for key, value in halves.items()},
    ],
)
def test_bare_and_prefixed_files_are_the_same(base, halves, saved, assert_same, form) -> None:
    whole = with_adapter(base, saved()).tensors
    assert_same(with_adapter(base, saved(form(halves))).tensors, whole)


def test_peft_makes_the_same_student_of_it(base, halves, saved, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    spec = replace(spec_of(base.sizes, preset("longlive"), preset("longlive").form, 8), height=4, width=6)
    plain, theirs = WanStudent(spec).eval(), WanStudent(spec).eval()
    theirs.load_state_dict(base.tensors)
    plain.load_state_dict(with_adapter(base, saved()).tensors)
    targets = sorted({key.removeprefix("base_model.model.").rsplit(".", 2)[0] for key in halves})
    model = peft.get_peft_model(theirs, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    peft.set_peft_model_state_dict(model, halves)
    shape = (1, 3, base.sizes.in_channels, 4, 6)
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.full((1, 3), 0.5)
    with torch.no_grad():
        context = torch.randn(1, 5, base.sizes.text_dim, generator=torch.Generator().manual_seed(2))
        wanted = theirs.velocity(x, t, theirs.text(context), theirs.empty_cache())
        found = plain.velocity(x, t, plain.text(context), plain.empty_cache())
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(halves, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2 * RANK}))
    twice = with_adapter(base, folder).tensors["blocks.0.ffn.0.weight"] - base.tensors["blocks.0.ffn.0.weight"]
    once = with_adapter(base, saved()).tensors["blocks.0.ffn.0.weight"] - base.tensors["blocks.0.ffn.0.weight"]
    assert torch.allclose(twice, 2 * once, atol=1e-5)


FIRST = "base_model.model.blocks.0.cross_attn.k.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.pop(FIRST), "1 of 40 tensors missing, 0 unexpected, first missing 'blocks.0.cross_attn.k.lora_A'"),
        (lambda h: h.update({FIRST: h[FIRST][:, :-1]}), r"blocks.0.cross_attn.k.lora_A"),
        (
            lambda h: h.update({"base_model.model.head.head.lora_A.weight": h[FIRST]}),
            "first unexpected 'head.head.lora_A'",
        ),
        (lambda h: h.update({"base_model.model.head.bias": torch.zeros(3)}), "is no half of a LoRA adapter"),
        (lambda h: h.clear(), "holds no LoRA adapter"),
        (lambda h: h.update({FIRST: h[FIRST] * float("nan")}), "finite"),
    ],
)
def test_what_does_not_fit_is_one_line(base, halves, saved, change, words) -> None:
    change(halves)
    with pytest.raises(CheckpointError, match=words) as caught:
        with_adapter(base, saved())
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_code_is_refused(base, saved) -> None:
    with pytest.raises(CheckpointError, match="could execute code: refused"):
        with_adapter(base, saved({"generator_lora": Path("x")}))


def test_export_merges_it(base, saved, tmp_path, capsys) -> None:
    write_self_forcing(base.tensors, base.sizes, tmp_path / "base.pt")
    arguments = [str(tmp_path / "base.pt"), str(tmp_path / "out.pt"), "--to", "selfforcing", "--heads", "2"]
    assert main(["export", *arguments, "--adapter", str(saved())]) == 0
    assert "lora.pt, alpha 4 over rank 4" in capsys.readouterr().out
    found = read_checkpoint(tmp_path / "out.pt", heads=2).tensors
    assert torch.equal(found["blocks.0.ffn.0.weight"], with_adapter(base, saved()).tensors["blocks.0.ffn.0.weight"])


def test_an_adapter_trained_here_is_merged_as_it_was_trained(base, tmp_path) -> None:
    pytest.importorskip("peft")
    spec = replace(spec_of(base.sizes, preset("longlive"), preset("longlive").form, 8), height=4, width=6)
    student = WanStudent(spec)
    student.load_state_dict(base.tensors)
    policy = adapted(student, LoraConfig(rank=RANK, alpha=2 * RANK), 0)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_adapter(policy, tmp_path / "adapter", "base.pt")
    found, wanted = with_adapter(base, tmp_path / "adapter").tensors, merged(policy).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
