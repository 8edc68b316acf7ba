"""UMT5 conditioning on a tiny random encoder with a tokenizer made here: exact, padded as Wan does, encoded once."""

import shutil
from pathlib import Path

import pytest
import torch

from understudy.errors import CheckpointError
from understudy.students.text import cut_note
from understudy.students.umt5 import UMT5Text, normalise

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
    from safetensors.torch import load_file, save_file

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
