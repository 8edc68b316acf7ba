"""Clips that lie inside an answer."""

import base64
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ClipError, ClipRefused
from understudy.teachers.inline import find_clip, save_clip
from understudy.video.clips import Clip, encode_mp4

CLIP = encode_mp4(Clip(np.full((2, 8, 8, 3), 90, np.uint8), 8))
TEXT = base64.b64encode(CLIP).decode()


@pytest.mark.parametrize(
    "address",
    [
        f"data:video/mp4;base64,{TEXT}",
        f"DATA:video/mp4;codecs=avc1;Base64,{TEXT}",
        f"data:;base64,{TEXT.rstrip('=')}",
        f"data:video/mp4;base64,{base64.urlsafe_b64encode(CLIP).decode()}",
        "data:video/mp4;base64," + "\r\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        "data:video/mp4," + "".join(f"%{byte:02x}" for byte in CLIP),
    ],
)
def test_what_a_data_address_holds(tmp_path: Path, address: str) -> None:
    save_clip(address, tmp_path / "clip", 2**20)
    assert (tmp_path / "clip").read_bytes() == CLIP


def test_it_is_limited_and_checked(tmp_path: Path) -> None:
    with pytest.raises(ClipRefused, match="larger than 0 MiB"):
        save_clip(f"data:video/mp4;base64,{TEXT}", tmp_path / "clip", len(CLIP) - 9)
    with pytest.raises(ClipRefused, match="larger than 0 MiB"):
        save_clip("data:," + "a" * 101, tmp_path / "clip", 100)
    for wrong in ("data:video/mp4;base64", "data:video/mp4;base64,!!!!", "data:video/mp4;base64,abcde"):
        with pytest.raises(ClipError):
            save_clip(wrong, tmp_path / "clip", 2**20)


def test_it_is_found_wherever_it_lies() -> None:
    for data in (
        {"data": [{"b64_json": TEXT}]},
        {"video": {"bytesBase64Encoded": TEXT}},
        {"output": f"data:video/mp4;base64,{TEXT}"},
        [[[TEXT]]],
    ):
        found = find_clip(data)
        assert found.endswith(TEXT)
        assert found.startswith("data:video/mp4;base64,")
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(99)).decode()
    for data in ({"prompt": "a" * 500, "thumbnail": picture}, {}, None, 7, {"log": "x y " * 99}):
        assert find_clip(data) == ""
