"""Rectified-flow algebra and noise levels: pure functions of tensors.

The path is x_t = (1 - t) x_0 + t eps with t in [0, 1], its velocity v = eps - x_0 (Liu et al. 2209.03003). A *noise
level* is the t a model is conditioned on. Levels ``t`` broadcast against latents ``[B, F, C, h, w]`` from the left: a
tensor of shape [B, F] is one level per latent frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_STEPS = 1000

Levels = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""A few-step sampler: the levels every block visits, or one list for each of the first blocks, whose last repeats."""


def expand(t: Tensor, like: Tensor) -> Tensor:
    """Append singleton axes to ``t`` [B, F] until it has the rank of ``like`` [B, F, ...]."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the noised state x_t = (1 - t) x_0 + t eps."""
    t = expand(t, x0)
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity of the path, v* = eps - x_0."""
    return noise - x0


def x0_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Return x_0 = x_t - t v."""
    return x_t - expand(t, x_t) * v


def velocity_from_x0(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Return v = (x_t - x_0) / t; undefined at t = 0, where a state says nothing about its noise."""
    return (x_t - x0) / expand(t, x_t)


def noise_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Return eps = x_t + (1 - t) v."""
    return x_t + (1 - expand(t, x_t)) * v


def velocity_from_noise(x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return v = (eps - x_t) / (1 - t); undefined at t = 1, where a state says nothing about its data."""
    return (noise - x_t) / (1 - expand(t, x_t))


def renoise_log_prob(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Return log N(x_t; (1 - t) x_0, t^2) per latent frame [B, F], up to a constant, for t [B, F] > 0.

    The density of one re-noising step of the stochastic few-step sampler: its chain is Gaussian given the prediction
    x_0 made from the state before, which is what a policy gradient needs (Flow-GRPO, 2505.05470).
    """
    distance = (x_t - (1 - expand(t, x_t)) * x0).square().flatten(2).sum(2)
    return -distance / (2 * t.square())


def warp(t: Tensor, shift: float) -> Tensor:
    """Return the shifted level s t / (1 + (s - 1) t); shift 5 turns 1, .75, .5, .25 into 1, .9375, .833, .625."""
    return shift * t / (1 + (shift - 1) * t)


def sampler_levels(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Return the ``steps`` warped levels a few-step sampler visits, from 1 downwards, without the final 0."""
    uniform = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return tuple(warp(uniform, shift).tolist())


def level_lists(levels: Sequence[float] | Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Return the levels of the first blocks as one list each, the last of which repeats."""
    nested = tuple(tuple(own) for own in levels if isinstance(own, Sequence))
    return nested or (tuple(float(level) for level in levels if not isinstance(level, Sequence)),)


def check_levels(levels: object) -> None:
    """Raise ValueError unless ``levels`` are a sampler's: lists that fall from 1 and stay above 0."""
    if not isinstance(levels, Sequence) or isinstance(levels, str):
        raise ValueError("levels are no list")
    nested = [own for own in levels if isinstance(own, Sequence) and not isinstance(own, str)]
    if nested and len(nested) != len(levels):
        raise ValueError("levels are partly lists and partly numbers")
    for own in nested or [levels]:
        numbers = [level for level in own if isinstance(level, int | float) and not isinstance(level, bool)]
        falls = all(a > b for a, b in zip(numbers, (*numbers[1:], 0.0), strict=True))  # also of NaN
        if not numbers or len(numbers) != len(own) or len(own) > _MOST_STEPS or numbers[0] != 1 or not falls:
            raise ValueError(f"levels {list(own)[:8]} must fall from 1 and stay above 0")


def levels_of_block(levels: Sequence[float] | Sequence[Sequence[float]], index: int) -> tuple[float, ...]:
    """Return the levels that block ``index`` visits."""
    lists = level_lists(levels)
    return lists[min(index, len(lists) - 1)]


def with_steps(levels: Sequence[float], steps: int) -> tuple[float, ...]:
    """Return ``steps`` levels along the same schedule as ``levels``, linear between them and down to 0.

    As many steps as there are levels give the levels themselves; a student distilled to these has never seen others.
    """
    ends = (*levels, 0.0)
    places = [step * len(levels) / steps for step in range(steps)]
    return tuple(ends[int(at)] + (at - int(at)) * (ends[int(at) + 1] - ends[int(at)]) for at in places)


def draw_levels(
    levels: Sequence[float] | Sequence[Sequence[float]],
    shape: tuple[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw levels [B, N] of N blocks uniformly from the sampler's own: the states the student really visits."""
    lists = [torch.tensor(own, dtype=torch.float32) for own in level_lists(levels)]
    if len(lists) == 1:
        return lists[0][torch.randint(len(lists[0]), shape, generator=generator)]
    columns = [lists[min(block, len(lists) - 1)] for block in range(shape[1])]
    return torch.stack([own[torch.randint(len(own), shape[:1], generator=generator)] for own in columns], dim=1)


def per_frame(levels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return levels [B, F] of the latent frames of blocks of ``sizes``, given one level per block [B, N]."""
    return levels.repeat_interleave(torch.tensor(sizes, device=levels.device), dim=1)


def draw_continuous(
    shape: tuple[int, int],
    shift: float = 1.0,
    minimum: float = 0.02,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw levels [B, F] uniformly on [minimum, 1], then warped: the choice of undistilled students."""
    return warp(minimum + (1 - minimum) * torch.rand(shape, generator=generator), shift)
