"""The Wan autoencoder as Wan, Self-Forcing and ComfyUI have it: one file, without settings, under Wan's own names."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from understudy.codecs.wan import WanCodec, check_vae, load_wan_codec
from understudy.codecs.wan_files import _WAN22, diffusers_name, find_vae
from understudy.errors import CheckpointError
from understudy.students.bundle import Bundle, ClipForm, load_bundle, save_bundle

diffusers = pytest.importorskip("diffusers")

INSIDE = {"norm1.gamma": "0.gamma", "conv1": "2", "norm2.gamma": "3.gamma", "conv2": "6"}


def original_name(name: str) -> str:
    """Wan's own name of a weight, written down from its public code."""
    name = re.sub(r"^quant_conv\.", "conv1.", re.sub(r"^post_quant_conv\.", "conv2.", name))
    name = name.replace("conv_in", "conv1").replace("norm_out", "head.0").replace("conv_out", "head.2")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle.1").replace("conv_shortcut", "shortcut")
    if "downsampler." in name or "upsampler." in name or re.search(r"down_blocks\.\d+\.resnets", name):  # Wan 2.2
        last = 2 if "down" in name else 3
        name = re.sub(r"(down|up)sampler\.", rf"resnets.{last}.", name)
    if ".down_blocks." in name and ".resnets." in name:
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"downsamples.\1.downsamples.\2", name)
    return (
        re.sub(r"\.(norm1\.gamma|norm2\.gamma|conv[12])(?=\.|$)", lambda m: f".residual.{INSIDE[m[1]]}", name)
        if ("middle." in name or "samples." in name or "_blocks." in name)
        else name
    )


def originals(vae, nested: bool) -> dict[str, Tensor]:
    found = {}
    for name, tensor in vae.state_dict().items():
        new = original_name(name)
        if nested:
            new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", r"upsamples.\1.upsamples.\2", new)
        else:
            new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", new)
            new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", new)
            new = new.replace("down_blocks.", "downsamples.")
        found[new] = tensor.contiguous()
    return found


def make(residual: bool):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extra = {"z_dim": 48, "decoder_base_dim": 8, **_WAN22} if residual else {}
        return diffusers.AutoencoderKLWan(base_dim=4, **extra).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["2.1", "2.2"])
def vae(request: pytest.FixtureRequest):
    made = make(request.param)
    return made, originals(made, request.param)


def test_the_names_are_those_that_diffusers_own_converter_gives() -> None:
    module = pytest.importorskip("diffusers.loaders.single_file_utils")
    made = make(False)
    ours = {name: diffusers_name(name) for name in originals(made, False)}
    theirs = module.convert_wan_vae_to_diffusers({name: name for name in ours})
    assert ours == {old: new for new, old in theirs.items()}
    assert set(ours.values()) == made.state_dict().keys()
    assert len(ours) == 194


@pytest.mark.parametrize("form", ["file", "folder", "safetensors", "all in one", "nested"])
def test_an_original_file_decodes_as_diffusers_does(vae, tmp_path: Path, form: str) -> None:
    made, tensors = vae
    path = tmp_path / "Wan2.1_VAE.pth"
    if form == "safetensors":
        path = tmp_path / "wan_2.1_vae.safetensors"
        save_file(tensors, path)
    elif form == "all in one":
        path = tmp_path / "all.safetensors"
        other = {"model.diffusion_model.head.head.bias": torch.zeros(2)}
        save_file({**{f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}, **other}, path)
    else:
        torch.save({"state_dict": tensors} if form == "nested" else tensors, path)
    if form == "folder":  # as `huggingface-cli download Wan-AI/Wan2.1-T2V-1.3B` leaves it
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel", "dim": 1536}))
        torch.save({}, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
        path = tmp_path
    codec, reference = load_wan_codec(path), WanCodec(made)
    assert codec.stride == find_vae(path).stride == check_vae(path).stride == (16 if len(tensors) == 196 else 8)
    z = torch.randn(1, 3, find_vae(path).channels, 2, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(codec.decode(z), reference.decode(z))
    frames = torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(codec.encode(frames), reference.encode(frames))
    assert load_wan_codec(path, "bfloat16").vae.dtype == torch.bfloat16


def test_a_bundle_finds_its_original_file_again(tmp_path: Path, make_student) -> None:
    made = make(False)
    torch.save(originals(made, False), tmp_path / "Wan2.1_VAE.pth")
    form = ClipForm(32, 32, 16.0, 21)
    codec = load_wan_codec(tmp_path / "Wan2.1_VAE.pth", tile=64)
    save_bundle(Bundle(make_student(), codec, (1.0, 0.5), form, "test"), tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").codec.config() == codec.config()


@pytest.mark.parametrize("check", [load_wan_codec, check_vae])
def test_what_does_not_fit_is_one_line(tmp_path: Path, check) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            check(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is missing" in refused(tmp_path / "none.pth")
    assert "holds no Wan autoencoder" in refused(tmp_path)
    tensors = originals(make(False), False)
    path = tmp_path / "Wan2.1_VAE.pth"
    torch.save({name: tensor for name, tensor in tensors.items() if name != "conv2.bias"}, path)
    assert "1 missing and 0 unexpected tensors, first missing 'post_quant_conv.bias'" in refused(path)
    torch.save({**tensors, "conv1.bias": torch.zeros(3)}, path)
    assert "'quant_conv.bias' has shape [3], expected [32]" in refused(path)
    torch.save({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, path)
    assert "holds no Wan autoencoder: 1 tensors" in refused(path)
    torch.save({name: tensor[:4] if name.startswith("conv2.") else tensor for name, tensor in tensors.items()}, path)
    assert "latents of 4 channels: mean and deviation are known for 16" in refused(path)
    path.write_bytes(b"GGUF" + bytes(40))
    assert "is a GGUF file" in refused(path)
    path.write_bytes(b"damaged")
    assert "damaged" in refused(path)
    torch.save(tensors, tmp_path / "Wan2.2_VAE.pth")
    assert "several autoencoders (Wan2.1_VAE.pth, Wan2.2_VAE.pth)" in refused(tmp_path)


def test_headers_of_a_diffusers_folder_are_held_to_its_config(tmp_path: Path) -> None:
    make(False).save_pretrained(tmp_path / "vae")
    assert check_vae(tmp_path).channels == 16
    file = next((tmp_path / "vae").glob("*.safetensors"))
    from safetensors.torch import load_file

    tensors = load_file(file)
    del tensors["quant_conv.bias"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"first missing 'quant_conv\.bias'"):
        check_vae(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        check_vae(tmp_path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = originals(make(False), False)
    torch.save({**tensors, "conv1.bias": torch.full((32,), torch.nan)}, tmp_path / "Wan2.1_VAE.pth")
    with pytest.raises(CheckpointError, match=r"not finite in 'quant_conv\.bias'"):
        load_wan_codec(tmp_path)
