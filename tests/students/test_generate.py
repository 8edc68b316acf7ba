import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.errors import ClipError, ConfigError
from understudy.students.base import remembered
from understudy.students.bundle import Bundle, load_bundle
from understudy.students.generate import ClipStream, draw_clips, read_given, stream_clip
from understudy.video.clips import Clip, write_mp4
from understudy.video.mp4 import Frames

PROMPT, OTHER = "a small red ball is dropped", "a large blue box slides"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("builtin:frame").with_window(6, 2)


def drawn(stream: ClipStream) -> Frames:
    return np.concatenate([block.frames for block in stream])


def test_a_stream_is_the_finished_clip_and_its_cache_grows() -> None:
    whole = load_bundle("builtin:frame")
    blocks = list(ClipStream(whole, PROMPT, 3, whole.form.frames))
    wanted = draw_clips(whole, [PROMPT], [3])[0].frames
    frames = np.concatenate([block.frames for block in blocks])[: len(wanted)]
    assert np.abs(frames.astype(int) - wanted).max() <= 1
    sizes = [block.cache_bytes for block in blocks]
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))


def test_a_switch_changes_what_comes_after_it_alone(bundle: Bundle) -> None:
    plain, turned = ClipStream(bundle, PROMPT, 1, 40), ClipStream(bundle, PROMPT, 1, 40)
    for _ in range(8):
        assert np.array_equal(next(plain).frames, next(turned).frames)
    turned.switch(OTHER)
    assert not np.array_equal(drawn(plain), drawn(turned))


def test_switching_to_the_same_prompt_before_the_window_rolls_changes_nothing(bundle: Bundle) -> None:
    plain, turned = ClipStream(bundle, PROMPT, 1, 40), ClipStream(bundle, PROMPT, 1, 40)
    for _ in range(3):
        next(plain), next(turned)
    turned.switch(PROMPT)
    assert np.array_equal(drawn(plain), drawn(turned))


@torch.no_grad()
def test_recache_keeps_the_sink_and_the_latest(bundle: Bundle) -> None:
    student = bundle.student
    text = student.encode_text([PROMPT])
    past = [torch.full((1, 1, *student.latent_shape), float(k)) for k in range(12)]
    kept = remembered(student, past)
    assert [float(block.mean()) for block in kept] == [0, 1, 8, 9, 10, 11]
    wanted = student.empty_cache()
    for block in past:
        wanted = student.commit(block, text, wanted)
    found = student.recache(kept, text, 12)
    assert (found.frames, found.seen) == (wanted.frames, wanted.seen)
    assert torch.equal(found.keys[0], wanted.keys[0])  # deeper layers saw frames that are forgotten by now


def test_without_end_needs_a_window_and_a_length_must_be_positive(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="an endless clip is longer"):
        ClipStream(load_bundle("builtin:frame"), PROMPT, 0)
    with pytest.raises(ConfigError, match="seconds must be a positive number"):
        next(stream_clip(bundle, PROMPT, 0, -1.0))


def test_given_frames_come_first(bundle: Bundle, tmp_path: Path) -> None:
    form = bundle.form
    first = draw_clips(load_bundle("builtin:frame"), [PROMPT], [5])[0]
    write_mp4(tmp_path / "a.mp4", Clip(first.frames[: form.frames // 2], form.fps))
    given = read_given(tmp_path / "a.mp4", form)
    assert given.shape == (form.frames // 2, form.height, form.width, 3)
    found = drawn(ClipStream(bundle, PROMPT, 0, form.frames, given))
    assert np.abs(found[: len(given) // 2].astype(int) - given[: len(given) // 2]).mean() < 8
    with pytest.raises(ConfigError, match="this student needs"):
        ClipStream(bundle, PROMPT, 0, 8, given[:, :-1])


def test_a_picture_is_one_frame_and_damage_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 60), (200, 10, 30)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    given = read_given(tmp_path / "a.png", bundle.form)
    assert given.shape == (1, bundle.form.height, bundle.form.width, 3)
    assert given.reshape(-1, 3).mean(axis=0) == pytest.approx([200, 10, 30], abs=1)
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:60])
    with pytest.raises(ClipError, match="no whole PNG"):
        read_given(tmp_path / "cut.png", bundle.form)
    (tmp_path / "text.mp4").write_text("no video" * 10)
    with pytest.raises(ClipError, match="is not a video file"):
        read_given(tmp_path / "text.mp4", bundle.form)
