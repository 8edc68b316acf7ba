import numpy as np
import pytest

from understudy.video.ingest.marks import Marks


def look(frames: np.ndarray) -> Marks:
    marks = Marks()
    for index, grey in enumerate(frames):
        if marks.wants(index):
            marks.see(grey)
    return marks


def moving(frames: int = 40, height: int = 96, width: int = 128) -> np.ndarray:
    """A rough picture that drifts: uint8 [frames, height, width]."""
    coarse = np.random.default_rng(0).integers(60, 220, (height // 8 + 1, (width + 5 * frames) // 8 + 2))
    fine = np.kron(coarse, np.ones((8, 8)))
    return np.stack([fine[:height, 5 * t : 5 * t + width] for t in range(frames)]).astype(np.uint8)


def with_mark(frames: np.ndarray, y: int, x: int, strength: float = 0.6) -> np.ndarray:
    """Lay a few white strokes over every frame."""
    marked = frames.astype(float)
    for stroke in range(3):
        rows = slice(y + 5 * stroke, y + 5 * stroke + 2)
        marked[:, rows, x : x + 20] = (1 - strength) * marked[:, rows, x : x + 20] + strength * 255
    return marked.astype(np.uint8)


@pytest.mark.parametrize("bars", [(10, 10, 0, 0), (0, 0, 16, 16), (9, 10, 0, 0), (8, 8, 12, 12)])
def test_bars_are_measured(bars: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = bars
    frames = moving()
    frames[:, :top], frames[:, 96 - bottom :] = 16, 16
    frames[:, :, :left], frames[:, :, 128 - right :] = 16, 16
    assert look(frames).bars() == bars


def test_dark_or_lopsided_pictures_have_no_bars() -> None:
    assert look(moving()).bars() is None
    assert look(np.zeros((8, 48, 64), np.uint8)).bars() is None
    dusk = moving()
    dusk[:, :20] = 16
    assert look(dusk).bars() is None
    night = np.broadcast_to((np.arange(96) * 2)[None, :, None], (8, 96, 128)).astype(np.uint8)
    assert look(np.maximum(night, night[:, ::-1]) // 2).bars() is None


@pytest.mark.parametrize(
    ("y", "x", "place"), [(76, 100, "bottom right"), (4, 6, "top left"), (76, 54, "bottom centre")]
)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_still_mark_over_a_moving_picture_is_suspected(y: int, x: int, place: str, strength: float) -> None:
    assert look(with_mark(moving(), y, x, strength)).watermark() == place


def test_moving_and_still_pictures_are_not_suspected() -> None:
    assert look(moving()).watermark() is None
    still = np.repeat(moving(1), 20, axis=0)
    assert look(with_mark(still, 76, 100)).watermark() is None  # nothing tells mark and scene apart
    assert look(moving(3)).watermark() is None


def test_what_is_looked_at_spreads_over_any_length() -> None:
    for length in (5, 16, 17, 100, 1000):
        marks = Marks()
        seen = [i for i in range(length) if marks.wants(i) and (marks.see(np.full((4, 4), i % 256, np.uint8)) or True)]
        assert seen[0] == 0
        assert len(marks._kept) <= 16
        assert length < 16 or len(marks._kept) >= 8
