from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame

Frames = npt.NDArray[np.uint8]


def moving(frames: int = 16, height: int = 48, width: int = 64, seed: int = 0) -> Frames:
    """A smooth picture drifting sideways, every part of it: uint8 [frames, height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 2, (width + 4 * frames) // 4 + 2, 3))
    fine = np.kron(coarse, np.ones((4, 4, 1)))
    return np.stack([fine[:height, 3 * t : 3 * t + width] for t in range(frames)]).astype(np.uint8)


def write(path: Path, frames: Frames, codec: str = "libx264", pixel_format: str = "yuv420p", **how: Any) -> Path:
    """Write ``frames`` as any codec, with ``times`` in ticks of ``time_base``, ``rotation``, ``sound``, ``options``."""
    fps = how.get("fps", 8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=how.get("options", {}))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if "rotation" in how:
            stream.set_display_rotation(how["rotation"])
        if "times" in how:
            stream.codec_context.time_base = how["time_base"]
        sound = container.add_stream("aac", rate=48000) if how.get("sound") else None
        kind = "rgba" if frames.shape[3] == 4 else "rgb24"
        for i, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            if "times" in how:
                frame.pts, frame.time_base = how["times"][i], how["time_base"]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 48000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    """Writes a drifting picture as the file asked for: ``video("a.webm", codec="libvpx-vp9")``."""

    def make(name: str = "a.mp4", frames: Frames | None = None, **how: Any) -> Path:
        return write(tmp_path / name, moving() if frames is None else frames, **how)

    return make


TICK = Fraction(1, 1000)
