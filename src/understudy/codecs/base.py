"""The codec contract: frames to latents and back, whole clips or as a stream."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


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


def to_tensor(frames: np.ndarray) -> Tensor:
    """Turn uint8 frames [..., T, H, W, 3] into float frames [..., T, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 255


def to_frames(video: Tensor) -> np.ndarray:
    """Turn float frames [..., T, 3, H, W] in [0, 1] into uint8 frames [..., T, H, W, 3]."""
    array = (video.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    return np.ascontiguousarray(array.cpu().numpy())
