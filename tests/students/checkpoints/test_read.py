"""Reading: every nesting and prefix gives the same tensors; whatever is wrong is one line that names it."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from understudy.errors import CheckpointError
from understudy.students.checkpoints.layout import shapes
from understudy.students.checkpoints.read import load_plain, read_checkpoint, strip_prefixes

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def refused(path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def pt(tmp_path):
    def write(content, name="model.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def prefixed(tensors, prefix: str):
    return {prefix + key: tensor for key, tensor in tensors.items()}


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(WRAPPERS)), max_size=4))
def test_wrappers_are_stripped_wherever_they_are(places) -> None:
    parts = ["model", "blocks", "0", "self_attn", "q", "weight"]
    for place, wrapper in places:
        parts[place] = wrapper + parts[place]
    assert strip_prefixes(".".join(parts)) == "blocks.0.self_attn.q.weight"


@pytest.mark.parametrize("prefix", ["", "model.", "model._fsdp_wrapped_module.", "_orig_mod.model.", "module.model."])
def test_bare_state_dicts(recorded, pt, assert_same, prefix) -> None:
    found = read_checkpoint(pt(prefixed(recorded.original, prefix)), heads=2)
    assert_same(found.tensors, recorded.original)
    assert found.sizes == recorded.sizes
    assert found.weights == ""


@pytest.mark.parametrize(
    ("entries", "weights", "used"),
    [
        (("generator",), None, "generator"),
        (("generator", "critic"), None, "generator"),
        (("generator", "critic", "generator_ema"), None, "generator_ema"),
        (("generator", "critic", "generator_ema"), "generator", "generator"),
        (("model",), None, "model"),
        (("state_dict", "critic"), None, "state_dict"),
    ],
)
def test_trainer_files(recorded, pt, assert_same, entries, weights, used) -> None:
    content = {"step": 600, "optimizer": {"state": {}}}
    for entry in entries:
        wrong = entry != used
        content[entry] = {f"model.{key}": tensor + wrong for key, tensor in recorded.original.items()}
    found = read_checkpoint(pt(content), weights, heads=2)
    assert_same(found.tensors, recorded.original)
    assert found.weights == used
    assert f"({used})" in found.origin


def test_nested_twice(recorded, pt, assert_same) -> None:
    found = read_checkpoint(pt({"generator": {"model": dict(recorded.original)}}), heads=2)
    assert_same(found.tensors, recorded.original)
    assert found.weights == "generator.model"


def test_original_safetensors_with_config(recorded, tmp_path, assert_same) -> None:
    save_file(dict(recorded.original), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "WanModel", "dim": 64, "num_heads": 2, "num_layers": 2, "text_len": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_checkpoint(tmp_path)
    assert_same(found.tensors, recorded.original)
    assert (found.sizes.heads, found.sizes.text_length) == (2, 16)


def shards(tensors, folder, index: bool):
    names = sorted(tensors)
    halves = {"m-00001-of-00002.safetensors": names[:20], "m-00002-of-00002.safetensors": names[20:]}
    for file, part in halves.items():
        save_file({key: tensors[key] for key in part}, folder / file)
    if index:
        where = {key: file for file, part in halves.items() for key in part}
        (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_shards(recorded, tmp_path, assert_same, layout, index) -> None:
    shards(getattr(recorded, layout), tmp_path, index)
    found = read_checkpoint(tmp_path, heads=2)
    assert_same(found.tensors, recorded.original)
    assert found.layout == layout


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(recorded, tmp_path, index) -> None:
    shards(recorded.original, tmp_path, index)
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    assert "missing" in refused(tmp_path, heads=2)


def test_an_index_that_lies_is_refused(recorded, tmp_path) -> None:
    shards(recorded.original, tmp_path, True)
    names = sorted(recorded.original)
    save_file({key: recorded.original[key] for key in names[:19]}, tmp_path / "m-00001-of-00002.safetensors")
    assert f"disagree on 1 tensors, first '{names[19]}'" in refused(tmp_path, heads=2)


def test_missing_and_unexpected_are_counted_and_named(recorded, pt) -> None:
    wrong = dict(recorded.original)
    del wrong["blocks.1.ffn.2.bias"]
    wrong["blocks.1.extra.weight"] = torch.zeros(1)
    message = refused(pt(wrong), heads=2)
    assert f"1 of {len(recorded.original)} tensors missing, 1 unexpected" in message
    assert "first missing 'blocks.1.ffn.2.bias', first unexpected 'blocks.1.extra.weight'" in message


@pytest.mark.parametrize("name", ["patch_embedding.weight", "head.head.weight", "blocks.0.ffn.0.weight"])
def test_a_file_without_what_tells_its_size(recorded, pt, name) -> None:
    wrong = {key: tensor for key, tensor in recorded.original.items() if key != name}
    assert f"first missing '{name}'" in refused(pt(wrong), heads=2)


def test_a_part_of_a_public_size_is_not_a_smaller_model(recorded, tmp_path) -> None:
    sizes = recorded.sizes.__class__(dim=1536, ffn_dim=8, heads=12, layers=1, freq_dim=4, text_dim=4)
    save_file({key: torch.zeros(shape) for key, shape in shapes(sizes).items()}, tmp_path / "part.safetensors")
    message = refused(tmp_path / "part.safetensors")
    assert "first missing 'blocks.1.modulation'" in message
    assert "783 of 825" in message


def test_a_wrong_shape_is_named(recorded, pt) -> None:
    wrong = {**recorded.original, "blocks.1.norm3.bias": torch.zeros(63)}
    assert "'blocks.1.norm3.bias' has shape [63], expected [64]" in refused(pt(wrong), heads=2)


def test_values_that_are_not_finite_are_refused(recorded, pt) -> None:
    wrong = {**recorded.original, "blocks.1.norm3.bias": torch.full((64,), torch.nan)}
    assert "not finite in 'blocks.1.norm3.bias'" in refused(pt(wrong), heads=2)


def test_two_models_in_one_state_dict_are_refused(recorded, pt) -> None:
    both = {**recorded.original, **prefixed(recorded.original, "model.")}
    assert "twice" in refused(pt(both), heads=2)


def test_heads_that_do_not_divide_the_width(recorded, pt) -> None:
    assert "width 64 does not divide into 5 heads" in refused(pt(dict(recorded.original)), heads=5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"critic": {"a": torch.zeros(1)}}, "looked for generator_ema, generator, model, state_dict, found critic"),
        ({"generator_lora": {"a": torch.zeros(1)}, "step": 1}, "LoRA adapter only"),
        ({"generator": {}}, "holds no student"),
        ([1, 2], "found list"),
        ({"generator": {"a": torch.zeros(1), "b": 3}}, "'b' among the weights is no tensor"),
        ({"layers.0.qkv.weight": torch.zeros(1)}, "holds no Wan transformer: 1 tensors"),
    ],
)
def test_files_of_something_else(pt, content, says) -> None:
    assert says in refused(pt(content))


def test_asking_for_weights_that_are_not_there(recorded, pt) -> None:
    assert "looked for generator_ema, found generator" in refused(
        pt({"generator": dict(recorded.original)}), weights="generator_ema"
    )
    assert "looked for generator" in refused(pt(dict(recorded.original)), weights="generator")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch, new) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"generator": Attack()}, "model.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="could execute code: refused") as caught:
        load_plain(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_old_torch_files_are_read(recorded, tmp_path, assert_same) -> None:
    torch.save({"generator": dict(recorded.original)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert_same(read_checkpoint(tmp_path / "m.pt", heads=2).tensors, recorded.original)


@pytest.mark.parametrize("cut", [0, 10, 3000, -100])
def test_damaged_torch_files(recorded, pt, cut) -> None:
    path = pt(dict(recorded.original))
    path.write_bytes(path.read_bytes()[:cut])
    assert "damaged" in refused(path)


def test_missing_and_empty_places(tmp_path) -> None:
    assert "is missing" in refused(tmp_path / "none.pt")
    assert "holds no weights" in refused(tmp_path)


def test_folders_of_other_models_are_refused(recorded, tmp_path) -> None:
    save_file(dict(recorded.diffusers), tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "LTXVideoTransformer3DModel"}))
    assert "is of a LTXVideoTransformer3DModel, not of a Wan" in refused(tmp_path)


def test_a_pipeline_folder_leads_to_its_transformer(recorded, tmp_path, assert_same) -> None:
    (tmp_path / "transformer").mkdir()
    save_file(dict(recorded.diffusers), tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "WanTransformer3DModel", "num_attention_heads": 2, "num_layers": 2}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    assert_same(read_checkpoint(tmp_path).tensors, recorded.original)
