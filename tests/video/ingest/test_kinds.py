"""Every kind of file that users bring gives what a player shows, or the one line that says why not."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from understudy.errors import ClipError
from understudy.video.clips import Clip, ClipForm, decode_mp4, encode_mp4, fitted, resample
from understudy.video.display import Display
from understudy.video.ingest.guard import Guard, borrow_guard, probe, read_clip


def _script() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "video_kinds.py"
    spec = importlib.util.spec_from_file_location("video_kinds", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which its dataclasses look into
    spec.loader.exec_module(module)
    return module


kinds = _script()


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.name)
def test_kind(kind, tmp_path: Path) -> None:
    with borrow_guard() as guard:
        outcome, wrong = kinds.problem(kind, tmp_path, guard)
    assert not wrong, f"{outcome}: {wrong}"
    assert "\n" not in outcome


def test_damage_in_a_picture_of_several_slices_is_noticed(tmp_path: Path) -> None:
    path = kinds.write(tmp_path / "x.mp4", kinds.film(24, 240, 320), options={"x264-params": "slices=4"})
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    start = data.index(b"mdat") + 800  # past the encoder's own words, which mean nothing to a decoder
    stop = data.index(b"moov") - 4
    with Guard() as guard:
        for _ in range(30):
            damaged = bytearray(data)
            for at in rng.integers(start, stop, 8):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                guard.probe(path)
            except ClipError:
                refused += 1
    assert refused >= 28


@pytest.mark.parametrize("rate", [24, 25, 30, 16, 50])
def test_five_seconds_are_long_enough_for_81_frames_at_16(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(encode_mp4(Clip(kinds.film(5 * rate), rate)))
    assert probe(path).seconds == pytest.approx(5.0)
    assert read_clip(path, ClipForm(48, 64, 16.0, 81)).length == 81
    with pytest.raises(ClipError, match=r"too short: 82 frames at 16 fps need 5\.062 s, but it ends at 5\.000 s"):
        read_clip(path, ClipForm(48, 64, 16.0, 82))


def test_a_last_frame_that_the_file_shows_for_long_counts_to_its_end(tmp_path: Path) -> None:
    path = kinds.write(tmp_path / "x.gif", kinds.film(3), "gif", "rgb8", rate=25, times=[0, 40, 1000])
    assert probe(path).seconds >= 1.04


ROUND = np.zeros((90, 160, 3), np.uint8)
ROUND[(np.indices((90, 160)) - np.array([44.5, 79.5])[:, None, None]).__pow__(2).sum(0) < 30**2] = 250


def _extent(pixels: np.ndarray) -> tuple[int, int]:
    bright = pixels[..., 0] > 125
    return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())


@pytest.mark.parametrize("size", [(48, 48), (90, 60), (60, 100), (48, 83)])
def test_a_circle_stays_round_when_cropped_or_padded(size: tuple[int, int]) -> None:
    scales = (size[0] / 90, size[1] / 160)
    for how, scale in (("crop", max(scales)), ("pad", min(scales))):
        made = fitted(ROUND, *size, how=how)
        assert made.shape == (*size, 3)
        high, wide = _extent(made)
        assert high == pytest.approx(min(size[0], 60 * scale), abs=1.5)
        assert wide == pytest.approx(min(size[1], 60 * scale), abs=1.5)
        middle = np.argwhere(made[..., 0] > 125).mean(axis=0) + 0.5
        assert np.abs(middle - np.array(size) / 2).max() < 0.6
    assert _extent(fitted(ROUND, 45, 40, how="stretch")) == (pytest.approx(30, abs=1), pytest.approx(15, abs=1))


def test_padding_leaves_black_and_loses_nothing() -> None:
    made = fitted(np.full((90, 160, 3), 200, np.uint8), 80, 80, how="pad")
    assert (made[:17] == 0).all()
    assert (made[-17:] == 0).all()
    assert (made[18:62] == 200).all()


def test_an_upright_phone_clip_is_not_pulled_wide(tmp_path: Path) -> None:
    path = kinds.write(tmp_path / "x.mp4", kinds.film(4, 192, 108))
    clip = read_clip(path, ClipForm(48, 84, 24.0, 4))
    whole = read_clip(path).frames
    band = whole[:, 65:127]  # the middle 108 x 61.7 pixels
    assert (
        np.abs(
            clip.frames[:, ::4, ::4].astype(int)
            - resample(Clip(band, 24), 24, 4, (48, 84), "stretch").frames[:, ::4, ::4]
        ).mean()
        < 3
    )
    with borrow_guard() as guard:
        padded = guard.read(path, ClipForm(48, 84, 24.0, 4), None, "pad")
    assert (padded.frames[:, :, :28] == 0).all()


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(ROUND[:, ::2])  # as wide as 2:1 pixels make it again
    path = kinds.write(tmp_path / "x.mp4", np.stack([stored] * 3), pixel_format="yuv444p", aspect=Fraction(2, 1))
    assert read_clip(path).size == (90, 160)
    high, wide = _extent(read_clip(path, ClipForm(90, 90, 24.0, 3)).frames[0])
    assert (high, wide) == (pytest.approx(60, abs=1), pytest.approx(60, abs=2))


def test_displays_compose_as_their_words_say() -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert Display(1).upright(stored).tolist() == [[2, 5], [1, 4], [0, 3]]
    assert Display(0, True).upright(stored).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert Display(1, True).upright(stored).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_own_clips_are_read_as_before() -> None:
    """What the embedded world's runs rest on: square clips, an even stride, whole or fractional scales."""
    clip = Clip(kinds.film(32, 64, 64), 24)
    back = decode_mp4(encode_mp4(clip))
    assert back.frames.shape == clip.frames.shape
    small = resample(clip, 12, 16, (48, 48)).frames
    for k in (0, 7, 15):
        image = Image.fromarray(clip.frames[2 * k]).resize((48, 48), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(small[k], np.asarray(image))
