"""What comes out works where it is taken: read back by the target's own loader, with an output compared."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from understudy.cli import main
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.recipes.config import LoraConfig
from understudy.students.bundle import Bundle, save_bundle
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.read import Checkpoint, read_checkpoint
from understudy.students.checkpoints.start import spec_of
from understudy.students.checkpoints.write import write_diffusers, write_self_forcing
from understudy.students.lora import adapted, merged, save_adapter
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import preset
from understudy.video.clips import ClipForm

peft = pytest.importorskip("peft")
RANK = 4


def student_of(tensors: Mapping[str, Tensor], sizes) -> WanStudent:
    chosen = preset("longlive")
    student = WanStudent(replace(spec_of(sizes, chosen, chosen.form, 8), height=4, width=6))
    student.load_state_dict(dict(tensors))
    return student.eval()


def trained(base: WanStudent, rank: int, seed: int, targets: tuple[str, ...] | None = None):
    policy = adapted(base, LoraConfig(rank=rank, alpha=2 * rank, targets=targets), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.fixture
def start(recorded, tmp_path: Path) -> Path:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def run(recorded, start: Path, tmp_path: Path):
    """A finished run's folder: a Wan student with its adapter beside it, and the weights that both together are."""

    def make(first: Path | None = None, targets: tuple[str, ...] | None = None) -> tuple[Path, dict[str, Tensor]]:
        base = read_checkpoint(start)
        if first is not None:
            base = with_adapter(base, first)
        policy = trained(student_of(base.tensors, base.sizes), RANK, 1, targets)
        folder, plain = tmp_path / "run" / "student", merged(policy)
        codec = SmallCodec(SmallCodecSpec(channels=16, width=8))
        save_bundle(Bundle(plain, codec, (1.0, 0.5), ClipForm(32, 48, 16.0, 12), "afd of test, seed 0"), folder)
        save_adapter(policy, folder / "adapter", str(start), None if first is None else str(first))
        return tmp_path / "run", plain.state_dict()

    return make


def flow_of(model, recorded) -> Tensor:
    with torch.no_grad():
        return model(recorded.inputs["x"], recorded.inputs["t"], recorded.inputs["context"], return_dict=False)[0]


def distance(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))


@pytest.mark.parametrize("to", ["lora-diffusers", "lora-comfyui"])
@pytest.mark.parametrize("targets", [None, ("self_attn.q", "head.head")], ids=["all", "some"])
def test_diffusers_adapts_every_layer_and_draws_the_merged_student(recorded, run, start, tmp_path, to, targets) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin

    folder, weights = run(targets=targets)
    out = tmp_path / ("lora" if to == "lora-diffusers" else "lora.safetensors")
    assert main(["export", str(folder), str(out), "--to", to]) == 0
    write_diffusers(weights, recorded.sizes, tmp_path / "whole")
    whole = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "whole")
    model = diffusers.WanTransformer3DModel.from_pretrained(start)
    before = flow_of(model, recorded)
    WanLoraLoaderMixin.load_lora_into_transformer(WanLoraLoaderMixin.lora_state_dict(out), model)
    adapted_layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted_layers) == (20 if targets is None else 3)
    wanted = flow_of(whole, recorded)
    assert distance(flow_of(model, recorded), wanted) < 1e-5
    assert distance(before, wanted) > 1e-2


@pytest.mark.parametrize("to", ["lora", "lora-diffusers", "lora-comfyui"])
def test_every_adapter_format_is_read_back_here(run, start, tmp_path, to) -> None:
    folder, weights = run()
    out = tmp_path / ("out.safetensors" if to == "lora-comfyui" else "out")
    assert main(["export", str(folder), str(out), "--to", to]) == 0
    source = out / "pytorch_lora_weights.safetensors" if to == "lora-diffusers" else out
    found = with_adapter(read_checkpoint(start), source).tensors
    assert all(torch.allclose(found[name], weights[name], atol=1e-5) for name in weights)
    text = (tmp_path / "out.safetensors.md" if to == "lora-comfyui" else out / "README.md").read_text()
    assert f"- Base: {start}" in text
    assert "How it is loaded" in text


@pytest.mark.parametrize("to", ["lora", "lora-diffusers", "lora-comfyui"])
def test_an_adapter_on_an_adapter_goes_out_as_one_on_the_public_base(
    recorded, run, start, tmp_path, to, capsys
) -> None:
    first = Path(__file__).parents[2] / "data" / "adapters" / "kohya_alpha2.safetensors"
    folder, weights = run(first, ("self_attn.q", "ffn.0"))
    told = json.loads((folder / "student" / "adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == f"{start} with {first} merged"
    out = tmp_path / ("out.safetensors" if to == "lora-comfyui" else "out")
    assert main(["export", str(folder), str(out), "--to", to]) == 0
    assert f"joined with {first}, it belongs on {start} itself" in capsys.readouterr().out
    source = out / "pytorch_lora_weights.safetensors" if to == "lora-diffusers" else out
    found = with_adapter(read_checkpoint(start), source).tensors
    assert all(torch.allclose(found[name], weights[name], atol=1e-5) for name in weights)
    if to == "lora":
        student = student_of(recorded.original, recorded.sizes)
        student.config = {}  # peft looks into it
        theirs = peft.PeftModel.from_pretrained(student, out).merge_and_unload().state_dict()
        assert all(torch.allclose(theirs[name], weights[name], atol=1e-5) for name in weights)
        told = json.loads((out / "adapter_config.json").read_text())
        assert told["base_model_name_or_path"] == str(start)


def test_a_first_adapter_that_is_gone_is_named(run, start, tmp_path, capsys) -> None:
    first = tmp_path / "first.safetensors"
    first.write_bytes((Path(__file__).parents[2] / "data" / "adapters" / "kohya_alpha2.safetensors").read_bytes())
    folder, _ = run(first)
    first.unlink()
    assert main(["export", str(folder), str(tmp_path / "out"), "--to", "lora"]) == 0
    assert f"it belongs on {start} with {first} merged, which could not be joined to it" in capsys.readouterr().out
    assert f"- Base: {start} with {first} merged" in (tmp_path / "out" / "README.md").read_text()


def test_comfyui_s_causal_layout(recorded, run, tmp_path, assert_same, capsys) -> None:
    """Bare names and the header that its public code looks for; read back, and known as causal."""
    folder, weights = run()
    out = tmp_path / "wan2.1_t2v_student.safetensors"
    assert main(["export", str(folder), str(out), "--to", "comfyui"]) == 0
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == {"transformer": {"causal_ar": True}}
    found = load_file(out)
    assert {"head.modulation", "blocks.0.self_attn.q.weight", "patch_embedding.weight"} <= found.keys()
    assert_same(found, weights)
    again = read_checkpoint(out, heads=2)
    assert_same(again.tensors, weights)
    assert again.bidirectional == ""
    x, t = torch.randn(1, 3, 16, 4, 6, generator=torch.Generator().manual_seed(1)), torch.full((1, 3), 0.5)
    context = torch.randn(1, 5, recorded.sizes.text_dim, generator=torch.Generator().manual_seed(2))
    flows = []
    for tensors in (weights, again.tensors):
        student = student_of(tensors, recorded.sizes)
        with torch.no_grad():
            flows.append(student.velocity(x, t, student.text(context), student.empty_cache()))
    assert torch.equal(*flows)
    assert main(["export", str(folder), str(out), "--to", "comfyui"]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["diffusers", "selfforcing", "comfyui"])
def test_a_card_says_how_it_is_drawn_from(run, tmp_path, to) -> None:
    folder, _ = run()
    out = tmp_path / {"diffusers": "out", "selfforcing": "out.pt", "comfyui": "out.safetensors"}[to]
    assert main(["export", str(folder), str(out), "--to", to]) == 0
    text = (out / "README.md" if to == "diffusers" else tmp_path / f"{out.name}.md").read_text()
    assert "Latent frames a block: 3, the last repeats; window 12, sink 3" in text
    assert "Noise levels of a block: 1, 0.5" in text
    assert "12 frames of 32x48 at 16 a second" in text
    if to == "diffusers":
        assert read_checkpoint(out).bidirectional == ""


def test_merged_weights_stand_on_the_public_ones(recorded, start) -> None:
    base: Checkpoint = read_checkpoint(start)
    half = student_of(base.tensors, base.sizes).bfloat16()
    policy = trained(half, RANK, 1)
    rounded, full = merged(policy).state_dict(), merged(policy, base.tensors).state_dict()
    for name, tensor in base.tensors.items():
        change = rounded[name] - tensor.bfloat16().float()
        torch.testing.assert_close(full[name], tensor + change, rtol=0, atol=1e-6)
    assert any(not torch.equal(full[name], rounded[name]) for name in full)
    assert all(torch.equal(full[name], base.tensors[name]) for name in full if not name.startswith("blocks."))


def test_a_run_in_half_precision_is_saved_on_the_public_weights(recorded, start, tmp_path) -> None:
    from understudy.recipes.config import RunConfig, StudentConfig
    from understudy.run.arm import save_arm
    from understudy.students.bundle import load_bundle

    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "sf.pt")
    base = read_checkpoint(start)
    policy = trained(student_of(base.tensors, base.sizes).bfloat16(), RANK, 1)
    codec = SmallCodec(SmallCodecSpec(channels=16, width=8))
    bundle = Bundle(policy, codec, (1.0, 0.5), ClipForm(32, 48, 16.0, 12), "start")
    own = StudentConfig(start=str(start), preset="longlive", dtype="bfloat16", lora=LoraConfig(rank=RANK, alpha=8))
    ready = save_arm(RunConfig(student=own), bundle, policy, "afd", tmp_path / "saved")
    found = load_bundle(tmp_path / "saved").student.state_dict()
    wanted = merged(policy, base.tensors).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert next(ready.student.parameters()).dtype == torch.bfloat16
