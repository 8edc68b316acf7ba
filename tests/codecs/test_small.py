from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.codecs.base import Codec, to_frames, to_tensor
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import ClipError

MakeCodec = Callable[..., SmallCodec]


@pytest.fixture
def make_codec() -> MakeCodec:
    def make(channels: int = 4, width: int = 8, frames_per_latent: int = 2) -> SmallCodec:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            codec = SmallCodec(SmallCodecSpec(channels, width, frames_per_latent))
            with torch.no_grad():  # a standardisation that has seen data
                for _ in range(20):
                    codec.encode(torch.rand(2, 8, 3, 16, 16))
        return codec.eval()

    return make


def video(batch: int = 2, frames: int = 12, height: int = 16, width: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def latents(batch: int = 2, frames: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, frames, 4, 2, 3, generator=torch.Generator().manual_seed(seed))


class TestStream:
    @pytest.mark.parametrize("split", [[1] * 6, [2] * 3, [3, 3], [1, 2, 3], [5, 1], [6]])
    @pytest.mark.parametrize("width", [8, 32])
    def test_equals_the_whole_clip_bit_for_bit(self, make_codec: MakeCodec, split: list[int], width: int) -> None:
        codec = make_codec(width=width)
        x = latents()
        with torch.no_grad():
            whole = codec.decode(x)
        decoder = codec.stream()
        streamed = torch.cat([decoder.push(part) for part in x.split(split, dim=1)], dim=1)
        assert whole.shape == (2, 12, 3, 16, 24)
        assert torch.equal(streamed, whole)

    def test_clip_alone_is_as_in_the_batch(self, make_codec: MakeCodec) -> None:
        codec = make_codec()
        x = latents(batch=3)
        with torch.no_grad():
            whole = codec.decode(x)
            assert all(torch.equal(codec.decode(x[b : b + 1])[0], whole[b]) for b in range(3))

    def test_keeps_no_gradient(self, make_codec: MakeCodec) -> None:
        x = latents().requires_grad_()
        codec = make_codec()
        assert not codec.stream().push(x).requires_grad
        assert codec.decode(x).requires_grad  # training may want one


class TestLatentFrames:
    @pytest.mark.parametrize("per_latent", [1, 2, 4])
    def test_are_encoded_on_their_own(self, make_codec: MakeCodec, per_latent: int) -> None:
        codec = make_codec(frames_per_latent=per_latent)
        x = video()
        with torch.no_grad():
            before = codec.encode(x)
            assert before.shape == (2, 12 // per_latent, 4, 2, 3)
            x[1, per_latent] = 1 - x[1, per_latent]  # the first pixel frame of latent frame 1
            change = (codec.encode(x) - before).abs().amax((2, 3, 4))
        assert change[1, 1] > 1e-3
        change[1, 1] = 0
        assert change.max() == 0

    @pytest.mark.parametrize("per_latent", [1, 2, 4])
    def test_are_decoded_on_their_own(self, make_codec: MakeCodec, per_latent: int) -> None:
        codec = make_codec(frames_per_latent=per_latent)
        x = latents()
        with torch.no_grad():
            before = codec.decode(x)
            x[0, 2] += 1
            change = (codec.decode(x) - before).abs().amax((2, 3, 4))
        own = slice(2 * per_latent, 3 * per_latent)
        assert change[0, own].min() > 1e-3
        change[0, own] = 0
        assert change.max() == 0

    def test_pixel_frames_keep_their_order(self, make_codec: MakeCodec) -> None:
        codec = make_codec()
        x = video()
        swapped = x[:, [1, 0, *range(2, 12)]]
        with torch.no_grad():
            change = (codec.encode(swapped) - codec.encode(x)).abs().amax((0, 2, 3, 4))
        assert (change > 1e-4).tolist() == [True] + [False] * 5

    def test_are_of_unit_variance_on_what_was_seen(self, make_codec: MakeCodec) -> None:
        codec = make_codec().train()
        with torch.no_grad():
            codec.encoder[-1].weight.mul_(200)  # untrained features hardly vary
            for seed in range(150):
                codec.encode(video(4, 8, 16, 16, seed=seed))
            codec.eval()
            found = codec.encode(video(8, 8, 16, 16, seed=999))
        assert found.mean((0, 1, 3, 4)).abs().max() < 0.3
        assert found.std((0, 1, 3, 4)).sub(1).abs().max() < 0.3


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "got"),
        [
            ((1, 3, 3, 16, 16), "got 3 frames of 16x16"),
            ((1, 4, 3, 12, 16), "got 4 frames of 12x16"),
            ((1, 4, 3, 16, 20), "got 4 frames of 16x20"),
        ],
    )
    def test_wrong_clip_is_one_line(self, make_codec: MakeCodec, shape: tuple[int, ...], got: str) -> None:
        with pytest.raises(ClipError, match=got) as caught:
            make_codec().encode(torch.zeros(shape))
        message = str(caught.value)
        assert "\n" not in message
        assert "multiple of 2 frames" in message
        assert "multiples of 8" in message


def test_config_rebuilds_the_codec(make_codec: MakeCodec) -> None:
    codec = make_codec(frames_per_latent=4)
    twin = SmallCodec(SmallCodecSpec(**codec.config()))
    twin.load_state_dict(codec.state_dict())
    with torch.no_grad():
        assert torch.equal(twin.eval().encode(video()), codec.encode(video()))
    assert twin.frames_per_latent == codec.frames_per_latent == 4


def test_keeps_the_contract(make_codec: MakeCodec) -> None:
    codec: Codec = make_codec()
    with torch.no_grad():
        again = codec.decode(codec.encode(video()))
    assert again.shape == video().shape


class TestPixels:
    def test_every_level_comes_back_exactly(self) -> None:
        frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
        tensor = to_tensor(frames)
        assert tensor.shape == (1, 3, 16, 16)
        assert tensor.dtype == torch.float32
        assert (tensor.min(), tensor.max()) == (0, 1)
        assert np.array_equal(to_frames(tensor), frames)

    @pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
    def test_axes_go_where_they_belong(self, lead: tuple[int, ...]) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (*lead, 5, 4, 6, 3), dtype=np.uint8)
        tensor = to_tensor(frames)
        assert tensor.shape == (*lead, 5, 3, 4, 6)
        assert tensor[..., 2, 1, 3, 5].mul(255).round().to(torch.uint8).tolist() == frames[..., 2, 3, 5, 1].tolist()
        back = to_frames(tensor)
        assert np.array_equal(back, frames)
        assert back.flags["C_CONTIGUOUS"]

    def test_out_of_range_is_clipped_not_wrapped(self) -> None:
        pixels = torch.tensor([-0.5, -1e-6, 0.5, 1.0, 1.7]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
        assert to_frames(pixels)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]

    def test_source_is_not_written_to(self) -> None:
        frames = np.full((1, 2, 2, 3), 7, np.uint8)
        to_tensor(frames[:, ::-1]).zero_()
        to_tensor(frames).zero_()
        assert (frames == 7).all()

    def test_half_precision_and_gradients_are_accepted(self) -> None:
        tensor = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
        assert to_frames(tensor).dtype == np.uint8
