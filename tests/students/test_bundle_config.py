"""What a bundle's config.json says is held against its tensors before anything is built, and never believed alone."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.errors import CheckpointError
from understudy.students.bundle import load_bundle
from understudy.students.checkpoints.read import read_checkpoint

WORDS: list[Any] = [None, True, "x", "", -1, 0, 1.5, float("nan"), float("inf"), 10**9, 10**40, [], [1], {}, {"a": 1}]
PLACES = (
    *("format", "kind", "student", "codec_kind", "codec", "levels", "form"),
    *("student.depth", "student.dim", "student.heads", "student.patch", "student.height", "student.width"),
    *("student.channels", "student.block_frames", "student.max_frames", "student.window", "student.sink"),
    *("student.text_length", "student.text_tokens", "student.vocabulary", "student.surprise"),
    *(
        "codec.channels",
        "codec.width",
        "codec.frames_per_latent",
        "form.height",
        "form.width",
        "form.fps",
        "form.frames",
    ),
)


def changed(start: Path, place: str, value: Any) -> Path:
    path = start / "config.json"
    config = json.loads(path.read_text())
    *above, last = place.split(".")
    section = config
    for name in above:
        section = section[name]
    section[last] = value
    path.write_text(json.dumps(config))
    return start


def _refusal(start: Path) -> str:
    try:
        load_bundle(start)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_value_is_one_line_at_once_or_is_no_harm(start: Path, place: str) -> None:
    original = (start / "config.json").read_text()
    refused = []
    for value in WORDS:
        (start / "config.json").write_text(original)
        changed(start, place, value)
        began = time.process_time()
        refused.append(_refusal(start))
        assert time.process_time() - began < 10
    assert not [line for line in refused if "\n" in line or len(line) > 600 + len(str(start))]
    assert sum(map(bool, refused)) >= len(WORDS) - 3  # some places take a number or nothing


LEVELS = [
    [],
    [1, 2],
    [1, float("nan")],
    [1, 1],
    [0.5],
    [1, 0],
    [1, -1],
    ["1"],
    [True, 0.5],
    [[1, 0.5], 0.5],
    [[]],
    "1",
    {},
    3,
]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_levels_fall_from_1_and_stay_above_0(start: Path, levels: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_bundle(changed(start, "levels", levels))


@pytest.mark.parametrize("levels", [[1], [1, 0.5], [[1, 0.5], [1.0]]], ids=str)
def test_a_samplers_levels_are_taken(start: Path, levels: Any) -> None:
    load_bundle(changed(start, "levels", levels))


@pytest.mark.parametrize("place", ["student.depth", "student.dim", "codec.width"])
def test_what_does_not_fit_the_tensors_is_never_built(start: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = torch.nn.Linear.__init__

    def watch(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        built.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", watch)
    with pytest.raises(CheckpointError):
        load_bundle(changed(start, place, 1 << 19))
    assert "cpu" not in built


def test_a_form_that_the_student_does_not_draw_is_refused(start: Path) -> None:
    with pytest.raises(CheckpointError, match="32x16 pixels"):
        load_bundle(changed(start, "form.height", 32))


@pytest.mark.parametrize("name", ["config.json", "student.safetensors", "codec.safetensors"])
@pytest.mark.parametrize("what", ["pipe", "folder", "nothing", "a link to a device", "noise", "nested"])
def test_files_that_are_no_files_are_one_line(start: Path, name: str, what: str) -> None:
    (start / name).unlink()
    make: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "nothing": lambda path: None,
        "a link to a device": lambda path: path.symlink_to(os.devnull),
        "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
        "nested": lambda path: path.write_text("[" * 200_000),
    }
    make[what](start / name)
    with pytest.raises(CheckpointError) as caught:
        load_bundle(start)
    assert "\n" not in str(caught.value)


def test_a_header_that_lies_about_its_tensors_is_one_line(start: Path) -> None:
    tensors = load_file(start / "student.safetensors")
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first][:1].clone()}, start / "student.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_bundle(start)


def test_a_checkpoint_that_holds_itself_is_one_line(tmp_path: Path) -> None:
    content: dict[str, Any] = {"x": torch.zeros(1)}
    content["model"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="without end"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "told", [{"num_heads": 0}, {"num_layers": 10**9}, {"eps": float("inf")}, {"dim": True}, {"num_heads": "x"}]
)
def test_a_public_config_is_bounded(tmp_path: Path, start: Path, told: dict[str, Any]) -> None:
    from understudy.students.checkpoints.layout import sizes_of

    shapes = {
        "patch_embedding.weight": (32, 4, 1, 2, 2),
        "blocks.0.ffn.0.weight": (64, 32),
        "time_embedding.0.weight": (32, 16),
        "text_embedding.0.weight": (32, 24),
        "head.head.weight": (16, 32),
    }
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(CheckpointError) as caught:
        sizes_of(tensors, "original", told, None, "a file")
    assert "config.json says" in str(caught.value)
    shutil.rmtree(start)
