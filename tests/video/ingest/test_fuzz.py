"""A quick version of benchmarks/fuzz_videos.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ClipError
from understudy.video.decoding import Limits
from understudy.video.ingest.guard import Guard


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])
def test_damaged_files_are_refused_or_read(video: Callable[..., Path], name: str, codec: str) -> None:
    path = video(name, codec=codec)
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    read = 0
    with Guard(Limits(seconds=20)) as guard:
        worker = None
        for number in range(30):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 1 + number):
                damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged if number % 3 else damaged[: rng.integers(len(data))])
            try:
                read += guard.probe(path).frames >= 1
            except ClipError as error:
                refused += len(str(error).splitlines()) == 1
            worker = worker or guard._process
        assert guard._process is worker  # one worker outlived them all
    assert refused + read == 30
    assert refused > 10
