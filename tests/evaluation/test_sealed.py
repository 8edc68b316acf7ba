"""The sealed side file and the parse floor that it gives."""

from pathlib import Path

import numpy as np
import pytest

from understudy.errors import StoreError
from understudy.evaluation.sealed import Truth, parse_floor, read
from understudy.teachers.base import ClipParams
from understudy.teachers.world.teacher import WorldTeacher
from understudy.video.clips import decode_mp4, resample

PROMPTS = (
    "a small red ball is dropped",
    "a large cyan ball is thrown to the left",
    "a small blue ball hits a small green ball head on",
)


def test_the_parse_floor_of_the_teachers_clips(tmp_path: Path) -> None:
    teacher = WorldTeacher(sealed=tmp_path)
    files = [teacher.generate(prompt, seed, ClipParams()) for seed, prompt in enumerate(PROMPTS)]
    truths = [read(tmp_path, mp4) for mp4 in files]
    clips = [resample(decode_mp4(mp4), 12, 16, (48, 48)) for mp4 in files]
    floor = parse_floor(clips, PROMPTS, truths, fps=24)
    assert floor.n == 3
    assert floor.missed == 0
    assert floor.error < 0.15
    assert floor.error < floor.worst < 0.3
    own = parse_floor([decode_mp4(mp4) for mp4 in files], PROMPTS, truths)
    assert own.error < 0.2


def test_a_wrong_truth_shows(tmp_path: Path) -> None:
    teacher = WorldTeacher(sealed=tmp_path)
    mp4 = teacher.generate(PROMPTS[0], 0, ClipParams())
    truth = read(tmp_path, mp4)
    moved = Truth(truth.positions + np.array([3 / 64, 4 / 64]), truth.radii)
    assert parse_floor([decode_mp4(mp4)], PROMPTS[:1], [moved]).error == pytest.approx(5, abs=0.1)


def test_missing_damaged_and_short_states_are_told(tmp_path: Path) -> None:
    teacher = WorldTeacher(sealed=tmp_path)
    mp4 = teacher.generate(PROMPTS[0], 0, ClipParams())
    with pytest.raises(StoreError, match="no sealed states"):
        read(tmp_path, b"another file")
    truth = read(tmp_path, mp4)
    with pytest.raises(StoreError, match="have 9 frames, the clip needs 32"):
        parse_floor([decode_mp4(mp4)], PROMPTS[:1], [Truth(truth.positions[:9], truth.radii)])
    (path,) = tmp_path.glob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="damaged"):
        read(tmp_path, mp4)
    np.savez(path, positions=np.zeros((4, 2)), radii=np.zeros(1))
    with pytest.raises(StoreError, match="damaged"):
        read(tmp_path, mp4)


def test_no_clips_give_no_number() -> None:
    floor = parse_floor([], [], [])
    assert floor.n == 0
    assert np.isnan(floor.error)
