"""What a causal Wan student costs, from its spec alone: parameters, tokens, arithmetic, memory. All figures are estimated.

FLOPs count a multiplication and an addition as two, and matrix products and attention only, as torch's counter does.
The discriminator, the codec and the text encoder are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from understudy import flow
from understudy.clips import ClipForm
from understudy.config import AFDConfig, OnPolicyConfig, RunConfig
from understudy.students.checkpoints.layout import WanSizes
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.checkpoints.start import chosen_preset, clip_form, sizes_of_spec, spec_of
from understudy.students.rollout import clips_at_once
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, wan_1_3b

_STRIDE: Final = 8
_FRAMES_PER_LATENT: Final = 4
_FLOAT: Final = 4  # bytes


@dataclass(frozen=True)
class WanCost:
    """FLOPs of one clip of ``frames`` latent frames F, n tokens each, and the bytes of its cache.

    Attributes:
        spec: of the student.
        frames: F.
        rank: of adapters on all linear layers of its blocks; 0 without.
    """

    spec: WanSpec
    frames: int
    rank: int = 0

    @property
    def frame_tokens(self) -> int:
        """Tokens n of a latent frame."""
        return (self.spec.height // self.spec.patch[1]) * (self.spec.width // self.spec.patch[2])

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(frames of the block, past frames it sees) of every block; the last block size repeats."""
        found: list[tuple[int, int]] = []
        sizes, seen = self.spec.blocks, 0
        while seen < self.frames:
            size = sizes[min(len(found), len(sizes) - 1)]
            past = min(seen, self.spec.window - size) if self.spec.window else seen
            found.append((size, past))
            seen += size
        return found

    @property
    def adapter(self) -> int:
        """Parameters of the adapters."""
        d, f = self.spec.dim, self.spec.ffn_dim
        return self.spec.layers * self.rank * (8 * 2 * d + 2 * (d + f))

    @property
    def cache_bytes(self) -> int:
        """Largest cache of a rollout, keys and values in single precision."""
        kept = max(past for _, past in self.blocks)
        return self.spec.layers * 2 * self.spec.dim * self.frame_tokens * kept * _FLOAT

    def text(self) -> int:
        """FLOPs of projecting a prompt's embeddings and of their keys and values in all layers."""
        d, spec = self.spec.dim, self.spec
        return 2 * spec.text_len * (spec.text_dim * d + d * d + spec.layers * 2 * (d * d + self.rank * 2 * d))

    def velocity(self, size: int, past: int) -> int:
        """FLOPs of the velocity of a block of ``size`` frames that sees ``past`` frames."""
        return self._once(size, size, 1) + self.spec.layers * self._layer(size, size * (past + size))

    def commit(self, size: int, past: int) -> int:
        """FLOPs of adding such a block to the cache: the last layer stops at its keys and values."""
        d, tokens = self.spec.dim, size * self.frame_tokens
        last = 2 * tokens * 2 * (d * d + self.rank * 2 * d)
        return self._once(size, 0, 1) + (self.spec.layers - 1) * self._layer(size, size * (past + size)) + last

    def rollout(self, levels: flow.Levels) -> int:
        """FLOPs of drawing one clip with a sampler at ``levels``, its prompt included."""
        blocks, total = self.blocks, self.text()
        for index, block in enumerate(blocks):
            total += len(flow.levels_of_block(levels, index)) * self.velocity(*block)
            total += self.commit(*block) if index < len(blocks) - 1 else 0
        return total

    def last_block(self, levels: flow.Levels) -> int:
        """FLOPs of the last block with its commit: what a stream pays for every further one once the window is full."""
        blocks = self.blocks
        steps = len(flow.levels_of_block(levels, len(blocks) - 1))
        return steps * self.velocity(*blocks[-1]) + self.commit(*blocks[-1])

    def teacher_forced(self) -> int:
        """FLOPs of one parallel pass over a clean and a noised clip, its prompt included."""
        return self._linear() + self._attention()

    def update(self, recomputed: bool = True) -> int:
        """FLOPs of an AFD update on one clip: old and prior policy, and the student forward and back.

        Args:
            recomputed: whether the layers run again in the backward pass.
        """
        forward, back = self.teacher_forced(), 2 * self.teacher_forced()
        if self.rank:  # frozen weights get no gradient of their own
            bare = WanCost(self.spec, self.frames)
            back -= bare._linear()
        return 2 * forward + forward * (2 if recomputed else 1) + back

    def _attention(self) -> int:
        """FLOPs of all attention in a teacher-forced pass."""
        pairs, n, spec = sum(2 * size * (past + size) for size, past in self.blocks), self.frame_tokens, self.spec
        return spec.layers * 4 * spec.dim * (pairs * n * n + 2 * self.frames * n * spec.text_len)

    def _linear(self) -> int:
        """FLOPs of everything else in a teacher-forced pass."""
        both = 2 * self.frames
        return self.text() + self._once(both, self.frames, both) + self.spec.layers * self._products(both)

    def _layer(self, frames: int, pairs: int) -> int:
        n = self.frame_tokens
        return self._products(frames) + 4 * self.spec.dim * (pairs * n * n + frames * n * self.spec.text_len)

    def _products(self, frames: int) -> int:
        d, f, r = self.spec.dim, self.spec.ffn_dim, self.rank
        return 2 * frames * self.frame_tokens * (6 * (d * d + r * 2 * d) + 2 * (d * f + r * (d + f)))

    def _once(self, frames: int, shown: int, levels: int) -> int:
        """FLOPs outside the layers: patches, the embedding of ``levels`` noise levels, the head for ``shown`` frames."""
        spec, patch = self.spec, math.prod(self.spec.patch)
        times = spec.freq_dim + 7 * spec.dim
        tokens = self.frame_tokens * patch * (frames * spec.in_channels + shown * spec.out_channels)
        return 2 * spec.dim * (levels * times + tokens)


def memory(cost: WanCost, parameters: int, policies: int, clips: int, together: int, bf16: bool) -> dict[str, int]:
    """Return an estimate of the bytes of training by what takes them.

    Args:
        cost: of one clip.
        parameters: of the student without adapters.
        policies: that have weights of their own, the trained one and, without adapters, the start included.
        clips: in a micro-batch of the update, whose layers recompute their activations.
        together: rollouts drawn at once.
        bf16: whether activations inside a layer take two bytes.
    """
    spec = cost.spec
    trained = cost.adapter or parameters
    tokens = 2 * cost.frames * cost.frame_tokens * clips
    inside = tokens * (16 * spec.dim + 3 * spec.ffn_dim) * (2 if bf16 else _FLOAT)
    return {
        "weights": ((parameters if cost.rank else 0) + policies * trained) * _FLOAT,
        "gradient and optimiser": 3 * trained * _FLOAT,
        "activations": tokens * spec.layers * spec.dim * _FLOAT + inside,
        "rollout cache": 2 * together * cost.cache_bytes,  # the longer cache is made beside the one it follows
    }


def cost_lines(config: RunConfig) -> list[str]:
    """Return in plain lines what a run from a public checkpoint costs; no weights are needed, and no GPU.

    Raises:
        ConfigError: the preset is unknown, or the recipe's settings do not suit it.
    """
    own = config.student
    chosen, form = chosen_preset(own), clip_form(own, chosen_preset(own))
    there = Path(own.start).exists()
    sizes: WanSizes = read_checkpoint(own.start).sizes if there else sizes_of_spec(wan_1_3b())
    with torch.device("meta"):
        student = WanStudent(spec_of(sizes, chosen, form, _STRIDE))
    given = {"window": own.window, "sink": own.sink}
    student = student.with_spec(**{name: value for name, value in given.items() if value is not None})
    levels = chosen.levels if own.levels is None else own.levels
    cost = WanCost(student.spec, _latents(form), own.lora.rank if own.lora and own.lora.targets is None else 0)
    parameters = sum(p.numel() for p in student.parameters())
    batch = config.train.prompts * config.objective.group
    lines = [
        f"student: {own.start} ({own.preset}), {parameters:,} parameters"
        + (f", {cost.adapter:,} trained in adapters of rank {cost.rank}" if cost.rank else "")
        + ("" if there else "; the checkpoint is missing: sizes of Wan2.1 1.3B assumed"),
        f"clips: {form.frames} frames of {form.height}x{form.width} at {form.fps:g} fps, {cost.frames} latent frames of "
        f"{cost.frame_tokens:,} tokens, {cost.frames * cost.frame_tokens:,} in all; {_blocks(cost.spec)}",
        f"estimated: {_peta(cost.last_block(levels))} for the last block, {_peta(cost.rollout(levels))} for a rollout of "
        f"{sum(len(flow.levels_of_block(levels, i)) for i in range(len(cost.blocks)))} steps",
    ]
    if not isinstance(config.objective, OnPolicyConfig):
        return lines
    policies = 4 if not cost.rank or config.objective.prior_policy == "slow" else 3
    micro = -(-batch // config.train.accumulate)
    needs = memory(
        cost,
        parameters,
        policies if cost.rank else 5,
        micro,
        min(batch, clips_at_once(student, cost.frames)),
        config.train.bf16,
    )
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needs.items())
    if isinstance(config.objective, AFDConfig):
        update = batch * (cost.rollout(levels) + cost.update())
        lines.append(f"estimated: {_peta(update)} for an update of {batch} rollouts, discriminator and codec apart")
    lines.append(f"estimated memory: {sum(needs.values()) / 2**30:.1f} GiB, discriminator and codec apart ({parts})")
    return lines


def _latents(form: ClipForm) -> int:
    return 1 + -(-(form.frames - 1) // _FRAMES_PER_LATENT)


def _blocks(spec: WanSpec) -> str:
    sizes: Sequence[int] = spec.blocks
    window = f"window {spec.window}, sink {spec.sink}" if spec.window else "no window"
    return f"blocks of {', '.join(map(str, sizes))}, {window}"


def _peta(flops: int) -> str:
    return f"{flops / 1e15:.3g} PFLOP"
