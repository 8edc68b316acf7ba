from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.students.bundle import Bundle, ClipForm, save_bundle
from understudy.students.transformer import CausalVideoTransformer, TransformerSpec

# One thread per process: test processes run side by side, and torch slows down badly on cores it has to share.
torch.set_num_threads(1)

# Time limits are pytest's business; a busy machine must not fail a property.
settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")

TINY = {
    "channels": 4,
    "height": 4,
    "width": 4,
    "patch": 2,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "max_frames": 6,
    "text_length": 6,
    "text_tokens": 2,
    "vocabulary": ("a", "red", "ball", "falls"),
}


@pytest.fixture
def make_student() -> Callable[..., CausalVideoTransformer]:
    """Tiny students; equal seeds give equal weights whatever the block or window.

    Every parameter is moved off its start, since a fresh student's output layer is zero and would hide all else.
    """

    def make(seed: int = 0, **spec: object) -> CausalVideoTransformer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = CausalVideoTransformer(TransformerSpec(**{**TINY, **spec})).eval()  # type: ignore[arg-type]
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return student

    return make


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A student of a few weights that draws 8 frames of 16x16 at 12 fps, in four blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = TransformerSpec(
            channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball")
        )
        codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval()
        student = CausalVideoTransformer(spec).eval()
    save_bundle(Bundle(student, codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "test"), tmp_path / "start")
    return tmp_path / "start"
