"""A small whole-clip discriminator: frames and their differences, bidirectional in time, one score.

Each frame and its difference to the next one are embedded by strided convolutions; temporal convolutions see the whole
clip; the prompt modulates the features. Instance noise on the input keeps it from winning on pixel details.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.discriminators.base import Discriminator
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.students.text import TextEncoder, Tokenizer


@dataclass(frozen=True)
class ClipCnnSpec:
    """Size of the discriminator.

    Attributes:
        size: side of the square frames it looks at; clips are area-resized to it.
        width: features per frame.
        noise: standard deviation of the instance noise on frames scaled to [-1, 1].
        skip_frames: first pixel frames it cannot see (replaced by the next): 0 sees all.
        text_length, vocabulary: of its own small text encoder.
    """

    size: int = 24
    width: int = 96
    noise: float = 0.4
    skip_frames: int = 0
    text_length: int = 16
    vocabulary: tuple[str, ...] = ()


def build(config: DiscriminatorConfig, fps: float, vocabulary: Sequence[str]) -> "ClipCnn":
    """Return a fresh network that knows the words of ``vocabulary``; the rate of the clips does not matter to it."""
    spec = ClipCnnSpec(config.size, config.width, config.noise, config.skip_frames, vocabulary=tuple(vocabulary))
    return ClipCnn(spec)


class ClipCnn(Discriminator):
    """See ``Discriminator`` for the contract and ``ClipCnnSpec`` for sizes."""

    def __init__(self, spec: ClipCnnSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.tokenizer = Tokenizer(spec.vocabulary, spec.text_length)
        self.text = TextEncoder(len(spec.vocabulary), spec.text_length, width, 4, 1)
        side = -(-spec.size // 8)
        self.frame = nn.Sequential(
            nn.Conv2d(6, 24, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(24, 48, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(48, 48, 3, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(48 * side * side, width),
            nn.LeakyReLU(0.2),
        )
        self.modulate = nn.Linear(width, 2 * width)
        self.time = nn.Sequential(
            nn.Conv1d(width, width, 5, 1, 2),
            nn.LeakyReLU(0.2),
            nn.Conv1d(width, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv1d(width, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
        )
        self.head = nn.Linear(2 * width, 1)

    def config(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        return asdict(self.spec)

    def prepare(self, clips: Tensor) -> Tensor:
        """Return clips [B, T, 3, H, W] in [0, 1] as the network wants them: [B, T, 3, s, s] in [-1, 1]."""
        b, t = clips.shape[:2]
        small = nn.functional.interpolate(clips.flatten(0, 1), (self.spec.size, self.spec.size), mode="area")
        small = small.unflatten(0, (b, t)) * 2 - 1
        if self.spec.skip_frames:
            first = small[:, self.spec.skip_frames, None].expand(-1, self.spec.skip_frames, -1, -1, -1)
            small = torch.cat([first, small[:, self.spec.skip_frames :]], dim=1)
        return small

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return prompt features [B, D]."""
        return self.text(self.tokenizer(prompts).to(self.head.weight.device))[:, 0]

    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        """Return scores [B] of prepared clips [B, T, 3, s, s] for prompt features [B, D]."""
        b, t = prepared.shape[:2]
        step = torch.cat([prepared[:, 1:] - prepared[:, :-1], torch.zeros_like(prepared[:, :1])], dim=1)
        frames = torch.cat([prepared, 2 * step], dim=2).flatten(0, 1)
        features = self.frame(frames).unflatten(0, (b, t))
        scale, shift = self.modulate(text)[:, None].chunk(2, dim=-1)
        features = self.time((features * (1 + scale) + shift).transpose(1, 2))
        return self.head(torch.cat([features.mean(2), features.amax(2)], dim=1)).squeeze(1)
