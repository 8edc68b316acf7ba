import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ClipError
from understudy.video.clips import Clip, ClipForm, decode_mp4, encode_mp4, resample, write_mp4
from understudy.video.decoding import Limits
from understudy.video.ingest.facts import VideoFacts
from understudy.video.ingest.guard import Guard, GuardPool, probe, probe_bytes, read_clip

Video = Callable[..., Path]


def picture(frames: int = 16, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square crossing a grey ground: uint8 [frames, height, width, 3]."""
    drawn = np.full((frames, height, width, 3), 90, np.uint8)
    for t in range(frames):
        drawn[t, 10:26, 2 * t : 2 * t + 16] = (230, 60, 40)
    return drawn


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "container"),
    [
        ("a.mp4", "libx264", "yuv420p", "mp4"),
        ("a.mov", "prores_ks", "yuv422p10le", "mp4"),
        ("a.mkv", "ffv1", "yuv420p", "matroska"),
        ("a.webm", "libvpx-vp9", "yuv420p", "matroska"),
        ("a.mp4", "libx265", "yuv420p10le", "mp4"),
        ("a.mp4", "libsvtav1", "yuv420p", "mp4"),
        ("a.avi", "mjpeg", "yuvj420p", "avi"),
        ("a.avi", "mpeg4", "yuv420p", "avi"),
        ("a.ts", "mpeg2video", "yuv420p", "mpegts"),
        ("a.gif", "gif", "rgb8", "gif"),
        ("a.flv", "flv", "yuv420p", "flv"),
    ],
)
def test_any_codec_is_probed_and_read(video: Video, name: str, codec: str, pixel_format: str, container: str) -> None:
    fps = {"mpeg2video": 24, "gif": 10}.get(codec, 8)
    path = video(name, picture(), codec=codec, pixel_format=pixel_format, fps=fps)
    facts = probe(path)
    assert (facts.frames, facts.width, facts.height, facts.container) == (16, 64, 48, container)
    assert facts.fps == pytest.approx(fps, rel=0.02)
    assert not facts.variable_rate
    assert facts.bit_depth == (10 if "10" in pixel_format else facts.bit_depth)
    clip = read_clip(path)
    assert clip.frames.shape == (16, 48, 64, 3)
    # Dithering to a palette and 4:2:0 both keep the mean of a flat ground.
    assert np.abs(clip.frames[:, 32:46, :60].mean(axis=(0, 1, 2)) - 90).max() < 8


def test_facts_of_a_plain_clip(video: Video) -> None:
    facts = probe(video("a.mp4", picture(), sound=True, options={"bf": "0"}))
    assert (facts.codec, facts.pixel_format, facts.bit_depth) == ("h264", "yuv420p", 8)
    assert (facts.audio, facts.alpha, facts.hdr, facts.rotation) == (True, False, False, 0)
    assert (facts.bars, facts.watermark) == (None, None)
    assert facts.seconds == pytest.approx(2.0)
    assert VideoFacts.from_json(facts.to_json()) == facts


def test_facts_refuse_what_is_not_their_type(video: Video) -> None:
    values = probe(video()).to_json()
    for name, value in (("frames", "16"), ("fps", None), ("bars", [1, 2]), ("audio", 1), ("watermark", 3)):
        with pytest.raises(ValueError, match=name):
            VideoFacts.from_json(values | {name: value})


def test_rotation_is_applied(video: Video) -> None:
    facts = probe(video("a.mp4", picture(), rotation=90))
    assert (facts.width, facts.height, facts.rotation) == (48, 64, 90)
    assert read_clip(video("a.mp4", picture(), rotation=90)).size == (64, 48)


def test_odd_sizes_are_exact(tmp_path: Path) -> None:
    write_mp4(tmp_path / "odd.mp4", Clip(picture(4, 31, 45), 8))
    assert read_clip(tmp_path / "odd.mp4").size == (31, 45)


def test_transparency_is_laid_over_black(video: Video) -> None:
    rgba = np.full((4, 16, 16, 4), 200, np.uint8)
    rgba[..., 3] = 0
    rgba[:, :8, :, 3] = 255
    path = video("a.mov", rgba, codec="qtrle", pixel_format="argb")
    assert probe(path).alpha
    frames = read_clip(path).frames
    assert (frames[:, :8] == 200).all()
    assert (frames[:, 8:] == 0).all()


def test_variable_rate_is_told_and_honoured(video: Video) -> None:
    # Twelve frames at 24 fps, a pause of a second, then twelve more.
    ticks = [round(i * 1000 / 24) for i in range(12)] + [1500 + round(i * 1000 / 24) for i in range(12)]
    frames = np.stack([np.full((16, 16, 3), 10 * i, np.uint8) for i in range(24)])
    path = video("v.mkv", frames, codec="ffv1", pixel_format="bgr0", times=ticks, time_base=Fraction(1, 1000))
    facts = probe(path)
    assert facts.variable_rate
    assert facts.seconds == pytest.approx(1.958 + 1 / 8)  # the file says that its last frame is shown for an eighth
    clip = read_clip(path, ClipForm(16, 16, 8.0, 15))
    wanted = np.arange(15) / 8
    nearest = [int(np.abs(np.array(ticks) / 1000 - time).argmin()) for time in wanted]
    assert (clip.frames[:, 0, 0, 0].astype(int) // 10).tolist() == nearest


def test_times_rounded_by_the_container_are_a_constant_rate(video: Video) -> None:
    path = video("r.webm", picture(), codec="libvpx-vp9", fps=24)
    facts = probe(path)
    assert not facts.variable_rate
    assert facts.fps == pytest.approx(24, rel=1e-3)


@pytest.mark.parametrize("form", [ClipForm(24, 32, 4.0, 8), ClipForm(48, 64, 8.0, 5), ClipForm(40, 50, 12.0, 24)])
def test_form_equals_resampling_the_whole_clip(tmp_path: Path, form: ClipForm) -> None:
    data = encode_mp4(Clip(picture(), 8))
    (tmp_path / "a.mp4").write_bytes(data)
    whole = resample(decode_mp4(data), form.fps, form.frames, (form.height, form.width))
    clip = read_clip(tmp_path / "a.mp4", form)
    assert clip.fps == form.fps
    np.testing.assert_array_equal(clip.frames, whole.frames)


def test_clip_shorter_than_the_form_is_refused(video: Video) -> None:
    with pytest.raises(ClipError, match="too short"):
        read_clip(video(), ClipForm(8, 8, 8.0, 40))


def test_copies_with_other_metadata_have_one_stream(video: Video, tmp_path: Path) -> None:
    one, other = video("one.mp4", options={"bf": "0"}), video("other.mkv", options={"bf": "0"})
    data = one.read_bytes()
    (tmp_path / "free.mp4").write_bytes(data + b"\x00\x00\x00\x09free!")
    first, free = probe(one), probe(tmp_path / "free.mp4")
    assert first.sha256 != free.sha256
    assert first.stream_sha256 == free.stream_sha256
    assert probe(other).sha256 != first.sha256


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"<html>503</html>", "not a video file"),
        (b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", "not a video file"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video file"),
        (b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00", "damaged|no video"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(ClipError, match=words) as caught:
        probe_bytes(data, "x.mp4")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.mp4")


def test_pipes_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (("pipe.mp4", "not a regular file"), ("none.mp4", "does not exist"), ("", "not a regular file")):
        with pytest.raises(ClipError, match=words):
            probe(tmp_path / name)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(file_bytes=100), "too large: .* bytes, limit 100"),
        (Limits(frames=3), "more than 3 frames"),
        (Limits(pixels=1000), "64x48 pixels, limit 1000"),
        (Limits(result_bytes=10_000), "fill more than 10000 bytes"),
    ],
)
def test_each_limit_refuses(video: Video, limits: Limits, words: str) -> None:
    with Guard(limits) as guard, pytest.raises(ClipError, match=words):
        guard.read(video())


def test_memory_limit_is_a_refusal_and_the_worker_goes_on(tmp_path: Path, video: Video) -> None:
    write_mp4(tmp_path / "large.mp4", Clip(np.zeros((1, 4320, 7680, 3), np.uint8), 8))
    with Guard(Limits(memory_bytes=300 << 20)) as guard:
        with pytest.raises(ClipError, match=r"large\.mp4"):
            guard.read(tmp_path / "large.mp4")
        assert guard.read(video("small.mp4")).length == 16


def test_worker_that_hangs_is_killed_and_replaced(video: Video) -> None:
    path = video()
    with Guard(Limits(seconds=-4.0)) as guard:  # one second in all, grace included
        guard._ready()
        process = guard._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(ClipError, match="keeps the decoder busy"):
            guard.probe(path)
        assert process.poll() is not None
        guard.limits = Limits()
        assert guard.probe(path).frames == 16


def test_worker_that_was_killed_is_replaced_unnoticed(video: Video) -> None:
    path = video()
    with Guard() as guard:
        assert guard.probe(path).frames == 16
        assert guard._process is not None
        os.kill(guard._process.pid, signal.SIGKILL)
        assert guard.probe(path).frames == 16


def test_worker_killed_at_work_is_a_refusal_or_an_answer(video: Video) -> None:
    path = video()
    with Guard() as guard:
        guard.probe(path)

        def kill() -> None:
            time.sleep(0.003)
            if guard._process is not None:
                os.kill(guard._process.pid, signal.SIGKILL)

        for _ in range(3):
            thread = threading.Thread(target=kill)
            thread.start()
            with suppress(ClipError):  # where the kill hits the fresh worker that is asked again
                assert guard.probe(path).frames == 16
            thread.join()
        assert guard.probe(path).frames == 16


def test_worker_has_none_of_our_environment(monkeypatch: pytest.MonkeyPatch, video: Video) -> None:
    monkeypatch.setenv("SECRET_API_KEY", "s3cret")
    with Guard() as guard:
        guard.probe(video())
        assert guard._process is not None
        environment = Path(f"/proc/{guard._process.pid}/environ")
        if not environment.exists():
            pytest.skip("needs /proc")
        assert b"s3cret" not in environment.read_bytes()


def test_threads_share_a_guard(video: Video) -> None:
    path, counts = video(), []
    with Guard() as guard:
        threads = [threading.Thread(target=lambda: counts.append(guard.read(path).length)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [16] * 6


def test_a_forked_process_has_a_worker_of_its_own(video: Video) -> None:
    path = video()
    with Guard() as guard:
        guard.probe(path)
        assert guard._process is not None
        worker, pid = guard._process.pid, os.fork()
        if pid == 0:
            same = guard.probe(path).frames == 16 and guard._process is not None and guard._process.pid != worker
            guard.close()
            os._exit(0 if same else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert guard.probe(path).frames == 16
        assert guard._process.pid == worker


def test_damage_that_a_decoder_paints_over_is_refused(video: Video) -> None:
    path = video("a.mkv", picture(), codec="ffv1", pixel_format="bgr0", options={"level": "3", "slicecrc": "1"})
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"damaged at frame \d+ \(.*crc"):
        probe(path)


@pytest.mark.parametrize("where", ["hole", "tail", "end"])
def test_a_gif_has_to_be_whole(video: Video, where: str) -> None:
    path = video("a.gif", codec="gif", pixel_format="rgb8", fps=10)
    data = path.read_bytes()
    third = len(data) // 3
    changed = {"hole": data[:third] + bytes(third) + data[2 * third :], "tail": data + b"more", "end": data[:-1] + b"x"}
    path.write_bytes(changed[where])
    with pytest.raises(ClipError, match=r"damaged|cut short"):
        probe(path)


def test_a_transport_stream_cut_inside_a_packet_is_refused(video: Video) -> None:
    path = video("a.ts", codec="mpeg2video", fps=24)
    path.write_bytes(path.read_bytes()[: -188 * 3 + 5])
    with pytest.raises(ClipError, match="no whole number of packets"):
        probe(path)


def test_more_frames_than_promised_are_refused(video: Video) -> None:
    path = video("a.avi", codec="mjpeg", pixel_format="yuvj420p")
    data = path.read_bytes()
    at = data.index(b"strh") + 40  # the stream header's length in frames
    assert data[at : at + 4] == (16).to_bytes(4, "little")
    path.write_bytes(data[:at] + (9).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(ClipError, match="16 frames where it promises 9"):
        probe(path)


def test_a_pool_gives_each_thread_a_guard_of_its_own_and_one_thread_always_the_same(video: Video) -> None:
    path, pool = video(), GuardPool(2)
    with pool.borrow() as first:
        assert first.probe(path).frames == 16
        with pool.borrow() as second:
            assert second is not first
            assert second._process is None  # not started before it is needed
    with pool.borrow() as one, pool.borrow() as other:
        assert one is first  # which was given back last
        assert other is second
    pool.close()
    assert first._process is None


def test_a_pool_can_be_started_before_the_first_file(video: Video) -> None:
    pool = GuardPool(2)
    with pool.borrow() as busy:  # which is left alone
        pool.start()
        assert busy._process is None
    with pool.borrow(), pool.borrow() as other:
        worker = other._process or busy._process
        assert worker is not None
        assert worker.poll() is None
    pool.close()
