"""Writing: what is written reads back to the same bits, and others load it."""

from pathlib import Path

import pytest
import torch

from understudy.errors import CheckpointError, UnderstudyError
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.checkpoints.write import write_diffusers, write_self_forcing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("limit", [10**9, 100_000])
def test_diffusers_folders_come_back_bit_for_bit(recorded, tmp_path, assert_same, dtype, limit) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in recorded.original.items()}
    write_diffusers(tensors, recorded.sizes, tmp_path / "out", limit)
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert (len(files) > 1) is (limit < 10**9)
    assert (tmp_path / "out" / "diffusion_pytorch_model.safetensors.index.json").exists() is (limit < 10**9)
    found = read_checkpoint(tmp_path / "out")
    assert_same(found.tensors, tensors)
    assert found.sizes == recorded.sizes


def test_self_forcing_files_come_back_bit_for_bit(recorded, tmp_path, assert_same) -> None:
    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "model.pt")
    for weights in (None, "generator", "generator_ema"):
        found = read_checkpoint(tmp_path / "model.pt", weights, heads=2)
        assert_same(found.tensors, recorded.original)
    assert read_checkpoint(tmp_path / "model.pt", heads=2).weights == "generator_ema"


def test_self_forcing_files_are_plain_and_store_each_tensor_once(recorded, tmp_path) -> None:
    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(content) is dict
    assert set(content) == {"generator", "generator_ema"}
    assert set(content["generator_ema"]) == {f"model.{key}" for key in recorded.original}
    size = sum(tensor.nbytes for tensor in recorded.original.values())
    assert (tmp_path / "model.pt").stat().st_size < 1.2 * size


@pytest.mark.parametrize("limit", [10**9, 100_000])
def test_installed_diffusers_loads_the_folder_and_computes_the_recorded_flow(recorded, tmp_path, limit) -> None:
    diffusers = pytest.importorskip("diffusers")
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "out", limit)
    model, info = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        flow = model(recorded.inputs["x"], recorded.inputs["t"], recorded.inputs["context"], return_dict=False)[0]
    assert torch.linalg.norm(flow - recorded.flow) / torch.linalg.norm(recorded.flow) < 2e-5


def test_what_diffusers_saves_is_read(recorded, tmp_path, assert_same) -> None:
    diffusers = pytest.importorskip("diffusers")
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "out")
    model = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="200KB")
    found = read_checkpoint(tmp_path / "theirs")
    assert_same(found.tensors, recorded.original)
    assert found.sizes == recorded.sizes


def write(kind, tensors, sizes, target) -> None:
    (write_diffusers if kind == "diffusers" else write_self_forcing)(tensors, sizes, target)


@pytest.mark.parametrize("kind", ["diffusers", "selfforcing"])
def test_nothing_is_overwritten(recorded, tmp_path, kind) -> None:
    write(kind, recorded.original, recorded.sizes, tmp_path / "out")
    with pytest.raises(UnderstudyError, match="exists already"):
        write(kind, recorded.original, recorded.sizes, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["diffusers", "selfforcing"])
def test_a_full_disk_leaves_nothing_behind(recorded, tmp_path, monkeypatch, kind) -> None:
    def full(content, target, **_):
        target.write_bytes(b"half") if isinstance(target, Path) else target.write(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr("understudy.students.checkpoints.write.save_file", full)
    monkeypatch.setattr("understudy.students.checkpoints.write.torch.save", full)
    with pytest.raises(UnderstudyError, match=r"cannot write .* No space left"):
        write(kind, recorded.original, recorded.sizes, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["diffusers", "selfforcing"])
def test_a_partial_student_is_not_written(recorded, tmp_path, kind) -> None:
    tensors = {key: tensor for key, tensor in recorded.original.items() if key != "head.modulation"}
    with pytest.raises(CheckpointError, match=r"first missing 'head.modulation'"):
        write(kind, tensors, recorded.sizes, tmp_path / "out")


def test_flashdreams_loads_the_self_forcing_file(recorded, tmp_path) -> None:
    """Strictly, into its own network, as its recipe does it; drawing needs kernels for a GPU."""
    network = pytest.importorskip("flashdreams.recipes.wan.transformer.impl.network", exc_type=ImportError)
    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "model.pt")
    found = torch.load(tmp_path / "model.pt", weights_only=True)["generator_ema"]
    sizes = recorded.sizes
    config = network.WanDiTNetworkConfig(
        dim=sizes.dim,
        ffn_dim=sizes.ffn_dim,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        text_dim=sizes.text_dim,
        freq_dim=sizes.freq_dim,
        in_dim=sizes.in_channels,
        out_dim=sizes.out_channels,
    )
    config.setup().load_state_dict({key.removeprefix("model."): value for key, value in found.items()}, strict=True)
