"""The one rollout: training collects it, ``generate`` writes it, a server streams it.

Few-step sampling as in Self-Forcing (2506.08009): at every warped level predict x_0, re-noise to the next level with
fresh noise, and commit the clean block to the cache. A flow map, which does not ``renoise``, goes on from where its step
led. Levels are given as the sampler visits them, from 1 downwards.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy import flow
from understudy.errors import ConfigError
from understudy.students.base import StudentModule, block_size, remembered

Noise = Callable[[int, int, tuple[int, ...]], Tensor]
"""(block index, step index, shape [B, b, C, h, w]) -> standard normal noise: seeded, recorded, or any callable."""
_NUMBERS_AT_ONCE = 1 << 20  # latent numbers: any batch of the small students, one clip of Wan's
OnState = Callable[[int, Tensor, Tensor], None]
"""(step index, state x_t [B, b, C, h, w], its levels [B, b]): told what the sampler visits, block by block."""
Switch = Callable[[int, Any], Any]
"""(block index, cache) -> the conditioning to go on with, or None to keep the one that holds."""


def clips_at_once(student: StudentModule, frames: int) -> int:
    """Return how many clips of ``frames`` latent frames are drawn together: the cache of a large one fills gigabytes."""
    return max(1, _NUMBERS_AT_ONCE // (frames * math.prod(student.latent_shape)))


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


class RecordedNoise:
    """Noise that was drawn before, here or by other code, by (block, step); given blocks count, step 0 begins a block.

    With a ``source`` it is the recorder: what is not recorded yet is drawn there and kept, so that
    ``RecordedNoise(recorder.draws)`` repeats the rollout with any student:

        recorder = RecordedNoise(source=SeededNoise([0]))
        first = roll_clip(student, text, 1, levels, recorder, frames)
        again = roll_clip(student, text, 1, levels, RecordedNoise(recorder.draws), frames)
    """

    def __init__(self, draws: Mapping[tuple[int, int], Tensor] | None = None, source: Noise | None = None) -> None:
        self.draws: dict[tuple[int, int], Tensor] = dict(draws or {})
        self._source = source

    def __call__(self, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """Return the draw [B, b, C, h, w] of this block and step.

        Raises:
            ConfigError: there is none, or it has another shape.
        """
        if (block, step) not in self.draws:
            if self._source is None:
                raise ConfigError(
                    f"no noise is recorded for block {block}, step {step}: record more, or draw fewer frames"
                )
            self.draws[block, step] = self._source(block, step, shape)
        draw = self.draws[block, step]
        if draw.shape != shape:
            raise ConfigError(
                f"the noise recorded for block {block}, step {step} is {list(draw.shape)}, the rollout needs {list(shape)}"
            )
        return draw


@dataclass(frozen=True)
class Start:
    """Begin each block from given latents noised to the first level instead of pure noise (SDEdit, 2108.01073).

    Attributes:
        latents: [B, F, C, h, w], F a multiple of the block.
    """

    latents: Tensor


@torch.no_grad()
def rollout(
    student: StudentModule,
    text: Any,
    batch: int,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    frames: int | None = None,
    start: Start | None = None,
    on_state: OnState | None = None,
    given: Tensor | None = None,
    switch: Switch | None = None,
) -> Iterator[Tensor]:
    """Yield clean latent blocks [B, b, C, h, w], ``frames`` latent frames in all, or without end.

    Args:
        student: the policy to roll out.
        text: its conditioning of ``batch`` prompts.
        batch: B.
        levels: warped noise levels, descending; the first is 1 unless ``start`` is given. One list for each of the first
            blocks gives them levels of their own; the last list repeats.
        noise: source of the initial and of the re-noising noise; ``RecordedNoise`` gives draws made elsewhere.
        frames: latent frames to draw, rounded up to whole blocks; None streams for ever.
        start: latents to re-render; then ``levels[0]`` < 1 says how far they are noised.
        on_state: told every noised state x_t the sampler visits.
        given: clean first frames [B, f, C, h, w] in whole blocks (image or video to video); they are yielded as they are.
        switch: asked before every block for another conditioning. The past is cached anew under a new one: the picture
            goes on, what it attends to says the new prompt.

    Raises:
        ConfigError: ``start`` is too short or ``given`` ends inside a block.
    """
    cache = student.empty_cache()
    previous: Tensor | None = None
    history: list[Tensor] = []
    index = drawn = 0
    while frames is None or drawn < frames:
        size = block_size(student, index)
        shape = (batch, size, *student.latent_shape)
        if previous is not None:  # committing late spares the pass after a finite clip's last block
            cache = student.commit(previous, text, cache)
        changed = None if switch is None else switch(index, cache)
        if changed is not None and changed is not text:
            text, cache = changed, student.recache(history, changed, drawn, cache)
        if start is not None and drawn + size > start.latents.shape[1]:
            raise ConfigError(
                f"a start of {start.latents.shape[1]} latent frames ends before frame {drawn + size} of the "
                "rollout: give whole blocks, as many as are drawn"
            )
        if given is not None and drawn < given.shape[1]:
            if drawn + size > given.shape[1]:
                raise ConfigError(
                    f"{given.shape[1]} given latent frames end inside block {index} of {size} frames: give whole blocks, "
                    "or a block list whose first blocks they fill"
                )
            x0 = given[:, drawn : drawn + size].to(student.device)
        else:
            x0 = _draw_block(student, text, cache, levels, noise, start, index, drawn, shape, on_state)
        yield x0
        previous = x0
        index, drawn = index + 1, drawn + size
        if switch is not None:
            history = remembered(student, [*history, x0])


def _draw_block(
    student: StudentModule,
    text: Any,
    cache: Any,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    start: Start | None,
    index: int,
    drawn: int,
    shape: tuple[int, ...],
    on_state: OnState | None,
) -> Tensor:
    """Return the clean block ``index`` of ``shape`` [B, b, C, h, w], whose first frame is frame ``drawn``."""
    eps = noise(index, 0, shape).to(student.device)
    x0 = torch.zeros_like(eps) if start is None else start.latents[:, drawn : drawn + shape[1]]
    own = flow.levels_of_block(levels, index)
    for step, level in enumerate(own):
        t = torch.full((), level, dtype=eps.dtype, device=eps.device).expand(shape[:2])
        x_t = x0
        if student.renoises or step == 0:
            x_t = flow.interpolate(x0, eps if step == 0 else noise(index, step, shape).to(eps), t)
        if on_state is not None:
            on_state(step, x_t, t)
        after = torch.full_like(t, own[step + 1] if step + 1 < len(own) else 0.0)
        x0 = student.step(x_t, t, after, text, cache)
    return x0


def roll_clip(
    student: StudentModule,
    text: Any,
    batch: int,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    frames: int,
    start: Start | None = None,
    on_state: OnState | None = None,
) -> Tensor:
    """Return a whole rollout as latents [B, F, C, h, w]; see ``rollout``."""
    blocks = list(rollout(student, text, batch, levels, noise, frames, start, on_state=on_state))
    return torch.cat(blocks, dim=1)[:, :frames]


def roll_chain(
    student: StudentModule,
    text: Any,
    batch: int,
    levels: Sequence[float] | Sequence[Sequence[float]],
    noise: Noise,
    frames: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a whole rollout [B, F, C, h, w], the noised states [S, B, F, C, h, w] it went through and their levels.

    The levels are [S, B, F]. ``teacher_forced`` on the states of one level, with the rollout as clean past, gives the
    sampler's own predictions. Where first blocks have more steps than later ones, S counts the steps all have, the last.
    """
    steps = [len(own) for own in flow.level_lists(levels)]
    seen: list[list[tuple[Tensor, Tensor]]] = []

    def keep(step: int, x_t: Tensor, t: Tensor) -> None:
        if step == 0:
            seen.append([])
        seen[-1].append((x_t, t))

    latents = roll_clip(student, text, batch, levels, noise, frames, on_state=keep)
    blocks = [block[-min(steps) :] for block in seen]
    states = torch.stack([torch.cat([x for x, _ in same], dim=1)[:, :frames] for same in zip(*blocks, strict=True)])
    times = torch.stack([torch.cat([t for _, t in same], dim=1)[:, :frames] for same in zip(*blocks, strict=True)])
    return latents, states, times
