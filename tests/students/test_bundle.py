"""What a bundle may say about its files, and which built-in students there are."""

import json
import lzma
import runpy
import sys
from pathlib import Path

import pytest
import torch

from understudy.errors import CheckpointError
from understudy.students import bundle
from understudy.students.bundle import SHARED_CODEC, load_bundle, read_tensors, save_bundle


def test_built_in_students_share_one_codec_and_a_saved_one_has_its_own(tmp_path: Path) -> None:
    frame, block = load_bundle("builtin:frame"), load_bundle("builtin:block")
    for (name, tensor), (_, other) in zip(
        frame.codec.state_dict().items(), block.codec.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, other), name
    save_bundle(frame, tmp_path / "mine")
    assert "codec_weights" not in json.loads((tmp_path / "mine" / "config.json").read_text())
    with torch.no_grad():
        for tensor in frame.codec.parameters():
            tensor.add_(1.0)
    save_bundle(frame, tmp_path / "mine")
    again = load_bundle(tmp_path / "mine")
    assert all(torch.equal(a, b) for a, b in zip(again.codec.parameters(), frame.codec.parameters(), strict=True))


@pytest.mark.parametrize(
    "shared", ["../codec.safetensors", "/etc/passwd", "builtin:../frame", "builtin:other", 3, ["a"]]
)
def test_a_bundle_shares_a_codec_by_its_name_alone(tmp_path: Path, shared: object) -> None:
    save_bundle(load_bundle("builtin:frame"), tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "codec_weights": SHARED_CODEC}))
    (tmp_path / "mine" / "codec.safetensors").unlink()
    load_bundle(tmp_path / "mine")
    path.write_text(json.dumps({**config, "codec_weights": shared}))
    with pytest.raises(CheckpointError, match=r"config\.json says codec_weights .*: save it again") as found:
        load_bundle(tmp_path / "mine")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["builtin:../assets/frame", "builtin:", "builtin:fram", "builtin:."])
def test_a_built_in_student_goes_by_its_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"choose one of .*builtin:block, builtin:frame"):
        load_bundle(name)


def test_where_the_undistilled_student_is_not_the_wheel_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_ASSETS", tmp_path)
    with pytest.raises(CheckpointError, match=r"builtin:base.*comes with the repository"):
        load_bundle("builtin:base")


def test_students_are_packed_into_the_package_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = tmp_path / "made", tmp_path / "assets"
    for name in ("frame", "block"):
        save_bundle(load_bundle(f"builtin:{name}"), made / name, half=True)
    out.mkdir()
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "ship.py"))
    monkeypatch.setattr(sys, "argv", ["ship.py", str(made), "--out", str(out)])
    script["main"]()
    packed = sorted(path.relative_to(out) for path in out.rglob("*.xz"))
    assert [str(path) for path in packed] == [
        "block/student.safetensors.xz", "codec.safetensors.xz", "frame/student.safetensors.xz"
    ]  # fmt: skip
    for path in packed:
        found, shipped = (lzma.decompress((folder / path).read_bytes()) for folder in (out, script["ASSETS"]))
        assert found == shipped, path
    (made / "frame" / "codec.safetensors").write_bytes(b"another")
    with pytest.raises(SystemExit, match="2 different codecs"):
        script["main"]()


def test_a_packed_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors.xz"
    path.write_bytes(b"no xz at all")
    with pytest.raises(CheckpointError, match=r"is damaged .*: restore it"):
        read_tensors(path)
