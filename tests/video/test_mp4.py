import io

import av
import numpy as np
import pytest

from understudy.errors import ClipError
from understudy.video.clips import Clip, decode_mp4, encode_mp4
from understudy.video.mp4 import FragmentedMp4, Frames, Mp4Encoder


def moving(frames: int, height: int = 32, width: int = 48) -> Frames:
    """A smooth gradient that moves: [T, H, W, 3]."""
    t, y, x = np.ogrid[:frames, :height, :width]
    grey = np.broadcast_to((4 * t + 2 * y + x) % 200 + 20, (frames, height, width)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def test_pushed_in_parts_gives_the_same_bytes_as_at_once() -> None:
    frames = moving(7)
    encoder = Mp4Encoder(32, 48, 12.0)
    for part in (frames[:1], frames[1:4], frames[4:]):
        encoder.push(part)
    data = encoder.finish()
    assert data == encode_mp4(Clip(frames, 12.0))
    decoded = decode_mp4(data)
    assert (decoded.fps, decoded.frames.shape) == (12.0, frames.shape)
    assert np.abs(decoded.frames.astype(int) - frames).mean() < 1


@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_fragments_are_one_video_in_order_and_on_time(size: tuple[int, int]) -> None:
    frames = moving(9, *size)
    writer = FragmentedMp4(*size, 12.0)
    parts = [writer.push(frames[:2]), writer.push(frames[2:3]), writer.push(frames[3:])]
    with av.open(io.BytesIO(writer.header + b"".join(parts))) as container:
        shown = list(container.decode(video=0))
    assert [frame.time for frame in shown] == pytest.approx([k / 12 for k in range(9)], abs=1e-3)
    assert [k for k, frame in enumerate(shown) if frame.key_frame] == [0, 2, 3]
    for frame, wanted in zip(shown, frames, strict=True):
        pixels = frame.to_ndarray(format="rgb24").astype(int)[: size[0], : size[1]]
        assert np.abs(pixels - wanted).mean() < 4


def test_late_viewers_start_at_any_fragment() -> None:
    frames = moving(6)
    writer = FragmentedMp4(32, 48, 12.0)
    parts = [writer.push(frames[:3]), writer.push(frames[3:])]
    with av.open(io.BytesIO(writer.header + parts[1])) as container:
        assert len(list(container.decode(video=0))) == 3


def test_two_writers_give_the_same_bytes_and_their_type_names_the_codec() -> None:
    frames = moving(4)
    first, second = FragmentedMp4(32, 48, 12.0), FragmentedMp4(32, 48, 12.0)
    assert first.header + first.push(frames) == second.header + second.push(frames)
    assert first.mime.startswith('video/mp4; codecs="avc1.42')


def test_what_the_encoder_refuses_is_one_line() -> None:
    with pytest.raises(ClipError, match="crf must lie in"):
        Mp4Encoder(32, 48, 12.0, crf=52)
    with pytest.raises(ClipError, match="at least 1/1001"):
        Mp4Encoder(32, 48, 1e-9)
