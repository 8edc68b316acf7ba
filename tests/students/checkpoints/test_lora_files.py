"""LoRA as people have it for Wan: every spelling and setting is merged as peft merges it, or refused by its name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.layout import WanSizes, module_names
from understudy.students.checkpoints.read import Checkpoint
from understudy.students.checkpoints.start import spec_of
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import preset

DATA = Path(__file__).parents[2] / "data"
CASES = DATA / "adapters"
ENDS = ("q", "k", "v", "o")


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    with safe_open(DATA / "kvstep.safetensors", framework="pt") as file:
        told = json.loads(file.metadata()["config"])
        names = [key for key in file.keys() if key.startswith("w.")]  # noqa: SIM118
        tensors = {key.removeprefix("w."): file.get_tensor(key) for key in names}
    sizes = WanSizes(**{name: told[name] for name in ("dim", "ffn_dim", "heads", "layers", "freq_dim", "text_dim")})
    return Checkpoint(tensors, sizes, "original", "", "base.pt")


def change(base: Checkpoint, path: Path, alpha: float | None = None) -> dict[str, Tensor]:
    """What an adapter adds to the weights that it changes."""
    found = with_adapter(base, path, alpha).tensors
    return {name: found[name] - tensor for name, tensor in base.tensors.items() if not torch.equal(found[name], tensor)}


def product(path: Path, layer: str, down: str = "lora_A", up: str = "lora_B") -> Tensor:
    tensors = load_file(path)
    return tensors[f"{layer}.{up}.weight"] @ tensors[f"{layer}.{down}.weight"]


def by_peft(base: Checkpoint, folder: Path) -> dict[str, Tensor]:
    """What peft makes of the same adapter on the same weights."""
    peft = pytest.importorskip("peft")
    spec = replace(spec_of(base.sizes, preset("longlive"), preset("longlive").form, 8), height=4, width=6)
    student = WanStudent(spec)
    student.load_state_dict(base.tensors)
    student.config = {}  # peft looks into it
    return peft.PeftModel.from_pretrained(student, folder).merge_and_unload().state_dict()


def assert_as_peft(base: Checkpoint, folder: Path) -> None:
    found, wanted = with_adapter(base, folder).tensors, by_peft(base, folder)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name].float(), wanted[name], rtol=1e-5, atol=1e-5)
    assert any(not torch.equal(wanted[name], base.tensors[name]) for name in wanted)


def test_rslora_is_as_strong_as_peft_makes_it(base) -> None:
    folder = CASES / "rslora"
    assert_as_peft(base, folder)
    found = change(base, folder)["blocks.0.self_attn.q.weight"]
    wanted = 4.0 * product(folder / "adapter_model.safetensors", "base_model.model.blocks.0.self_attn.q")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    origin = with_adapter(base, folder).origin
    assert origin == "base.pt with rslora, alpha 8 over the root of rank 4, adapts 8 of 20 layers"


def test_kohya_s_alpha_is_the_scale_s_numerator(base) -> None:
    path = CASES / "kohya_alpha2.safetensors"
    found = change(base, path)
    assert len(found) == 8
    wanted = 0.5 * product(path, "lora_unet_blocks_1_self_attn_v", "lora_down", "lora_up")
    torch.testing.assert_close(found["blocks.1.self_attn.v.weight"], wanted, rtol=1e-4, atol=1e-5)
    assert "alpha 2 over rank 4, adapts 8 of 20 layers" in with_adapter(base, path).origin


def test_some_layers_are_counted_and_said(base) -> None:
    path = CASES / "first_block_only.safetensors"
    assert change(base, path).keys() == {f"blocks.0.self_attn.{end}.weight" for end in ENDS}
    assert with_adapter(base, path).origin.endswith("alpha 4 over rank 4, adapts 4 of 20 layers")


def test_diffusers_names(base) -> None:
    path = CASES / "diffusers_names.safetensors"
    found = change(base, path)
    assert found.keys() == {f"blocks.{i}.self_attn.{end}.weight" for i in range(2) for end in ENDS}
    wanted = product(path, "transformer.blocks.1.attn1.to_out.0")
    torch.testing.assert_close(found["blocks.1.self_attn.o.weight"], wanted, rtol=1e-4, atol=1e-5)


def test_dora_is_refused_by_name(base) -> None:
    with pytest.raises(CheckpointError, match=r"use_dora true \(DoRA\)") as caught:
        with_adapter(base, CASES / "dora")
    assert "\n" not in str(caught.value)


@pytest.fixture
def peft_folder(base, tmp_path):
    """Write an adapter of random factors as peft itself saves one with these settings."""

    def write(targets: list[str] | None = None, **settings) -> Path:
        peft = pytest.importorskip("peft")
        spec = replace(spec_of(base.sizes, preset("longlive"), preset("longlive").form, 8), height=4, width=6)
        student = WanStudent(spec)
        student.load_state_dict(base.tensors)
        config = peft.LoraConfig(target_modules=targets or ["self_attn.q", "ffn.0"], **settings)
        student.config = {}  # peft looks into it for a name
        model = peft.get_peft_model(student, config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(tmp_path / "peft")
        return tmp_path / "peft"

    return write


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8},
        {"r": 4, "lora_alpha": 8, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"self_attn.q": 1}},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"ffn.0": 2}},
        {"r": 4, "rank_pattern": {r"blocks\.1\.ffn\.0": 2}, "alpha_pattern": {r"blocks\.1\..*": 3}, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "targets": ["head.head", "time_embedding.0", "cross_attn.o"]},
        {"r": 4, "lora_alpha": 8, "targets": ["patch_embedding", "self_attn.k"]},
    ],
    ids=str,
)
def test_settings_of_peft_act_as_in_peft(base, peft_folder, settings) -> None:
    assert_as_peft(base, peft_folder(**settings))


def test_a_peft_file_given_without_its_folder_keeps_its_settings(base, peft_folder) -> None:
    folder = peft_folder(r=4, lora_alpha=16, use_rslora=True)
    whole, alone = with_adapter(base, folder).tensors, with_adapter(base, folder / "adapter_model.safetensors").tensors
    assert all(torch.equal(whole[name], alone[name]) for name in whole)


def test_alpha_of_a_recipe_has_the_last_word(base) -> None:
    for path, own in ((CASES / "kohya_alpha2.safetensors", 2.0), (CASES / "rslora", 8.0)):
        once, twice = change(base, path), change(base, path, 2 * own)
        torch.testing.assert_close(
            twice["blocks.0.self_attn.q.weight"], 2 * once["blocks.0.self_attn.q.weight"], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, r"use_dora true \(DoRA\)"),
        ({"modules_to_save": ["head"]}, r'modules_to_save \["head"\]'),
        ({"bias": "all"}, "bias 'all'"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"lora_bias": True}, "lora_bias true"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out true"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
        ({"peft_type": "LOHA"}, "of type LOHA"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow 3"),
        ({"r": 8}, "says rank 8 for 'blocks.0.self_attn"),
        ({"r": "four"}, "r 'four', which is no number"),
        ({"rank_pattern": {"(": 2}}, "is no pattern"),
    ],
    ids=str,
)
def test_what_is_not_implemented_is_refused_by_name(base, tmp_path, settings, words) -> None:
    shutil.copytree(CASES / "rslora", tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(CheckpointError, match=words) as caught:
        with_adapter(base, tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_damaged_settings_are_one_line(base, tmp_path, text) -> None:
    shutil.copytree(CASES / "rslora", tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config|settings") as caught:
        with_adapter(base, tmp_path / "a")
    assert "\n" not in str(caught.value)


def spelled(how: str) -> dict[str, Tensor]:
    """The same adapter of rank 4, alpha 4, under another spelling of its names."""
    names = module_names(2)
    found = {}
    for key, tensor in load_file(CASES / "diffusers_names.safetensors").items():
        layer, half, _ = key.removeprefix("transformer.").rsplit(".", 2)
        original = next(name for name, theirs in names.items() if theirs == layer)
        side = {"lora_A": "down", "lora_B": "up"}[half]
        found[
            {
                "peft": f"base_model.model.{original}.{half}.weight",
                "named": f"{original}.{half}.default.weight",
                "comfy": f"diffusion_model.{original}.{half}.weight",
                "comfy_down": f"diffusion_model.{original}.lora_{side}.weight",
                "kohya": f"lora_unet_{original.replace('.', '_')}.lora_{side}.weight",
                "kohya_diffusers": f"lora_transformer_{layer.replace('.', '_')}.lora_{side}.weight",
                "old_diffusers": f"transformer.{layer}.lora.{side}.weight",
                "wrapped": f"model._fsdp_wrapped_module.{original}.{half}.weight",
            }[how]
        ] = tensor
    return found


SPELLINGS = ("peft", "named", "comfy", "comfy_down", "kohya", "kohya_diffusers", "old_diffusers", "wrapped")


@pytest.mark.parametrize("how", SPELLINGS)
def test_every_spelling_is_the_same_adapter(base, tmp_path, assert_same, how) -> None:
    save_file(spelled(how), tmp_path / "a.safetensors")
    wanted = with_adapter(base, CASES / "diffusers_names.safetensors").tensors
    assert_same(with_adapter(base, tmp_path / "a.safetensors").tensors, wanted)
    torch.save(spelled(how), tmp_path / "a.pt")
    assert_same(with_adapter(base, tmp_path / "a.pt").tensors, wanted)


def test_mixed_ranks_have_each_their_own_scale(base, tmp_path) -> None:
    tensors = spelled("comfy_down")
    layer = "diffusion_model.blocks.1.self_attn.q"
    tensors[f"{layer}.lora_down.weight"] = tensors[f"{layer}.lora_down.weight"][:2]
    tensors[f"{layer}.lora_up.weight"] = tensors[f"{layer}.lora_up.weight"][:, :2].contiguous()
    tensors[f"{layer}.alpha"] = torch.tensor([1.0])
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    found = change(base, tmp_path / "a.safetensors")["blocks.1.self_attn.q.weight"]
    wanted = 0.5 * product(tmp_path / "a.safetensors", layer, "lora_down", "lora_up")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert "ranks 2 to 4, scales 0.5 to 1" in with_adapter(base, tmp_path / "a.safetensors").origin


def test_the_settings_that_diffusers_writes_into_the_header_are_used(base, tmp_path) -> None:
    told = {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.use_rslora": True}
    told["transformer.alpha_pattern"] = {"blocks.1.attn1.to_q": 2}
    tensors = load_file(CASES / "diffusers_names.safetensors")
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    plain, found = change(base, CASES / "diffusers_names.safetensors"), change(base, tmp_path / "a.safetensors")
    for name, scale in (("blocks.0.self_attn.q.weight", 4.0), ("blocks.1.self_attn.q.weight", 1.0)):
        torch.testing.assert_close(found[name], scale * plain[name], rtol=1e-3, atol=1e-4)


def test_whole_differences_are_added(base, tmp_path) -> None:
    tensors = spelled("comfy_down")
    generator = torch.Generator().manual_seed(3)
    whole = {
        "diffusion_model.blocks.0.norm3.diff": ("blocks.0.norm3.weight", torch.randn(64, generator=generator)),
        "diffusion_model.blocks.0.ffn.0.diff_b": ("blocks.0.ffn.0.bias", torch.randn(128, generator=generator)),
    }
    whole = {key: (name, value[: base.tensors[name].shape[0]]) for key, (name, value) in whole.items()}
    save_file({**tensors, **{key: value for key, (_, value) in whole.items()}}, tmp_path / "a.safetensors")
    found = change(base, tmp_path / "a.safetensors")
    for name, value in whole.values():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("diffusion_model.blocks.0.self_attn.q.dora_scale", "DoRA"),
        ("base_model.model.blocks.0.self_attn.q.lora_magnitude_vector", "DoRA"),
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "LoHa"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w1", "LoKr"),
        ("lora_unet_blocks_0_self_attn_q.lora_mid.weight", "middle factor"),
        ("base_model.model.head.head.modules_to_save.weight", "modules_to_save"),
        ("base_model.model.blocks.0.self_attn.q.lora_B.bias", "lora_bias"),
        ("lora_te_text_model_encoder_layers_0.lora_down.weight", "text encoder"),
        (
            "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight",
            r"adapts 'diffusion_model.blocks.0.cross_attn.k_img'",
        ),
        ("diffusion_model.blocks.7.self_attn.q.lora_A.weight", "which the checkpoint does not have"),
        ("diffusion_model.blocks.0.self_attn.qkv.lora_A.weight", r"self_attn\.qkv"),
        ("diffusion_model.blocks.0.diff_m", "'diffusion_model.blocks.0.diff_m', which is no half"),
        ("diffusion_model.blocks.0.ffn.0.alpha", "holds an alpha of .* and no factors"),
        ("head.bias", "'head.bias', which is no half"),
    ],
)
def test_what_is_left_over_is_named(base, tmp_path, key, words) -> None:
    save_file(
        {**spelled("comfy"), key: torch.zeros(1)[0] if key.endswith("alpha") else torch.zeros(4, 64)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(CheckpointError, match=words) as caught:
        with_adapter(base, tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_two_adapters_in_one_file_are_refused(base, tmp_path) -> None:
    save_file({**spelled("comfy"), **spelled("kohya")}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="twice: two adapters in one file"):
        with_adapter(base, tmp_path / "a.safetensors")


def test_an_adapter_of_another_size_is_one_line(base, tmp_path) -> None:
    tensors = spelled("comfy")
    wide = {key: torch.zeros(4, 80) if "lora_A" in key else torch.zeros(80, 4) for key in tensors}
    save_file(wide, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"has shape \[4, 80\], expected \[4, 64\]"):
        with_adapter(base, tmp_path / "a.safetensors")


def test_shapes_alone_stay_shapes(base) -> None:
    shapes = replace(base, tensors={name: tensor.to("meta") for name, tensor in base.tensors.items()})
    found = with_adapter(shapes, CASES / "kohya_alpha2.safetensors")
    assert {tensor.device.type for tensor in found.tensors.values()} == {"meta"}
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in base.tensors.items()
    }
