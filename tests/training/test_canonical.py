from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.codecs.base import to_frames, to_tensor
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import ClipError
from understudy.students.bundle import ClipForm
from understudy.students.transformer.model import CausalVideoTransformer
from understudy.training.canonical import Rerender, encode_clips, rerender
from understudy.video.clips import Clip

MakeStudent = Callable[..., CausalVideoTransformer]

FORM = ClipForm(height=16, width=24, fps=12.0, frames=8)
PROMPTS = ["a red ball falls", "ball", "a ball", "red", ""]


def ramp_clip(frames: int, height: int, width: int, fps: float, speed: float = 60.0) -> Clip:
    """A clip whose brightness says the time, ``speed`` levels a second, and whose colour says the place."""
    level = speed * np.arange(frames) / fps
    video = np.zeros((frames, height, width, 3))
    video[..., 0] = level[:, None, None]
    video[..., 1] = np.linspace(0, 200, width)
    video[..., 2] = np.linspace(0, 200, height)[:, None]
    return Clip(video.round().astype(np.uint8), fps)


class Glass:
    """A codec that lets the canonical pixels through."""

    device = torch.device("cpu")

    def encode(self, frames: Tensor) -> Tensor:
        return frames


def canonical(clip: Clip) -> np.ndarray:
    """The frames [T, H, W, 3] that a codec is given for ``clip``."""
    return to_frames(encode_clips([clip], FORM, Glass()))[0]  # type: ignore[arg-type]


@pytest.fixture
def codec() -> SmallCodec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallCodec(SmallCodecSpec(channels=4, width=8)).eval()


def latents(batch: int = 5, frames: int = 6) -> Tensor:
    return torch.randn(batch, frames, 4, 4, 4, generator=torch.Generator().manual_seed(0))


class TestCanonicalForm:
    @pytest.mark.parametrize(
        "source", [(16, 64, 96, 24.0), (40, 33, 50, 30.0), (8, 16, 24, 12.0), (5, 8, 8, 6.0), (16, 120, 208, 24.0)]
    )
    def test_brings_any_clip_to_one_size_rate_and_length(self, source: tuple[int, int, int, float]) -> None:
        assert canonical(ramp_clip(*source)).shape == (8, 16, 24, 3)

    @pytest.mark.parametrize("fps", [12.0, 24.0, 30.0, 60.0])
    def test_keeps_time_and_place(self, fps: float) -> None:
        found = canonical(ramp_clip(int(fps), 32, 48, fps)).astype(float)
        time = found[..., 0].mean((1, 2))
        # Within half a source frame of the moment that each frame stands for.
        assert np.abs(time - 60 * np.arange(8) / 12).max() <= 60 * 0.5 / fps + 1
        across = found[..., 1].mean((0, 1))
        down = found[..., 2].mean((0, 2))
        assert (np.diff(across) > 0).all()
        assert (np.diff(down) > 0).all()

    def test_canonical_clip_stays_as_it_is(self) -> None:
        clip = ramp_clip(8, 16, 24, 12.0)
        assert np.array_equal(canonical(clip), clip.frames)

    def test_short_clip_is_refused(self) -> None:
        with pytest.raises(ClipError, match="too short"):
            canonical(ramp_clip(6, 16, 24, 12.0))


class TestEncodeClips:
    def test_clips_of_any_kind_become_one_batch(self, codec: SmallCodec) -> None:
        clips = [ramp_clip(16, 64, 96, 24.0), ramp_clip(8, 16, 24, 12.0), ramp_clip(30, 33, 50, 30.0)]
        found = encode_clips(clips, FORM, codec)
        assert found.shape == (3, 4, 4, 2, 3)
        with torch.no_grad():
            expected = codec.encode(to_tensor(canonical(clips[2]))[None])[0]
        torch.testing.assert_close(found[2], expected, rtol=0, atol=1e-6)
        assert not found.requires_grad

    def test_batches_do_not_matter(self, codec: SmallCodec) -> None:
        clips = [ramp_clip(8, 16, 24, 12.0, speed) for speed in (10, 60, 100)]
        whole = encode_clips(clips, FORM, codec)
        torch.testing.assert_close(encode_clips(clips, FORM, codec, batch=2), whole, rtol=0, atol=1e-6)
        assert (whole[0] - whole[2]).abs().max() > 1e-3


class TestRerender:
    @pytest.mark.parametrize("block", [1, 2, 3])
    def test_is_deterministic_and_keeps_the_shape(self, make_student: MakeStudent, block: int) -> None:
        student = make_student(block_frames=block)
        x = latents()
        found = rerender(student, x, PROMPTS, (0.625, 0.3), seed=3)
        assert found.shape == x.shape
        assert not found.requires_grad
        assert bool(found.isfinite().all())
        assert torch.equal(found, rerender(student, x, PROMPTS, (0.625, 0.3), seed=3))
        assert (found - rerender(student, x, PROMPTS, (0.625, 0.3), seed=4)).abs().max() > 1e-2
        assert torch.equal(x, latents())

    def test_batches_do_not_matter(self, make_student: MakeStudent) -> None:
        student = make_student()
        whole = rerender(student, latents(), PROMPTS, (0.5,), seed=3)
        parts = rerender(student, latents(), PROMPTS, (0.5,), seed=3, batch=2)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)

    def test_clips_do_not_share_noise(self, make_student: MakeStudent) -> None:
        student = make_student()
        same = latents(1).expand(3, -1, -1, -1, -1)
        a, b, c = rerender(student, same, ["ball"] * 3, (0.5,), seed=3)
        assert min((a - b).abs().max(), (b - c).abs().max(), (a - c).abs().max()) > 1e-2

    def test_lower_levels_keep_more_of_the_source(self, make_student: MakeStudent) -> None:
        student, x = make_student(), latents()
        far, near, still = (
            (rerender(student, x, PROMPTS, (level,), seed=0) - x).abs().mean() for level in (0.8, 0.2, 1e-3)
        )
        assert far > near > still
        assert still < 0.01

    def test_prompt_is_read(self, make_student: MakeStudent) -> None:
        student, x = make_student(), latents(1)
        a, b = (rerender(student, x, [prompt], (0.8,), seed=0) for prompt in ("a red ball falls", "ball"))
        assert (a - b).abs().max() > 1e-3

    @pytest.mark.parametrize(
        ("level", "sampler", "visited"),
        [
            (0.5, (1.0, 0.75, 0.5, 0.25), [0.5, 0.25]),
            (0.6, (1.0, 0.75, 0.5, 0.25), [0.6, 0.5, 0.25]),
            (0.5, (1.0, 0.5), [0.5]),
        ],
    )
    def test_visits_its_level_and_those_below_it_once_each(
        self, make_student: MakeStudent, monkeypatch: pytest.MonkeyPatch, level: float, sampler, visited: list[float]
    ) -> None:
        student, seen = make_student(block_frames=3), []
        velocity = student.velocity

        def heard(noisy: Tensor, levels: Tensor, *rest: object) -> Tensor:
            seen.append(float(levels.unique()))
            return velocity(noisy, levels, *rest)

        monkeypatch.setattr(student, "velocity", heard)
        Rerender(student, level, sampler)(latents(), PROMPTS, seed=3)
        assert seen == pytest.approx(2 * visited)  # two blocks

    def test_copies_are_drawn_with_other_noise_the_first_with_the_seed_s_own(self, make_student: MakeStudent) -> None:
        student = make_student()
        drawn = Rerender(student, 0.5, (1.0, 0.5))(latents(), PROMPTS, seed=3, copies=3).unflatten(0, (3, 5))
        assert torch.equal(drawn[0], rerender(student, latents(), PROMPTS, (0.5,), seed=3))
        assert min((drawn[i] - drawn[j]).abs().amax((1, 2, 3, 4)).min() for i, j in ((0, 1), (1, 2), (0, 2))) > 1e-2
