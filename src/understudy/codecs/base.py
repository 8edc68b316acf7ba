"""The codec contract: frames to latents and back, whole clips or as a stream."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class StreamDecoder(Protocol):
    """Decodes one clip (or a batch of clips) latent by latent; holds whatever context the codec needs."""

    def push(self, latents: Tensor) -> Tensor:
        """Decode the next latents [B, F, C, h, w] into frames [B, T, 3, H, W] in [0, 1]."""
        ...


class Codec(Protocol):
    """Maps frames [B, T, 3, H, W] in [0, 1] to latents [B, F, C, h, w] of about unit variance, and back."""

    @property
    def frames_per_latent(self) -> int:
        """Pixel frames that one latent frame stands for."""
        ...

    @property
    def first_frames(self) -> int:
        """Pixel frames that the first latent frame of a clip stands for."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Return latents [B, F, C, h, w] of frames [B, T, 3, H, W]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return frames [B, T, 3, H, W] of latents [B, F, C, h, w]; equals the streamed decode exactly."""
        ...

    def stream(self) -> StreamDecoder:
        """Return a decoder for a new clip."""
        ...


class CodecModule(nn.Module):
    """Base of the codecs a bundle can hold: a ``Codec`` that says how to build it again.

    Attributes:
        kind: name of the codec in saved bundles.
        stride: pixels along a side that one latent pixel stands for.
        ships_weights: whether a bundle holds its weights; if not, ``config()`` says where they are.
    """

    kind: ClassVar[str]
    ships_weights: ClassVar[bool] = True
    stride: int = 8

    def config(self) -> Mapping[str, Any]:
        """Return JSON-ready values from which ``students.bundle`` builds it again."""
        raise NotImplementedError

    @property
    def frames_per_latent(self) -> int:
        """See ``Codec``."""
        raise NotImplementedError

    @property
    def first_frames(self) -> int:
        """See ``Codec``."""
        return self.frames_per_latent

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def encode(self, frames: Tensor) -> Tensor:
        """See ``Codec``: [B, T, 3, H, W] to [B, F, C, h, w]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Codec``: [B, F, C, h, w] to [B, T, 3, H, W]."""
        raise NotImplementedError

    def stream(self) -> StreamDecoder:
        """See ``Codec``."""
        raise NotImplementedError


def latent_frames(codec: Codec, frames: int) -> int:
    """Return the latent frames that ``frames`` pixel frames need."""
    return 1 + max(0, -(-(frames - codec.first_frames) // codec.frames_per_latent))


def to_tensor(frames: np.ndarray) -> Tensor:
    """Turn uint8 frames [..., T, H, W, 3] into float frames [..., T, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255


def to_frames(video: Tensor) -> np.ndarray:
    """Turn float frames [..., T, 3, H, W] in [0, 1] into uint8 frames [..., T, H, W, 3]."""
    array = (video.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    return np.ascontiguousarray(array.cpu().numpy())
