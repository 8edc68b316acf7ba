import io
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from understudy.errors import ClipError, UnderstudyError
from understudy.video.clips import Clip, decode_mp4, encode_mp4, read_mp4, resample, write_mp4


def moving_disc(frames: int = 16, size: int = 64) -> npt.NDArray[np.uint8]:
    """A red antialiased disc crossing a blue gradient: uint8 [frames, size, size, 3]."""
    y, x = np.mgrid[:size, :size] + 0.5
    ground = np.array([30, 60, 200]) * (0.5 + 0.5 * y / size)[..., None]
    drawn = []
    for t in range(frames):
        inside = np.clip(8.5 - np.hypot(x - 12 - 2.5 * t, y - 20 - 1.3 * t), 0, 1)[..., None]
        drawn.append(inside * np.array([230, 40, 60]) + (1 - inside) * ground)
    return np.round(np.array(drawn)).astype(np.uint8)


def centroids(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Centre of the red disc of `moving_disc` in each frame: [T, 2] pixels."""
    weight = np.clip(frames[..., 0].astype(float) - 60, 0, None)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight * axis).sum(axis=(1, 2)) / total for axis in (x, y)], axis=-1)


def foreign_mp4(pixel_format: str = "yuv420p", movflags: str = "faststart", rotation: int = 0) -> bytes:
    """What other writers make: B-frames, an edit list, halved colour resolution, index first; 40 frames, lossless."""
    # A real file: moving the index to the front makes FFmpeg open it a second time, by name.
    file = Path(tempfile.mkdtemp()) / "x.mp4"
    with av.open(str(file), "w", container_options={"movflags": movflags}) as container:
        stream = container.add_stream("libx264", rate=24, options={"bf": "3", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels in moving_disc(40)[:, :48]:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = file.read_bytes()
    shutil.rmtree(file.parent)
    return data


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), 8, "uint8 array, got float32"),
        ([[0]], 8, "uint8 array, got list"),
        (np.zeros((4, 4, 3), np.uint8), 8, r"shape \[4, 4, 3\]"),
        (np.zeros((1, 3, 4, 4), np.uint8), 8, r"\[T, H, W, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8, "at least one frame"),
        (np.zeros((1, 0, 4, 3), np.uint8), 8, "at least one frame"),
        (np.zeros((1, 4, 4, 3), np.uint8), 0, "above 0, got 0"),
        (np.zeros((1, 4, 4, 3), np.uint8), float("nan"), "above 0, got nan"),
    ],
)
def test_malformed_clip_is_refused(frames: npt.NDArray[np.uint8], fps: float, words: str) -> None:
    with pytest.raises(ClipError, match=words):
        Clip(frames, fps)


def test_clip_properties() -> None:
    clip = Clip(np.zeros((6, 4, 5, 3), np.uint8), 12)
    assert (clip.length, clip.height, clip.width, clip.size, clip.seconds) == (6, 4, 5, (4, 5), 0.5)


def test_round_trip_keeps_colours_and_places() -> None:
    clip = Clip(moving_disc(), 8)
    back = decode_mp4(encode_mp4(clip))
    error = np.abs(back.frames.astype(int) - clip.frames)
    # Measured: mean 0.42, worst 9, centroid 0.006 pixels.
    assert error.mean() < 0.6
    assert error.max() <= 16
    assert np.abs(back.frames.mean((0, 1, 2)) - clip.frames.mean((0, 1, 2))).max() < 0.25
    assert np.abs(centroids(back.frames) - centroids(clip.frames)).max() < 0.05
    assert back.fps == 8


def test_encoding_is_deterministic() -> None:
    clip = Clip(moving_disc(), 8)
    assert encode_mp4(clip) == encode_mp4(clip)


def test_smaller_crf_is_closer() -> None:
    clip = Clip(moving_disc(), 8)
    fine, coarse = (
        np.abs(decode_mp4(encode_mp4(clip, crf)).frames.astype(int) - clip.frames).mean() for crf in (0, 30)
    )
    assert fine < 0.45 < coarse
    with pytest.raises(ClipError, match="crf must lie in"):
        encode_mp4(clip, 60)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 5),
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    fps=st.sampled_from([0.5, 1, 8, 12.5, 23.976, 24000 / 1001, 30, 120]),
    seed=st.integers(0, 9),
)
def test_round_trip_of_any_shape_and_rate(frames: int, height: int, width: int, fps: float, seed: int) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (frames, 1, 1, 3), dtype=np.uint8)
    clip = Clip(np.ascontiguousarray(np.broadcast_to(colours, (frames, height, width, 3))), fps)
    data = encode_mp4(clip)
    back = decode_mp4(data)
    assert back.frames.shape == clip.frames.shape
    assert back.fps == pytest.approx(fps, rel=1e-5)
    assert np.abs(back.frames.astype(int) - clip.frames).max() <= 6


def test_frames_in_any_memory_layout_encode_alike() -> None:
    frames = moving_disc(3)
    mirrored = frames[:, :, ::-1]
    assert encode_mp4(Clip(mirrored, 8)) == encode_mp4(Clip(np.ascontiguousarray(mirrored), 8))


def test_write_and_read(tmp_path: Path) -> None:
    clip = Clip(moving_disc(3), 8)
    write_mp4(tmp_path / "a.mp4", clip)
    assert (tmp_path / "a.mp4").read_bytes() == encode_mp4(clip)
    assert read_mp4(tmp_path / "a.mp4").frames.shape == clip.frames.shape
    with pytest.raises(UnderstudyError, match="cannot write"):
        write_mp4(tmp_path / "missing" / "a.mp4", clip)


@pytest.mark.parametrize(
    "movflags", ["faststart", "frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof"]
)
def test_clips_of_other_writers_arrive_whole(movflags: str) -> None:
    data = foreign_mp4(movflags=movflags)
    clip = decode_mp4(data)
    assert (clip.length, clip.fps, clip.size) == (40, 24.0, (48, 64))
    # Untagged colours are BT.601; taken for BT.709 the error would be over 6 levels.
    assert np.abs(clip.frames.astype(int) - moving_disc(40)[:, :48]).mean() < 3


def test_rotated_clip_is_shown_upright() -> None:
    upright, turned = decode_mp4(foreign_mp4()), decode_mp4(foreign_mp4(rotation=90))
    assert turned.size == (64, 48)
    np.testing.assert_array_equal(turned.frames, np.rot90(upright.frames, axes=(1, 2)))


def test_sound_is_dropped() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=8)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        for pixels in moving_disc(4):
            container.mux(video.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    assert decode_mp4(buffer.getvalue()).length == 4


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x.mp4 is empty"),
        (b"short", "not an mp4"),
        (b"<html>503 Service Unavailable</html>", "not an mp4"),
        (picture(), "not an mp4"),
        (b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00", "x.mp4"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ClipError, match=words) as caught:
        read_mp4(tmp_path / "x.mp4")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"x\.mp4 does not exist"):
        read_mp4(tmp_path / "x.mp4")
    with pytest.raises(ClipError, match=r"cannot read clip .*: is a directory"):
        read_mp4(tmp_path)


def test_mp4_without_video_is_refused() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(ClipError, match="no video track"):
        decode_mp4(buffer.getvalue())


@pytest.mark.parametrize("index_first", [True, False])
def test_every_truncation_is_noticed(index_first: bool) -> None:
    data = foreign_mp4() if index_first else encode_mp4(Clip(moving_disc(4), 8))
    for length in [*range(0, len(data), 41), len(data) - 1]:
        with pytest.raises(ClipError):
            decode_mp4(data[:length])


def test_frames_that_the_file_promises_but_lacks_are_noticed() -> None:
    data = foreign_mp4()
    whole = data.index(b"mdat") + 4
    # Same length, so that only decoding can tell: the last half of the frames is blank.
    middle = whole + (len(data) - whole) // 2
    with pytest.raises(ClipError, match=r"damaged|cut short"):
        decode_mp4(data[:middle] + bytes(len(data) - middle))


SOUND = encode_mp4(Clip(moving_disc(4), 8))


@settings(max_examples=80, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_an_error_or_harmless_but_never_a_traceback(at: float, bit: int) -> None:
    data = bytearray(SOUND)
    data[int(at * len(data))] ^= 1 << bit
    with suppress(ClipError):
        decode_mp4(bytes(data))


def numbered(frames: int, fps: float, size: int = 2) -> Clip:
    """A clip whose frame k is grey level k."""
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return Clip(np.ascontiguousarray(np.broadcast_to(levels, (frames, size, size, 3))), fps)


@pytest.mark.parametrize(
    ("source", "fps", "frames", "expected"),
    [
        (numbered(8, 8), 8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (numbered(8, 8), 8, 3, [0, 1, 2]),
        (numbered(8, 8), 4, 4, [0, 2, 4, 6]),
        (numbered(4, 8), 16, 8, [0, 1, 1, 2, 2, 3, 3, 3]),
        (numbered(9, 24), 8, 3, [0, 3, 6]),
        (numbered(6, 30), 24, 5, [0, 1, 3, 4, 5]),
        (numbered(1, 8), 8, 1, [0]),
    ],
)
def test_resample_takes_the_nearest_frame(source: Clip, fps: float, frames: int, expected: list[int]) -> None:
    clip = resample(source, fps, frames)
    assert clip.frames[:, 0, 0, 0].tolist() == expected
    assert clip.fps == fps


@given(source_fps=st.floats(1, 60), fps=st.floats(1, 60), length=st.integers(1, 60), frames=st.integers(1, 60))
def test_resampled_frame_is_never_more_than_half_a_frame_off(
    source_fps: float, fps: float, length: int, frames: int
) -> None:
    source = numbered(length, source_fps, size=1)
    late = (frames - 1) / fps - length / source_fps
    if late > 2e-3:
        with pytest.raises(ClipError, match="too short"):
            resample(source, fps, frames)
    elif late < 0:
        taken = resample(source, fps, frames).frames[:, 0, 0, 0]
        wanted = np.arange(frames) / fps * source_fps
        within = wanted <= length - 1
        assert np.abs(taken - wanted)[within].max() <= 0.5 + 1e-3
        assert (taken[~within] == length - 1).all()  # a frame is shown until its end


def test_resample_resizes_by_area_and_keeps_places() -> None:
    frames = moving_disc(8)
    clip = resample(Clip(frames, 8), 8, 8, size=(32, 32))
    mean = frames.reshape(8, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(clip.frames - mean).max() <= 0.5
    uneven = resample(Clip(frames, 8), 8, 8, size=(40, 48), how="stretch")
    assert uneven.frames.shape == (8, 40, 48, 3)
    scaled = (centroids(frames) + 0.5) * [48 / 64, 40 / 64] - 0.5
    assert np.abs(centroids(uneven.frames) - scaled).max() < 0.1


def test_resize_averages_fine_detail_instead_of_aliasing() -> None:
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    clip = Clip(np.ascontiguousarray(np.broadcast_to(checks[None, ..., None], (1, 64, 64, 3))), 8)
    for size in (16, 23):
        assert np.abs(resample(clip, 8, 1, size=(size, size)).frames.astype(int) - 127).max() < 12


@pytest.mark.parametrize(
    ("fps", "frames", "size", "words"),
    [
        (0, 4, None, "0 fps"),
        (float("inf"), 4, None, "inf fps"),
        (8, 0, None, "0 frames"),
        (8, 4, (0, 4), "4x0 pixels"),
        (8, 10, None, "too short: 10 frames at 8 fps need 1.125 s, but it ends at 1.000 s"),
    ],
)
def test_resample_refuses_what_cannot_be(fps: float, frames: int, size: tuple[int, int] | None, words: str) -> None:
    with pytest.raises(ClipError, match=words):
        resample(numbered(8, 8), fps, frames, size)
