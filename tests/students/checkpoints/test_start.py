"""A public checkpoint as the start of a run, and what was trained from it on its way out again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import understudy as us
from understudy.cli import main
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import ConfigError
from understudy.recipes.files import load_recipe
from understudy.run.start import load_start
from understudy.students.bundle import load_bundle, save_bundle
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.checkpoints.write import write_diffusers, write_self_forcing
from understudy.students.generate import draw_clips
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import PRESETS
from understudy.students.wan.text import HashedWords


class Words(HashedWords):
    name = "words"


@pytest.fixture
def load(recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    channels = recorded.sizes.in_channels
    codec = SmallCodec(SmallCodecSpec(channels=channels, width=8))
    monkeypatch.setattr("understudy.run.start.load_wan_codec", lambda *a: codec)
    monkeypatch.setattr(
        "understudy.run.start.UMT5Text", lambda *a: Words(recorded.sizes.text_dim, recorded.sizes.text_length)
    )

    def read(start: Path, more: str, parts: str = "codec: {kind: wan, path: vae}, text: {path: pipe}, "):
        (tmp_path / "recipe.yaml").write_text(f"student: {{{parts}start: {start}, {more}}}\n")
        return load_start(load_recipe(tmp_path / "recipe.yaml"))

    return read


SMALL = "size: [32, 48], frames: 12"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_a_checkpoint_its_settings(recorded, load, tmp_path, assert_same, name) -> None:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "wan")
    bundle, chosen = load(tmp_path / "wan", f"preset: {name}, {SMALL}"), PRESETS[name]
    assert isinstance(bundle.student, WanStudent)
    assert_same(bundle.student.state_dict(), recorded.original)
    spec = bundle.student.spec
    assert (spec.blocks, spec.window, spec.sink, bundle.levels) == (
        *(chosen.blocks, chosen.window, chosen.sink),
        chosen.levels,
    )
    assert (bundle.form.height, bundle.form.width, bundle.form.fps, bundle.form.frames) == (32, 48, 16.0, 12)
    clip = draw_clips(bundle, ["a red ball"], [0])[0]
    assert clip.frames.shape == (12, 32, 48, 3)
    full = load(tmp_path / "wan", f"preset: {name}, frames: 42")  # this codec makes two frames one
    assert (full.student.latent_shape[1:], full.form.frames) == ((60, 104), 42)


def test_a_torch_file_is_read_and_the_recipe_has_the_last_word(recorded, load, tmp_path) -> None:
    write_self_forcing(recorded.original, recorded.sizes, tmp_path / "wan.pt")
    bundle = load(tmp_path / "wan.pt", f"preset: longlive, levels: [1, 0.5], window: 9, sink: 2, {SMALL}")
    assert "wan.pt (generator_ema)" in bundle.source
    assert bundle.student.gradient_checkpointing
    assert (bundle.levels, bundle.student.spec.window, bundle.student.spec.sink) == ((1.0, 0.5), 9, 2)


@pytest.mark.parametrize("to", ["diffusers", "selfforcing"])
def test_a_saved_start_is_exported_bit_for_bit(recorded, load, tmp_path, assert_same, to) -> None:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "wan")
    bundle = load(tmp_path / "wan", f"preset: selfforcing, {SMALL}")
    save_bundle(bundle, tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle")
    assert again.student.config() == bundle.student.config()
    assert again.student.spec.text == "words"
    assert torch.equal(again.student.encode_text(["ball"]).tokens, bundle.student.encode_text(["ball"]).tokens)
    assert main(["export", str(tmp_path / "bundle"), str(tmp_path / "out.pt"), "--to", to]) == 0
    found = read_checkpoint(tmp_path / "out.pt", heads=recorded.sizes.heads)
    assert_same(found.tensors, recorded.original)
    assert replace(found.sizes, text_length=0) == replace(recorded.sizes, text_length=0)


@pytest.mark.parametrize(
    ("more", "parts", "says"),
    [
        (SMALL, None, "set student.preset to one of selfforcing, "),
        (f"preset: selfforced, {SMALL}", None, "there is no preset 'selfforced'"),
        (f"preset: selfforcing, {SMALL}", "text: {path: pipe}, ", "holds no codec: set student.codec"),
        (f"preset: selfforcing, {SMALL}", "codec: {path: vae}, ", "holds no text encoder: set student.text"),
        ("preset: selfforcing, size: [40, 48]", None, r"student.size \[40, 48\] must be multiples of \[16, 16\]"),
        ("preset: selfforcing, frames: 10", None, r"are 5 latent frames, which are not whole blocks of \[3\]"),
    ],
)
def test_what_is_missing_is_one_line(recorded, load, tmp_path, more, parts, says) -> None:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "wan")
    with pytest.raises(ConfigError, match=says) as caught:
        load(tmp_path / "wan", more, *([] if parts is None else [parts]))
    assert "\n" not in str(caught.value)


def test_bundles_take_no_preset(load, start) -> None:
    with pytest.raises(ConfigError, match="is a bundle, which has its own settings"):
        load(start, "preset: selfforcing")
    with pytest.raises(ConfigError, match="are for public checkpoints"):
        load(start, "frames: 12", "")


def test_weights_in_bfloat16_are_for_adapters_under_autocast(recorded, load, tmp_path) -> None:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "wan")
    with pytest.raises(ConfigError, match=r"set student\.lora and train\.bf16"):
        load(tmp_path / "wan", f"preset: selfforcing, dtype: bfloat16, {SMALL}")
    more = f"preset: selfforcing, dtype: bfloat16, recompute: 0.5, lora: {{rank: 2, alpha: 2}}, {SMALL}}}"
    more += "\ntrain: {bf16: true"
    student = load(tmp_path / "wan", more).student
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert student.gradient_checkpointing == 0.5


def test_the_door_from_python_takes_a_public_checkpoint_with_its_preset(recorded, load, tmp_path, assert_same) -> None:
    write_diffusers(recorded.original, recorded.sizes, tmp_path / "wan")
    parts = {"codec": {"kind": "wan", "path": "vae"}, "text": {"path": "pipe"}, "size": (32, 48), "frames": 12}
    student = us.load(tmp_path / "wan", preset="longlive", window=6, **parts)
    assert_same(student.bundle.student.state_dict(), recorded.original)
    assert (student.bundle.student.spec.window, student.bundle.student.spec.sink) == (6, PRESETS["longlive"].sink)
    again = load(tmp_path / "wan", f"preset: longlive, window: 6, {SMALL}")
    drawn = draw_clips(again, ["a red ball"], [3])[0]
    assert (student.draw("a red ball", seed=3).frames == drawn.frames).all()
    with pytest.raises(ConfigError, match=r"set student\.preset to one of selfforcing"):
        us.load(tmp_path / "wan", **parts)
