"""UMT5 conditioning on a tiny random encoder with a tokenizer made here: exact, padded as Wan does, encoded once."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.errors import CheckpointError
from understudy.students.text import cut_note
from understudy.students.umt5 import UMT5Text, check_umt5, normalise

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ("a", "red", "blue", "ball", "falls", "&")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.UMT5Config(vocab_size=9, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
        transformers.UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture
def text(pipeline: Path, tmp_path: Path) -> UMT5Text:
    return UMT5Text(pipeline, tmp_path / "cache", length=8, dtype="float32")


def test_embeddings_are_the_encoder_s_own_then_zero(text: UMT5Text, pipeline: Path) -> None:
    found = text(["a red ball falls", "blue"])
    assert found.shape == (2, 8, 16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pipeline / "tokenizer")
    encoder = transformers.UMT5EncoderModel.from_pretrained(pipeline / "text_encoder").eval()
    batch = tokenizer(["a red ball falls", "blue"], padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    expected = expected * batch["attention_mask"][..., None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert batch["attention_mask"].sum(1).tolist() == [5, 2]
    assert bool((found[0, 5:] == 0).all() and (found[1, 2:] == 0).all())


def test_a_prompt_does_not_depend_on_its_batch(text: UMT5Text, pipeline: Path, tmp_path: Path) -> None:
    other = UMT5Text(pipeline, tmp_path / "other", length=8, dtype="float32")
    assert torch.equal(text(["blue ball", "a a a a a"])[0], other(["blue ball"])[0])


def test_long_prompts_are_cut_and_keep_their_end_token(text: UMT5Text) -> None:
    found = text(["a " * 30])
    assert found.shape == (1, 8, 16)
    assert bool((found[0, -1] != 0).any())


def test_a_prompt_on_disk_needs_no_encoder(
    text: UMT5Text, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text.precompute(["a red ball", "blue ball"])
    assert len(list(text.cache.glob("*.safetensors"))) == 2
    assert text._model is None
    again = UMT5Text(pipeline, text.cache, length=8, dtype="float32")
    monkeypatch.setattr(again, "_encode", None)
    assert torch.equal(again(["blue  ball\n", "a red ball"]), text(["blue ball", "a red ball"]))


def test_the_name_of_a_file_tells_prompt_length_and_model(text: UMT5Text, pipeline: Path, tmp_path: Path) -> None:
    other = tmp_path / "pipeline"
    shutil.copytree(pipeline, other)
    moved = UMT5Text(other, text.cache, length=8, dtype="float32")
    assert moved.file("a ball") == text.file(" a   ball ")  # a copy of the model is the same model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.UMT5Config.from_pretrained(pipeline / "text_encoder")
        transformers.UMT5EncoderModel(config).save_pretrained(other / "text_encoder")
    names = {
        text.file("a ball"),
        text.file("a red ball"),
        UMT5Text(pipeline, text.cache, length=9, dtype="float32").file("a ball"),
        UMT5Text(pipeline, text.cache, length=8).file("a ball"),
        UMT5Text(other, text.cache, length=8, dtype="float32").file("a ball"),
    }
    assert len(names) == 5


def test_a_damaged_file_is_replaced(text: UMT5Text) -> None:
    before = text(["a ball"])
    text.file("a ball").write_bytes(b"half a fi")
    assert torch.equal(text(["a ball"]), before)
    assert text.file("a ball").stat().st_size > 100
    assert [path.suffix for path in text.cache.iterdir()] == [".safetensors"]


def test_prompts_are_normalised_as_wan_does() -> None:
    assert normalise("  a &amp;amp; b\n\t c ") == "a & b c"


def test_half_precision_is_kept_on_disk(pipeline: Path, tmp_path: Path) -> None:
    half = UMT5Text(pipeline, tmp_path, length=8)
    assert half(["a ball"]).dtype == torch.float32
    torch.testing.assert_close(half(["a ball"])[0].bfloat16().float(), half(["a ball"])[0], rtol=0, atol=0)


def test_wrong_folders_are_one_line(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no 'text_encoder' folder"):
        UMT5Text(tmp_path, tmp_path / "cache")
    shutil.copytree(pipeline, tmp_path / "copy")
    weights = tmp_path / "copy" / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    gone = next(name for name in tensors if name.endswith("SelfAttention.q.weight"))
    del tensors[gone]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 missing and 0 unexpected tensors, first missing '{gone}'"):
        UMT5Text(tmp_path / "copy", tmp_path / "cache")(["a"])
    weights.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        UMT5Text(tmp_path / "copy", tmp_path / "cache")(["a"])
    assert "\n" not in str(caught.value)


def test_tokens_are_counted_without_the_encoder(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline / "tokenizer", tmp_path / "pipe" / "tokenizer")
    (tmp_path / "pipe" / "text_encoder").mkdir()
    text = UMT5Text(tmp_path / "pipe", tmp_path / "cache", length=8)
    assert text.counts(["a red ball", "a " * 30, "&amp;amp;"]) == [4, 31, 2]
    assert text.counts([]) == []
    assert cut_note(text, ["a " * 7]) is None
    assert "longest has 9" in str(cut_note(text, ["a " * 8]))


ORIGINAL = {
    "0.layer_norm": "norm1",
    "0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    **{f"0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
    "1.layer_norm": "norm2",
    "1.DenseReluDense.wi_0": "ffn.gate.0",
    "1.DenseReluDense.wi_1": "ffn.fc1",
    "1.DenseReluDense.wo": "ffn.fc2",
}


def originals(pipeline: Path) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names that Wan's own file has."""
    found = {}
    for name, tensor in load_file(pipeline / "text_encoder" / "model.safetensors").items():
        parts = name.split(".", 4)
        if name == "encoder.final_layer_norm.weight":
            found["norm.weight"] = tensor
        elif parts[1] == "block":
            found[f"blocks.{parts[2]}.{ORIGINAL[parts[4].removesuffix('.weight')]}.weight"] = tensor
        else:
            found["token_embedding.weight"] = tensor
    assert len(found) == 2 + 10 * 2
    return found


@pytest.fixture
def wan_folder(pipeline: Path, tmp_path: Path) -> Path:
    """A folder as ``huggingface-cli download Wan-AI/Wan2.1-T2V-1.3B`` leaves it."""
    folder = tmp_path / "Wan2.1-T2V-1.3B"
    shutil.copytree(pipeline / "tokenizer", folder / "google" / "umt5-xxl")
    torch.save(originals(pipeline), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save({}, folder / "Wan2.1_VAE.pth")
    return folder


def test_the_original_folder_and_file_are_the_same_encoder(text: UMT5Text, wan_folder: Path, tmp_path: Path) -> None:
    prompts, file = ["a red ball falls", "blue"], wan_folder / "models_t5_umt5-xxl-enc-bf16.pth"
    for number, path in enumerate((wan_folder, file)):
        assert check_umt5(path).encoder == file
        other = UMT5Text(path, tmp_path / f"o{number}", length=8, dtype="float32")
        assert torch.equal(other(prompts), text(prompts))
    assert UMT5Text(wan_folder, tmp_path / "o", length=8)(["a"]).dtype == torch.float32


@pytest.mark.parametrize("form", ["plain", "float8", "all in one"])
def test_comfyui_s_encoder_files_are_read(
    text: UMT5Text, pipeline: Path, wan_folder: Path, tmp_path: Path, form: str
) -> None:
    tensors = load_file(pipeline / "text_encoder" / "model.safetensors")
    tensors["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    expected = text(["a ball"])
    if form == "float8":
        for name in [name for name in tensors if "SelfAttention.q" in name]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".scale_weight")] = torch.ones(1)
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    elif form == "all in one":
        tensors = {f"text_encoders.umt5xxl.transformer.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {"model.diffusion_model.x": torch.zeros(1), "text_encoders.umt5xxl.logit_scale": torch.zeros(1)}
    path = wan_folder / "umt5_xxl_fp16.safetensors"
    save_file(tensors, path)
    found = UMT5Text(path, tmp_path / "cache2", length=8, dtype="float32")(["a ball"])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.2 if form == "float8" else 0)
    check_umt5(path)


@pytest.mark.parametrize("headers", [False, True])
def test_what_does_not_fit_in_an_original_folder_is_one_line(wan_folder: Path, tmp_path: Path, headers: bool) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            check_umt5(path) if headers else UMT5Text(path, tmp_path / "c", length=8)(["a"])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    file = wan_folder / "models_t5_umt5-xxl-enc-bf16.pth"
    tensors = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in tensors.items() if name != "blocks.1.ffn.fc2.weight"}, file)
    assert "first missing 'encoder.block.1.layer.1.DenseReluDense.wo.weight'" in refused(wan_folder)
    torch.save({**tensors, "blocks.1.ffn.fc2.weight": torch.zeros(3, 3)}, file)
    assert "wo.weight' has shape [3, 3], expected [16, 32]" in refused(wan_folder)
    torch.save({"x": torch.zeros(1)}, file)
    assert "holds no UMT5 encoder: 1 tensors" in refused(wan_folder)
    file.write_bytes(b"GGUF" + bytes(40))
    assert "is a GGUF file" in refused(file)
    torch.save(tensors, wan_folder / "t5_other.pth")
    assert "several text encoders" in refused(wan_folder)
    (wan_folder / "t5_other.pth").unlink()
    shutil.rmtree(wan_folder / "google")
    assert "has no tokenizer beside it: fetch google/umt5-xxl" in refused(wan_folder)
    assert "is missing" in refused(tmp_path / "none.pth")
