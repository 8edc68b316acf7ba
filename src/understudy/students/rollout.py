"""The one rollout: training collects it, ``generate`` writes it, a server streams it.

Few-step sampling as in Self-Forcing (2506.08009): at every warped level predict x_0, re-noise to the next level with
fresh noise, and commit the clean block to the cache. Levels are given as the sampler visits them, from 1 downwards.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.students.base import Student, block_size

Noise = Callable[[int, int, tuple[int, ...]], Tensor]
"""(block index, step index, shape [B, b, C, h, w]) -> standard normal noise."""
Steer = Callable[[int, Any], Any]
"""(block index, cache) -> the conditioning to go on with, or None to leave it; asked before every block."""


class SeededNoise:
    """Noise that depends only on each sample's own seed, so a clip does not depend on its batch.

    Samples given equal ``prefix_seeds`` share all noise of the first ``prefix_blocks`` blocks: a group with one opening.
    """

    def __init__(self, seeds: Sequence[int], prefix_seeds: Sequence[int] = (), prefix_blocks: int = 0) -> None:
        self._own = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._prefix = [torch.Generator().manual_seed(seed) for seed in prefix_seeds]
        self._prefix_blocks = prefix_blocks if prefix_seeds else 0

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Return noise of ``shape`` [B, b, C, h, w] for this block and step."""
        generators = self._prefix if block < self._prefix_blocks else self._own
        if len(generators) != shape[0]:
            raise ConfigError(f"a batch of {shape[0]} needs as many seeds, got {len(generators)}")
        return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])


@dataclass(frozen=True)
class Start:
    """Begin each block from given latents noised to the first level instead of pure noise (SDEdit, 2108.01073).

    Attributes:
        latents: [B, F, C, h, w], F a multiple of the block.
    """

    latents: Tensor


@torch.no_grad()
def rollout(
    student: Student,
    text: Any,
    batch: int,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    frames: int | None = None,
    start: Start | None = None,
    given: Tensor | None = None,
    steer: Steer | None = None,
) -> Iterator[Tensor]:
    """Yield clean latent blocks [B, b, C, h, w], ``frames`` latent frames in all, or without end.

    Args:
        student: the policy to roll out.
        text: its conditioning of ``batch`` prompts.
        batch: B.
        levels: warped noise levels, descending; the first is 1 unless ``start`` is given. One list for each of the first
            blocks gives them levels of their own; the last list repeats.
        noise: source of the initial and of the re-noising noise.
        frames: latent frames to draw, rounded up to whole blocks; None streams for ever.
        start: latents to re-render; then ``levels[0]`` < 1 says how far they are noised.
        given: clean latents [B, F, C, h, w] of an image or a clip to go on from, F a multiple of the block; they are
            yielded and committed as the first blocks.
        steer: turns the rollout to another prompt on the way. The past is computed again with it (the recache of
            LongLive, 2509.22622): the picture goes on, what it attends to says the new prompt.
    """
    cache = student.empty_cache()
    previous: Tensor | None = None
    index = drawn = 0
    while frames is None or drawn < frames:
        size = block_size(student, index)
        shape = (batch, size, *student.latent_shape)
        if previous is not None:  # committing late spares the pass after a finite clip's last block
            cache = student.commit(previous, text, cache)
        if steer is not None and (turned := steer(index, cache)) is not None:
            text, cache = turned, student.recache(turned, cache)
        if given is not None and drawn < given.shape[1]:
            if drawn + size > given.shape[1]:
                raise ConfigError(f"{given.shape[1]} given latent frames are no whole blocks: give whole blocks")
            previous = given[:, drawn : drawn + size]
            yield previous
            index, drawn = index + 1, drawn + size
            continue
        if start is not None and drawn + size > start.latents.shape[1]:
            raise ConfigError(
                f"a start of {start.latents.shape[1]} latent frames ends before frame {drawn + size} of the "
                "rollout: give whole blocks, as many as are drawn"
            )
        eps = noise(index, 0, shape).to(student.device)
        x0 = torch.zeros_like(eps) if start is None else start.latents[:, drawn : drawn + size]
        for step, level in enumerate(flow.levels_of_block(levels, index)):
            t = torch.full(shape[:2], level, dtype=eps.dtype, device=eps.device)
            x_t = flow.interpolate(x0, eps if step == 0 else noise(index, step, shape).to(eps), t)
            x0 = flow.x0_from_velocity(x_t, student.velocity(x_t, t, text, cache), t)
        yield x0
        previous = x0
        index, drawn = index + 1, drawn + size


def roll_clip(
    student: Student,
    text: Any,
    batch: int,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    frames: int,
    start: Start | None = None,
) -> Tensor:
    """Return a whole rollout as latents [B, F, C, h, w]; see ``rollout``."""
    blocks = list(rollout(student, text, batch, levels, noise, frames, start))
    return torch.cat(blocks, dim=1)[:, :frames]
