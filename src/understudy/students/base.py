"""The student contract: a causal velocity field over blocks of latent frames, and its cache as a value."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from understudy import flow
from understudy.errors import ConfigError


class StudentModule(nn.Module):
    """A causal video model: what a rollout, training, saving and streaming ask of one.

    Latents are [B, F, C, h, w], levels [B, F] in [0, 1], velocity is eps - x_0. Cache and text are opaque values of the
    student's own. Nothing in ``velocity`` and ``step`` changes a cache: only ``commit`` returns a longer one, from *clean*
    latents.

    Attributes:
        kind: name of the family in saved bundles.
        rolls: whether it can go on for ever through a rolling window.
        renoises: whether the sampler adds fresh noise between two levels, or goes on from where ``step`` led.
        spec: a frozen dataclass that fixes the network, with at least ``block_frames``, ``max_frames`` (latent frames it
            was trained on), ``window`` (latent frames attended to, 0 = everything) and ``sink``.
        text_encoder: what reads prompts; one that is `understudy.students.text.Measured` says where it cuts them.
        adapter: rank, alpha and targets of the low-rank adapters that it carries (``students.lora``); None without.
        borrowed: names of the weights that it shares with the start student, and that checkpoints leave out.
    """

    kind: ClassVar[str]
    rolls: ClassVar[bool] = True
    renoises: ClassVar[bool] = True
    spec: Any
    text_encoder: Any = None
    adapter: Mapping[str, Any] | None = None
    borrowed: frozenset[str] = frozenset()

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return an untrained student of the spec that ``config()`` gave.

        Raises:
            ConfigError, KeyError, TypeError or ValueError: ``config`` is not one.
        """

    def config(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values."""
        return asdict(self.spec)

    def with_spec(self, **changes: Any) -> Self:
        """Return a view on the same parameters whose spec differs in ``changes`` (none may change a parameter)."""
        view = copy(self)
        object.__setattr__(view, "spec", replace(self.spec, **changes))
        return view

    def with_settings(self, block: int | None = None, **changes: Any) -> Self:
        """Return a view as ``with_spec`` does, that draws ``block`` latent frames together (None: as it does now).

        Raises:
            ConfigError: the family cannot be drawn like that.
        """
        return self.with_spec(**changes, **({} if block is None else {"block_frames": block}))

    @property
    def block_list(self) -> tuple[int, ...]:
        """Latent frames of the first blocks; the last size repeats."""
        return (self.block_frames,)

    @property
    def block_frames(self) -> int:
        """Latent frames drawn together."""
        return int(self.spec.block_frames)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame."""

    @property
    @abstractmethod
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words its own text encoder knows; empty when that takes any word."""
        return ()

    def recache(self, past: Sequence[Tensor], text: Any, seen: int, cache: Any = None) -> Any:
        """Return the cache of the `remembered` blocks of ``seen`` frames, as if ``text`` had held when they were drawn.

        This is how a prompt changes during a rollout (LongLive, 2509.22622, KV recache). ``cache`` is the one that held.
        """
        cache, forgotten = self.empty_cache(), seen - sum(block.shape[1] for block in past)
        for block in past:
            if forgotten and cache.frames >= self.spec.sink:  # what is forgotten lies between the sink and the rest
                cache, forgotten = replace(cache, seen=cache.seen + forgotten), 0
            cache = self.commit(block, text, cache)
        return cache

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def use_text(self, encoder: Callable[[Sequence[str]], Tensor]) -> None:
        """Take ``encoder``, prompts -> embeddings [B, L, D], as text encoder from now on.

        Raises:
            ConfigError: the student's text encoder is part of its weights.
        """
        raise ConfigError(f"a student of kind {self.kind!r} has a text encoder of its own: leave student.text out")

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Any:
        """Return the text conditioning of B prompts."""

    @abstractmethod
    def empty_cache(self) -> Any:
        """Return the cache before the first block."""

    @abstractmethod
    def velocity(self, noisy: Tensor, levels: Tensor, text: Any, cache: Any) -> Tensor:
        """Return the velocity of one noisy block [B, b, C, h, w], seeing the cache's clean past and itself."""

    def step(self, noisy: Tensor, levels: Tensor, after: Tensor, text: Any, cache: Any) -> Tensor:
        """Return what the sampler has after one step on a block [B, b, C, h, w], from ``levels`` to ``after`` [B, b].

        The clean block that the velocity points to, which is noised to ``after`` again. A flow map (``renoises`` false)
        returns the block at ``after`` instead.
        """
        return flow.x0_from_velocity(noisy, self.velocity(noisy, levels, text, cache), levels)

    @abstractmethod
    def commit(self, clean: Tensor, text: Any, cache: Any) -> Any:
        """Return ``cache`` extended by the clean block [B, b, C, h, w]."""

    @abstractmethod
    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Any) -> Tensor:
        """Return the velocity [B, F, C, h, w] of all noisy blocks at once, each seeing clean blocks before it."""


def block_size(student: StudentModule, index: int) -> int:
    """Return the latent frames of block ``index``: its entry in the student's ``block_list``, whose last one repeats."""
    blocks = student.block_list
    return blocks[min(index, len(blocks) - 1)]


def block_sizes(student: StudentModule, frames: int) -> tuple[int, ...]:
    """Return the sizes of the whole blocks that ``frames`` latent frames are drawn in; their sum may exceed it."""
    sizes: list[int] = []
    while sum(sizes) < frames:
        sizes.append(block_size(student, len(sizes)))
    return tuple(sizes)


Velocities = Iterator[tuple[slice, Tensor]]
"""(frames, velocity [B, b, C, h, w] of these frames) of one part of a clip after the other."""


def in_parallel(
    student: StudentModule, clean: Tensor, noisy: Tensor, levels: Tensor, prompts: Sequence[str]
) -> Velocities:
    """Yield the velocity of a noisy clip [B, F, C, h, w] at ``levels`` [B, F] given its clean past, in one pass."""
    yield slice(0, noisy.shape[1]), student.teacher_forced(clean, noisy, levels, student.encode_text(prompts))


def by_block(
    student: StudentModule, clean: Tensor, noisy: Tensor, levels: Tensor, prompts: Sequence[str]
) -> Velocities:
    """Yield the same block by block, from a cache as in a rollout.

    No gradient reaches the clean past's keys and values, and what a block's gradient needs can be freed before the next.
    """
    with torch.no_grad():
        words, cache = student.encode_text(prompts), student.empty_cache()
    low = 0
    for size in block_sizes(student, noisy.shape[1]):
        frames = slice(low, low + size)
        text = student.encode_text(prompts) if torch.is_grad_enabled() else words
        yield frames, student.velocity(noisy[:, frames], levels[:, frames], text, cache)
        low += size
        if low < noisy.shape[1]:
            with torch.no_grad():
                cache = student.commit(clean[:, frames], words, cache)


def remembered(student: StudentModule, past: Sequence[Tensor]) -> list[Tensor]:
    """Return the blocks of ``past`` [B, b, C, h, w] that can matter to a student: those of the sink, and the latest."""
    spec, kept, sinks = student.spec, list(past), 0
    while sum(block.shape[1] for block in kept[:sinks]) < spec.sink and sinks < len(kept):
        sinks += 1
    while len(kept) > sinks and sum(block.shape[1] for block in kept) > (spec.window or spec.max_frames):
        kept.pop(sinks)
    return kept
