"""Pipelines of diffusers as teachers: a tiny random one with everything that a real one has."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from understudy.collection.collect import CollectReport, collect, plan_jobs
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, MissingExtra, TeacherError, TeacherStopped
from understudy.teachers.base import ClipParams
from understudy.teachers.build import build
from understudy.teachers.config import TermsConfig
from understudy.teachers.diffusers.config import DiffusersTeacherConfig
from understudy.teachers.diffusers.teacher import PipelineTeacher, _frames
from understudy.video.clips import decode_mp4

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SMALL = ClipParams(frames=5, fps=8.0, width=32, height=16)
CALL = {
    "prompt": "{prompt}",
    "num_frames": "{frames}",
    "width": "{width}",
    "height": "{height}",
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "max_sequence_length": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan pipeline of random weights, a few thousand of them."""
    path = tmp_path_factory.mktemp("pipelines") / "tiny-wan"
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", "a", "red", "blue", "ball", "falls"))}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.UMT5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
        pipeline = diffusers.WanPipeline(
            tokenizer=tokenizer,
            text_encoder=transformers.UMT5EncoderModel(config),
            vae=diffusers.AutoencoderKLWan(
                base_dim=4,
                z_dim=4,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            transformer=diffusers.WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=16,
                freq_dim=16,
                ffn_dim=16,
                num_layers=1,
                cross_attn_norm=True,
                qk_norm="rms_norm_across_heads",
                rope_max_seq_len=32,
            ),
        )
    pipeline.save_pretrained(path)
    return path


def config(folder: Path, **how: Any) -> DiffusersTeacherConfig:
    settings = {"path": folder, "call": CALL, "dtype": "float32", "frames": 5, "fps": 8.0, "width": 32, "height": 16}
    terms = {"terms": TermsConfig(training="yes", note="random weights")}
    return DiffusersTeacherConfig.model_validate(settings | terms | how)


def made(folder: Path, **how: Any) -> PipelineTeacher:
    teacher = build(config(folder, **how))
    assert isinstance(teacher, PipelineTeacher)
    return teacher


def test_a_clip_is_drawn_from_prompt_and_seed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("something was asked over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    teacher = made(folder)
    one, same, other = (teacher.generate("a red ball", seed, SMALL) for seed in (1, 1, 2))
    assert one == same != other
    assert teacher.generate("a blue ball", 1, SMALL) != one
    clip = decode_mp4(one)
    assert (clip.frames.shape, clip.fps) == ((5, 16, 32, 3), 8.0)


def test_it_is_collected_from_like_any_teacher(folder: Path, tmp_path: Path) -> None:
    settings, seen = config(folder), list[CollectReport]()
    store = ClipStore(tmp_path / "store", create=True)
    report = collect(made(folder), plan_jobs(["a red ball"], 2, 0), store, settings.clip_params(), seen.append)
    assert (report.done, report.currency) == (2, "")
    record = store.records()[0]
    assert record.asked == {"frames": 5, "fps": 8.0, "width": 32, "height": 16}
    assert (record.received["frames"], record.received["width"]) == (5, 32)
    assert record.teacher.startswith("diffusers/WanPipeline/tiny-wan-")
    assert "random weights" in record.terms
    assert store.verify() == []


def test_only_what_goes_into_the_call_counts_as_asked(folder: Path) -> None:
    assert config(folder, call={"prompt": "{prompt}", "num_frames": 9}).clip_params() == ClipParams(fps=8.0)
    assert config(folder, call=None).clip_params() == SMALL


def test_a_folder_without_a_pipeline_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")):
        with pytest.raises(ConfigError, match="download it first, for example with: hf download"):
            made(path)


def test_what_cannot_be_loaded_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        made(tmp_path).generate("a red ball", 1, SMALL)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        made(folder, device="no-such-device").generate("a red ball", 1, SMALL)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    pipeline = diffusers.WanPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.save_pretrained(copy, safe_serialization=False)
    if list(copy.rglob("*.safetensors")):  # newer libraries write nothing else
        for file in copy.rglob("*.safetensors"):
            file.rename(file.with_suffix(".bin"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        made(copy).generate("a red ball", 1, SMALL)


def test_arguments_it_does_not_take_stop_everything(folder: Path) -> None:
    with pytest.raises(TeacherStopped, match=r"unexpected keyword.*frame_rate.*teacher\.call"):
        made(folder, call={**CALL, "frame_rate": "{fps}"}).generate("a red ball", 1, SMALL)
    with pytest.raises(TeacherStopped, match="divisible"):
        made(folder).generate("a red ball", 1, ClipParams(5, 8.0, 33, 17))


def test_a_failure_of_the_moment_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**arguments: Any) -> None:
        raise torch.OutOfMemoryError("no room for\n4 GiB")

    teacher = made(folder)
    monkeypatch.setattr(teacher, "_pipeline", full)
    with pytest.raises(TeacherError, match="no room for 4 GiB"):
        teacher.generate("a red ball", 1, SMALL)


def test_the_name_says_what_draws(folder: Path) -> None:
    name = made(folder).name
    assert name == made(folder).name
    for how in ({"call": {**CALL, "num_inference_steps": 3}}, {"dtype": "bfloat16"}, {"model": "other"}):
        assert made(folder, **how).name != name
    assert made(folder, model="Wan2.1", terms=None).terms.training == "yes"


@pytest.mark.parametrize("kind", ["float", "uint8", "pictures"])
def test_frames_of_every_form(kind: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4, 3), dtype=np.uint8)
    forms: dict[str, Any] = {"float": frames / 255, "uint8": frames, "pictures": [list(frames[0])]}
    np.testing.assert_array_equal(_frames(SimpleNamespace(frames=forms[kind])), frames[0])


@pytest.mark.parametrize(
    ("drawn", "error", "words"),
    [
        (SimpleNamespace(images=[]), TeacherStopped, "has no frames"),
        (SimpleNamespace(frames=np.zeros((1, 1, 4, 4, 3))), TeacherStopped, r"shape \[1, 4, 4, 3\]"),
        (SimpleNamespace(frames=np.zeros((1, 3, 4, 4))), TeacherStopped, "draws no video"),
        (SimpleNamespace(frames=np.full((1, 3, 4, 4, 3), np.nan)), TeacherError, "float32"),
    ],
)
def test_what_is_no_video_is_refused(drawn: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        _frames(drawn)


def test_without_diffusers_there_is_one_line_of_advice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"understudy\[wan\]"):
        made(folder).generate("a red ball", 1, SMALL)
