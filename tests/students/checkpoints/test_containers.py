"""Files as people have them: eight-bit weights, all-in-one checkpoints, GGUF, distributed folders, unknown top keys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from understudy.cli import main
from understudy.errors import CheckpointError
from understudy.students.checkpoints.layout import WanSizes, shapes
from understudy.students.checkpoints.read import names_public_checkpoint, read_checkpoint

FP8 = torch.float8_e4m3fn


def refused(path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, heads=2, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def linear(tensors) -> list[str]:
    return [name for name in tensors if name.endswith(".weight") and tensors[name].ndim == 2 and "blocks" in name]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_float8_weights_are_their_values(recorded, tmp_path, dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in recorded.original.items()}
    save_file(stored, tmp_path / "wan_fp8.safetensors")
    found = read_checkpoint(tmp_path / "wan_fp8.safetensors", heads=2)
    assert all(torch.equal(found.tensors[name].float(), stored[name].float()) for name in stored)
    assert f"{len(stored)} tensors brought back from {str(dtype).removeprefix('torch.')}" in found.origin


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("rows", ["", "1", "row", "column"])
@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale"])
def test_scaled_float8_weights_are_multiplied_by_their_scale(recorded, tmp_path, spelling, rows, prefix) -> None:
    stored, wanted = dict(recorded.original), dict(recorded.original)
    for name in linear(recorded.original):
        weight = recorded.original[name]
        scale = weight.abs().amax(dim=1) / 448 if rows in ("row", "column") else weight.abs().max() / 448
        wide = scale[:, None] if scale.ndim else scale
        stored[name] = (weight / wide).to(FP8)
        wanted[name] = stored[name].float() * wide
        shape = {"": (), "1": (1,), "row": (-1,), "column": (-1, 1)}[rows]
        stored[f"{name.removesuffix('.weight')}.{spelling}"] = scale.reshape(shape)
        stored[f"{name.removesuffix('.weight')}.{'scale_input' if spelling == 'scale_weight' else 'input_scale'}"] = (
            torch.ones(1)
        )
    if spelling == "scale_weight":
        stored["scaled_fp8"] = torch.zeros(2, dtype=FP8)
    save_file({prefix + name: tensor.contiguous() for name, tensor in stored.items()}, tmp_path / "fp8.safetensors")
    found = read_checkpoint(tmp_path / "fp8.safetensors", heads=2)
    assert found.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-6, atol=0)
    assert "20 tensors brought back from float8_e4m3fn" in found.origin
    again = read_checkpoint(tmp_path / "fp8.safetensors", heads=2, headers=True)
    assert {name: tuple(t.shape) for name, t in again.tensors.items()} == shapes(recorded.sizes)


def note(**told) -> torch.Tensor:
    return torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


Q = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({f"{Q}.weight_scale_inv": torch.ones(1, 1)}, "block-wise float8"),
        ({f"{Q}.weight_scale": torch.ones(2, 2)}, r"shape \[2, 2\] for a weight of shape \[64, 64\]"),
        ({f"{Q}.weight_scale": torch.ones(64, 4, dtype=torch.uint8)}, "uint8"),
        ({f"{Q}.weight_scale": torch.ones(4, 4).to(FP8), f"{Q}.weight_scale_2": torch.ones(1)}, "NVFP4"),
        ({f"{Q}.comfy_quant": note(format="nvfp4"), f"{Q}.weight_scale": torch.ones(1)}, "quantised as nvfp4"),
        ({f"{Q}.comfy_quant": note(format="int8_tensorwise", convrot=True)}, "int8_tensorwise with rotation"),
        ({f"{Q}.comfy_quant": torch.zeros(3, dtype=torch.uint8)}, "does not say how"),
        ({f"{Q}.weight": torch.zeros(64, 32, dtype=torch.uint8)}, "in uint8, packed or quantised"),
        ({f"{Q}.absmax": torch.ones(3)}, "bitsandbytes"),
        (
            {"blocks.0.nothing.scale_weight": torch.ones(1)},
            "scale 'blocks.0.nothing.scale_weight' of a weight that is not",
        ),
    ],
)
@pytest.mark.parametrize("headers", [False, True])
def test_other_quantised_formats_are_named(recorded, tmp_path, more, words, headers) -> None:
    save_file({**recorded.original, **more}, tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(tmp_path / "q.safetensors", heads=2, headers=headers)
    assert "\n" not in str(caught.value)


def test_comfyui_s_note_on_a_plain_format_is_read(recorded, tmp_path) -> None:
    q = {f"{Q}.weight": recorded.original[f"{Q}.weight"].to(FP8), f"{Q}.weight_scale": torch.tensor(0.5)}
    save_file({**recorded.original, **q, f"{Q}.comfy_quant": note(format="float8_e4m3fn")}, tmp_path / "q.safetensors")
    found = read_checkpoint(tmp_path / "q.safetensors", heads=2).tensors[f"{Q}.weight"]
    assert torch.equal(found, q[f"{Q}.weight"].float() * 0.5)


def test_values_that_are_not_finite_are_refused_in_float8_too(recorded, tmp_path) -> None:
    stored = {name: tensor.to(torch.float8_e5m2) for name, tensor in recorded.original.items()}
    stored["head.head.bias"] = torch.full((64,), torch.inf).to(torch.float8_e5m2)
    save_file(stored, tmp_path / "m.safetensors")
    assert "not finite in 'head.head.bias'" in refused(tmp_path / "m.safetensors")


def test_an_all_in_one_checkpoint_gives_its_transformer(recorded, tmp_path, assert_same) -> None:
    inside = {f"model.diffusion_model.{name}": tensor for name, tensor in recorded.original.items()}
    beside = {
        "first_stage_model.conv1.weight": torch.zeros(2),
        "vae.conv1.weight": torch.zeros(2),
        "cond_stage_model.umt5xxl.transformer.shared.weight": torch.zeros(2),
        "text_encoders.umt5xxl.transformer.shared.weight": torch.zeros(2),
        "text_encoders.umt5xxl.logit_scale": torch.zeros(1, dtype=torch.int64),
    }
    save_file({**inside, **beside}, tmp_path / "all.safetensors")
    found = read_checkpoint(tmp_path / "all.safetensors", heads=2)
    assert_same(found.tensors, recorded.original)
    assert f"{len(inside)} of {len(inside) + 5} tensors, those of model.diffusion_model" in found.origin
    save_file({**inside, "model.something.else": torch.zeros(2)}, tmp_path / "odd.safetensors")
    assert "first unexpected 'something.else'" in refused(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("name", ["wan-Q4_K_M.gguf", "wan.safetensors", "wan.pt"])
def test_gguf_is_named_as_what_it_is(tmp_path, name, capsys) -> None:
    (tmp_path / name).write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    assert "is a GGUF file" in refused(tmp_path / name)
    assert main(["export", str(tmp_path / name), str(tmp_path / "out"), "--to", "diffusers"]) == 1
    error = capsys.readouterr().err
    assert "GGUF" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("inside", ["", "model"])
def test_a_distributed_folder_gets_the_command_that_converts_it(
    recorded, tmp_path, assert_same, capsys, inside
) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "step600"
    dcp.save({"generator": dict(recorded.original)}, checkpoint_id=folder / inside, no_dist=True)
    assert names_public_checkpoint(str(folder))
    message = refused(folder)
    assert main(["export", str(folder), str(tmp_path / "out"), "--to", "diffusers"]) == 1
    assert "dcp_to_torch" in capsys.readouterr().err
    command = message.partition("python ")[2].split()
    subprocess.run([sys.executable, *command[:-1], str(tmp_path / command[-1])], check=True, capture_output=True)
    assert_same(read_checkpoint(tmp_path / command[-1], heads=2).tensors, recorded.original)


def test_an_unknown_top_key_that_holds_a_student_names_the_option(recorded, tmp_path, assert_same, capsys) -> None:
    torch.save({"student": {f"model.{k}": v for k, v in recorded.original.items()}, "step": 3}, tmp_path / "m.pt")
    message = refused(tmp_path / "m.pt")
    assert (
        "there is one under 'student': name it with student.weights in a recipe, or with export --weights student"
        in message
    )
    assert_same(read_checkpoint(tmp_path / "m.pt", "student", heads=2).tensors, recorded.original)
    arguments = [
        str(tmp_path / "m.pt"),
        str(tmp_path / "out.pt"),
        "--to",
        "selfforcing",
        "--heads",
        "2",
        "--weights",
        "student",
    ]
    assert main(["export", *arguments]) == 0
    torch.save({"net": {"generator": dict(recorded.original)}}, tmp_path / "n.pt")
    assert "there is one under 'net'" in refused(tmp_path / "n.pt")
    assert_same(read_checkpoint(tmp_path / "n.pt", "net", heads=2).tensors, recorded.original)


def test_a_lora_as_student_says_what_it_is(tmp_path) -> None:
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "l.safetensors")
    assert "holds a LoRA adapter only: give its base, and this file as student.adapter" in refused(
        tmp_path / "l.safetensors"
    )


def sparse(path: Path, sizes: WanSizes) -> None:
    """A file of the public names and shapes in bfloat16 whose values take no space: none of them may be read."""
    places, end = {}, 0
    for name, shape in shapes(sizes).items():
        size = 2 * torch.Size(shape).numel()
        places[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(places).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def test_a_file_of_14b_is_looked_at_without_being_read(tmp_path) -> None:
    sizes = WanSizes(dim=5120, ffn_dim=13824, heads=40, layers=40)
    sparse(tmp_path / "wan14b.safetensors", sizes)
    found = read_checkpoint(tmp_path / "wan14b.safetensors", headers=True)
    assert found.sizes == sizes
    assert {tensor.device.type for tensor in found.tensors.values()} == {"meta"}
    assert (tmp_path / "wan14b.safetensors").stat().st_size > 28e9
    assert (tmp_path / "wan14b.safetensors").stat().st_blocks * 512 < 1e6


@pytest.mark.parametrize("what", ["shape", "missing"])
def test_headers_are_held_to_the_same_rules(recorded, tmp_path, what) -> None:
    wrong = dict(recorded.original)
    if what == "shape":
        wrong["blocks.1.norm3.bias"] = torch.zeros(63)
    else:
        del wrong["blocks.1.norm3.bias"]
    save_file(wrong, tmp_path / "m.safetensors")
    assert refused(tmp_path / "m.safetensors", headers=True) == refused(tmp_path / "m.safetensors")


def test_an_original_folder_gives_its_transformer_among_the_other_parts(recorded, tmp_path, assert_same) -> None:
    save_file(dict(recorded.original), tmp_path / "diffusion_pytorch_model.safetensors")
    for name in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        torch.save({"x": torch.zeros(1)}, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 2, "num_layers": 2}))
    found = read_checkpoint(tmp_path)
    assert_same(found.tensors, recorded.original)
    assert "config.json is of a WanModel" in found.bidirectional


@pytest.mark.parametrize(
    ("config", "name", "entry", "said"),
    [
        ({"_class_name": "CausalWanModel", "num_heads": 2, "num_layers": 2}, "x", None, ""),
        (None, "wan2.1_t2v_1.3B_fp16.safetensors", None, "wan2.1_t2v_1.3b"),
        (None, "self_forcing_dmd.pt", "generator_ema", ""),
        (None, "causal_forcing.safetensors", None, ""),
    ],
)
def test_a_bidirectional_checkpoint_is_said_to_be_one(recorded, tmp_path, config, name, entry, said) -> None:
    path = tmp_path / name
    if config is not None:
        path.mkdir()
        save_file(dict(recorded.original), path / "m.safetensors")
        (path / "config.json").write_text(json.dumps(config))
    elif entry is None:
        save_file(dict(recorded.original), path)
    else:
        torch.save({entry: dict(recorded.original)}, path)
    found = read_checkpoint(path, heads=2).bidirectional
    assert said in found.lower()
    assert bool(found) is bool(said)
