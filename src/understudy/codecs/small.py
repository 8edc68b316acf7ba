"""A small convolutional codec: two frames of H x W pixels become one latent frame of H/8 x W/8.

Every latent frame is encoded and decoded on its own, so a streamed decode has no state and equals the whole-clip
decode. Latents are standardised per channel and the decoder is trained on slightly noised ones, which keeps it calm
where a generator is a little off.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from understudy.codecs.base import CodecModule
from understudy.codecs.spec_fields import check_fields
from understudy.errors import ClipError

_STRIDE = 8


@dataclass(frozen=True)
class SmallCodecSpec:
    """Size of the small codec: latent ``channels`` C, base ``width`` of the convolutions, frames per latent."""

    channels: int = 16
    width: int = 32
    frames_per_latent: int = 2

    def __post_init__(self) -> None:
        check_fields(self)


class SmallCodec(CodecModule):
    """Frames [B, T, 3, H, W] in [0, 1] <-> latents [B, F, C, h, w] with T = 2 F, H = 8 h, W = 8 w."""

    kind: ClassVar[str] = "small"

    def __init__(self, spec: SmallCodecSpec) -> None:
        super().__init__()
        self.spec = spec
        pixels, width = 3 * spec.frames_per_latent, spec.width
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 3 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(3 * width, spec.channels, 3, 1, 1),
        )
        self.standardise = nn.BatchNorm2d(spec.channels, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(spec.channels, 3 * width, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(3 * width, 6 * width, 3, 1, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(3 * width // 2, 4 * width, 3, 1, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, 4 * pixels, 3, 1, 1),
            nn.PixelShuffle(2),
        )

    @property
    def frames_per_latent(self) -> int:
        """Pixel frames that one latent frame stands for."""
        return self.spec.frames_per_latent

    def config(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        return asdict(self.spec)

    def encode(self, frames: Tensor) -> Tensor:
        """Return latents [B, F, C, h, w] of frames [B, T, 3, H, W] in [0, 1].

        Raises:
            ClipError: T is not a multiple of the frames per latent, or H, W not of 8.
        """
        b, t, _, height, width = frames.shape
        step = self.frames_per_latent
        if t % step or height % _STRIDE or width % _STRIDE:
            raise ClipError(
                f"the codec needs a multiple of {step} frames and sides that are multiples of {_STRIDE}, "
                f"got {t} frames of {height}x{width}: resample the clip first"
            )
        stacked = frames.reshape(b * (t // step), step * 3, height, width)
        latents = self.standardise(self.encoder(stacked * 2 - 1))
        return latents.reshape(b, t // step, *latents.shape[1:])

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames [B, T, 3, H, W], nominally in [0, 1], of latents [B, F, C, h, w]."""
        b, f = latents.shape[:2]
        frames = (self.decoder(latents.flatten(0, 1)) + 1) / 2
        return frames.reshape(b, f * self.frames_per_latent, 3, *frames.shape[-2:])

    def stream(self) -> "SmallCodecStream":
        """Return a decoder for a new clip."""
        return SmallCodecStream(self)


class SmallCodecStream:
    """Streamed decoding; this codec needs no context between latent frames."""

    def __init__(self, codec: SmallCodec) -> None:
        self._codec = codec

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Decode the next latents [B, F, C, h, w] into frames [B, T, 3, H, W]."""
        return self._codec.decode(latents)
