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
from understudy.codecs.wan_files import find_vae
from understudy.errors import CheckpointError
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.config import OnPolicyConfig
from understudy.recipes.config import RunConfig, StudentSection
from understudy.students.checkpoints.layout import WanSizes
from understudy.students.checkpoints.start import (
    LatentForm,
    checked_spec,
    chosen_preset,
    clip_form,
    latents_of,
    sizes_of_spec,
    start_checkpoint,
)
from understudy.students.rollout import clips_at_once
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, wan_1_3b

_STRIDES: Final = {16: 8, 48: 16}  # of the public autoencoders, Wan 2.1 and 2.2, by the channels of their latents
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

    def cache_bytes(self, width: int = _FLOAT) -> int:
        """Return the most keys and values that a rollout holds, in numbers of ``width`` bytes.

        That is while a block is added: the old cache and the new one, each with room for a block, and the block's own.
        """
        room, (size, past) = max(self.spec.blocks), max(self.blocks, key=lambda block: block[1])
        before = min(past, max(0, self.frames - 2 * size) if not self.spec.window else past)
        frames = before + room + size + past + room
        return self.spec.layers * 2 * self.spec.dim * self.frame_tokens * frames * width

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

    def update(self, recomputed: float = 1.0, by_block: bool = False) -> int:
        """FLOPs of an AFD update on one clip: old and prior policy, and the student forward and back.

        Args:
            recomputed: share of the layers that run again in the backward pass.
            by_block: whether it goes block by block from a cache, see ``students.base.by_block``.
        """
        bare = WanCost(self.spec, self.frames)
        if not by_block:
            forward, frozen = self.teacher_forced(), bare._linear() + bare.text()
            context = 0
        else:
            forward = sum(self.velocity(*block) for block in self.blocks) + len(self.blocks) * self.text()
            context = sum(self.commit(*block) for block in self.blocks[:-1]) + self.text()
            frozen = sum(bare.velocity(size, past) - bare._seen(size, past) for size, past in self.blocks)
            frozen += 2 * len(self.blocks) * bare.text()
        back = 2 * forward - (frozen if self.rank else 0)  # frozen weights get no gradient, nor does the text
        fixed = forward if not by_block else forward - (len(self.blocks) - 1) * self.text()
        return 2 * (context + fixed) + context + round(forward * (1 + recomputed)) + back

    def _seen(self, size: int, past: int) -> int:
        """FLOPs of a block's attention."""
        return self.spec.layers * (self._layer(size, size * (past + size)) - self._products(size))

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


def memory(
    cost: WanCost,
    parameters: int,
    policies: int,
    clips: int,
    together: int,
    bf16: bool = False,
    half: bool = False,
    by_block: bool = False,
    recomputed: float = 1.0,
) -> dict[str, int]:
    """Return an estimate of the bytes of training by what takes them; rollouts and update follow one another.

    What an update keeps was counted on small students in single precision and under autocast, see the tests.

    Args:
        cost: of one clip.
        parameters: of the student without adapters.
        policies: that have weights of their own, the trained one and, without adapters, the start included.
        clips: in a micro-batch of the update.
        together: rollouts drawn at once.
        bf16: whether rollouts and update run under autocast.
        half: whether the weights under the adapters are bfloat16.
        by_block: see ``WanCost.update``.
        recomputed: share of the layers that run again in the backward pass.
    """
    spec, width = cost.spec, 2 if bf16 else _FLOAT
    trained = cost.adapter or parameters
    stream = clips * cost.frame_tokens * spec.dim * width  # a frame's tokens
    ratio = spec.ffn_dim / spec.dim
    again = (29 + 5 * ratio if bf16 else 20 + 4 * ratio) + 4 * cost.rank / spec.dim * (1 + ratio)
    kept = (17.5 + 2.5 * ratio if bf16 else 12.8 + 2 * ratio) + 4 * cost.rank / spec.dim * (1 + ratio)
    size, past = max(cost.blocks, key=sum)
    residual = 2 if bf16 and not half else 1  # the stream between layers is as wide as the weights
    plain = spec.layers - math.ceil(recomputed * spec.layers)  # layers that keep what they made
    if by_block:
        frames, beside = size, 2 * (past + size)
        held = 2 * (past + max(spec.blocks)) * spec.layers
    else:
        frames, beside = 2 * cost.frames, 2 * sum(own + seen for own, seen in cost.blocks)
        held = 0
    # Layers are left from the last to the first: those that kept theirs are gone when the first are made anew.
    inside = plain * (frames * kept + beside) + frames * kept if plain else 0
    inside = max(inside, frames * again + beside if plain < spec.layers else 0)
    update = stream * (held + frames * residual * spec.layers + inside)
    if by_block:
        update = max(update, clips * cost.cache_bytes(width))
    return {
        "weights": (parameters * (2 if half else _FLOAT) if cost.rank else 0) + policies * trained * _FLOAT,
        "gradient and optimiser": 3 * trained * _FLOAT,
        "rollouts": together * cost.cache_bytes(width),
        "or an update": int(update),
    }


def peak(parts: dict[str, int]) -> int:
    """Return the largest sum of ``memory``'s parts that is held at one time."""
    return parts["weights"] + parts["gradient and optimiser"] + max(parts["rollouts"], parts["or an update"])


def cost_lines(config: RunConfig) -> list[str]:
    """Return in plain lines what a run from a public checkpoint costs; no weights are needed, and no GPU.

    Raises:
        ConfigError: the preset is unknown, or the recipe's settings do not suit it.
    """
    own = config.student
    chosen, form = chosen_preset(own), clip_form(own, chosen_preset(own))
    there = Path(own.start).exists()
    adapter = own.adapter is not None and Path(own.adapter).exists()
    found = start_checkpoint(own, headers=True, adapter=adapter) if there else None
    sizes: WanSizes = sizes_of_spec(wan_1_3b()) if found is None else found.sizes
    latents = latent_form(own, sizes)
    with torch.device("meta"):
        student = WanStudent(checked_spec(own, sizes, own.start, latents))
    levels = chosen.levels if own.levels is None else own.levels
    cost = WanCost(
        student.spec, latents_of(form.frames, latents), own.lora.rank if own.lora and own.lora.targets is None else 0
    )
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
    blocks = isinstance(config.objective, AFDConfig) and config.objective.by_block
    needs = memory(
        cost,
        parameters,
        policies if cost.rank else 5,
        micro,
        min(batch, clips_at_once(student, cost.frames)),
        config.train.bf16,
        own.dtype == "bfloat16",
        blocks,
        own.recompute,
    )
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needs.items())
    if isinstance(config.objective, AFDConfig):
        update, rollout = cost.update(own.recompute, blocks), cost.rollout(levels)
        lines.append(
            f"estimated: {_peta(batch * (rollout + update))} for an update of {batch} rollouts, discriminator and codec "
            f"apart; the update itself costs {update / rollout:.2f} of the rollouts"
        )
    lines.append(f"estimated memory: {peak(needs) / 2**30:.1f} GiB, discriminator and codec apart ({parts})")
    return lines


def latent_form(own: StudentSection, sizes: WanSizes) -> LatentForm:
    """Return what the recipe's autoencoder makes of clips, or, where it is not there, the one that ``sizes`` belong to."""
    usual = LatentForm(_STRIDES.get(sizes.in_channels, 8))
    if own.codec is None:
        return usual
    try:
        files = find_vae(own.codec.path)
    except CheckpointError:
        return usual  # it is missing or no autoencoder, which is said elsewhere
    return LatentForm(files.stride, 1, files.frames_per_latent, files.channels)


def _blocks(spec: WanSpec) -> str:
    sizes: Sequence[int] = spec.blocks
    window = f"window {spec.window}, sink {spec.sink}" if spec.window else "no window"
    return f"blocks of {', '.join(map(str, sizes))}, {window}"


def _peta(flops: int) -> str:
    return f"{flops / 1e15:.3g} PFLOP"
