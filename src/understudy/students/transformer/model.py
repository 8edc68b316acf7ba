"""A small causal video diffusion transformer: block-wise and frame-wise students from one class.

Tokens are h/p x w/p patches of a latent frame. Time enters attention as a rotary phase of the frame's place inside the
attended window, so keys are cached unrotated and a rolling window never leaves the trained range. Each latent frame has
its own noise level (adaptive layer norm). The network predicts the clean latent with EDM-style preconditioning
(Karras et al. 2206.00364, table 1, for sigma_data = 1 on the rectified path) and reports it as a velocity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy import flow
from understudy.codecs.spec_fields import check_fields
from understudy.errors import ConfigError
from understudy.students.base import StudentModule
from understudy.students.text import TextEncoder, Tokenizer

_MIN_LEVEL = 1e-3


@dataclass(frozen=True)
class TransformerSpec:
    """Everything that fixes the network.

    Attributes:
        channels, height, width: latent C, h, w.
        patch: side p of a square patch; must divide h and w.
        dim, depth, heads: width D, layers, attention heads.
        block_frames: latent frames per block (1 = frame-wise).
        max_frames: latent frames the model was trained on; the longest span it attends to.
        window: latent frames attended to, own block and sink included; 0 = everything (up to ``max_frames``).
        sink: first frames that stay visible when the window rolls.
        text_length: words read of a prompt. vocabulary: the words it knows. text_tokens: summary tokens S.
    """

    channels: int = 16
    height: int = 6
    width: int = 6
    patch: int = 2
    dim: int = 96
    depth: int = 4
    heads: int = 4
    block_frames: int = 1
    max_frames: int = 8
    window: int = 0
    sink: int = 0
    text_length: int = 16
    text_tokens: int = 4
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, zero=("window", "sink"))
        if self.height % self.patch or self.width % self.patch:
            raise ConfigError(f"patch {self.patch} does not divide the latent size {self.height}x{self.width}")
        if self.dim % (2 * self.heads):
            raise ConfigError(f"dim {self.dim} must be an even multiple of heads {self.heads}")
        if self.window and not self.block_frames + self.sink <= self.window <= self.max_frames:
            raise ConfigError(
                f"window {self.window} must hold the sink ({self.sink}) and a block ({self.block_frames}) and be at most "
                f"max_frames ({self.max_frames}), the span the student was trained on"
            )
        if self.max_frames % self.block_frames:
            raise ConfigError(f"max_frames {self.max_frames} must be a multiple of block_frames {self.block_frames}")


@dataclass(frozen=True)
class Text:
    """Summary tokens [B, S, D] of the prompts."""

    tokens: Tensor

    def index(self, rows: Tensor) -> "Text":
        """Return the conditioning of the given rows [B'] (int64)."""
        return Text(self.tokens[rows])


@dataclass(frozen=True)
class Cache:
    """Clean past: per layer unrotated keys and values [B, H, frames * n, d]; a value, never written in place.

    Attributes:
        frames: latent frames held.
        seen: latent frames drawn since the start; larger than ``frames`` once the window has rolled.
    """

    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    frames: int = 0
    seen: int = 0


class CausalVideoTransformer(StudentModule):
    """The small student. See ``Student`` for the contract and ``TransformerSpec`` for sizes."""

    kind: ClassVar[str] = "causal-video-transformer"
    spec: TransformerSpec

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text_encoder = self.tokenizer = Tokenizer(spec.vocabulary, spec.text_length)
        dim, patch_dim = spec.dim, spec.channels * spec.patch**2
        self.text = TextEncoder(len(spec.vocabulary), spec.text_length, dim, spec.heads, spec.text_tokens)
        self.patch_in = nn.Linear(patch_dim, dim)
        self.place = nn.Parameter(torch.randn(self.frame_tokens, dim) * 0.02)
        self.level = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.layers = nn.ModuleList(_Layer(dim, spec.heads) for _ in range(spec.depth))
        self.out_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.out_modulation = nn.Linear(dim, 2 * dim)
        self.patch_out = nn.Linear(dim, patch_dim)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.out_modulation.weight)
        self._masks: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return an untrained student of the spec that ``config()`` gave."""
        return cls(TransformerSpec(**{**config, "vocabulary": tuple(config["vocabulary"])}))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame."""
        return self.spec.channels, self.spec.height, self.spec.width

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return (self.spec.height // self.spec.patch) * (self.spec.width // self.spec.patch)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Words its text encoder knows."""
        return self.spec.vocabulary

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Return the conditioning of B prompts."""
        return Text(self.text(self.tokenizer(prompts).to(self.device)))

    def empty_cache(self) -> Cache:
        """Return the cache before the first block."""
        return Cache()

    def velocity(self, noisy: Tensor, levels: Tensor, text: Text, cache: Cache) -> Tensor:
        """Return the velocity [B, b, C, h, w] of one noisy block at ``levels`` [B, b], given its clean past."""
        self._check(noisy, cache)
        return self._block(noisy, levels, text, cache)[0]

    def commit(self, clean: Tensor, text: Text, cache: Cache) -> Cache:
        """Return ``cache`` extended by the clean block [B, b, C, h, w], rolled to the window."""
        self._check(clean, cache)
        _, keys, values = self._block(clean, clean.new_zeros(clean.shape[:2]), text, cache)
        frames = cache.frames + clean.shape[1]
        if cache.frames:
            keys = [torch.cat(pair, dim=2) for pair in zip(cache.keys, keys, strict=True)]
            values = [torch.cat(pair, dim=2) for pair in zip(cache.values, values, strict=True)]
        limit = (self.spec.window or self.spec.max_frames) - self.block_frames
        if self.spec.window and frames > limit:
            keep = self._kept(frames, limit)
            keys, values = [k[:, :, keep] for k in keys], [v[:, :, keep] for v in values]
            frames = limit
        return Cache(tuple(keys), tuple(values), frames, cache.seen + clean.shape[1])

    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Text) -> Tensor:
        """Return the velocity [B, F, C, h, w] of all noisy blocks: block i sees clean blocks < i and itself.

        Equals, block by block, what ``velocity`` gives with a cache of the clean past (to float tolerance).
        """
        f = clean.shape[1]
        if clean.shape != noisy.shape or tuple(clean.shape[2:]) != self.latent_shape or f % self.block_frames:
            raise ConfigError(
                f"clips for this student are [B, F, {', '.join(map(str, self.latent_shape))}] with F a multiple of "
                f"{self.block_frames}, got {list(clean.shape)} clean and {list(noisy.shape)} noisy"
            )
        self._check_length(f, f)
        if 0 < self.spec.window < f:  # places in a rolled window differ from block to block: no one pass has them all
            return self._in_turn(clean, noisy, levels, text)
        x = torch.cat([self._embed(clean), self._embed(noisy)], dim=1)
        level = torch.cat([torch.zeros_like(levels), levels], dim=1)
        condition, modulation = self._condition(level, text)
        phases = self._phases(torch.arange(f, device=x.device).repeat(2))
        mask = self._mask(f).to(x.device)
        for layer in self.layers:
            x, _, _ = layer(x, modulation, self.frame_tokens, text.tokens, phases, None, mask)
        return self._head(x[:, f * self.frame_tokens :], noisy, levels, condition[:, f:])

    def _in_turn(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: Text) -> Tensor:
        """Return what ``teacher_forced`` does, one block after the other through the rolling cache, with gradients."""
        cache, parts = self.empty_cache(), []
        size = self.block_frames
        for low in range(0, clean.shape[1], size):
            if low:
                cache = self.commit(clean[:, low - size : low], text, cache)
            parts.append(self.velocity(noisy[:, low : low + size], levels[:, low : low + size], text, cache))
        return torch.cat(parts, dim=1)

    def _block(
        self, noisy: Tensor, levels: Tensor, text: Text, cache: Cache
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        x = self._embed(noisy)
        condition, modulation = self._condition(levels, text)
        phases = self._phases(torch.arange(cache.frames + noisy.shape[1], device=x.device))
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = (cache.keys[i], cache.values[i]) if cache.frames else None
            x, k, v = layer(x, modulation, self.frame_tokens, text.tokens, phases, past, None)
            keys.append(k)
            values.append(v)
        return self._head(x, noisy, levels, condition), keys, values

    def _embed(self, latents: Tensor) -> Tensor:
        """Patchify [B, F, C, h, w] into tokens [B, F * n, D]."""
        b, f, c, h, w = latents.shape
        p = self.spec.patch
        patches = latents.reshape(b, f, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4, 6)
        return (self.patch_in(patches.reshape(b, f, self.frame_tokens, c * p * p)) + self.place).flatten(1, 2)

    def _condition(self, levels: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Return the per-frame condition [B, F, D] and the layers' modulation [B, F, 6, D]."""
        frequency = torch.exp(torch.arange(32, device=levels.device) * (-6.9 / 31))
        angle = levels[..., None] * 1000 * frequency
        condition = self.level(torch.cat([angle.cos(), angle.sin()], dim=-1)) + text.tokens.mean(1)[:, None]
        return condition, self.modulation(condition).unflatten(-1, (6, self.spec.dim))

    def _head(self, x: Tensor, noisy: Tensor, levels: Tensor, condition: Tensor) -> Tensor:
        """Turn tokens [B, F * n, D] into a velocity [B, F, C, h, w]."""
        b, f, c, h, w = noisy.shape
        p = self.spec.patch
        scale, shift = self.out_modulation(F.silu(condition)).unsqueeze(2).chunk(2, dim=-1)
        x = self.out_norm(x).unflatten(1, (f, self.frame_tokens)) * (1 + scale) + shift
        patches = self.patch_out(x).reshape(b, f, h // p, w // p, c, p, p)
        raw = patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, f, c, h, w)
        t = levels.clamp(min=_MIN_LEVEL)
        variance = flow.expand((1 - t) ** 2 + t**2, noisy)
        x0 = flow.expand(1 - t, noisy) / variance * noisy + flow.expand(t, noisy) / variance.sqrt() * raw
        return flow.velocity_from_x0(noisy, x0, t)

    def _phases(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [len * n, d] of the rotary phases of frames at ``positions`` of the window."""
        half = self.spec.dim // self.spec.heads // 2
        frequency = 64.0 ** (-torch.arange(half, device=positions.device) / half)
        angle = (positions[:, None] * frequency).repeat_interleave(self.frame_tokens, dim=0)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)

    def _mask(self, frames: int) -> Tensor:
        """Return who sees whom [2 F n, S + 2 F n] for queries and keys [clean | noisy], text first (True = sees)."""
        key = (frames, self.block_frames)
        if key not in self._masks:
            block = torch.arange(frames).repeat_interleave(self.frame_tokens) // self.block_frames
            past = block[:, None] > block[None]
            own = block[:, None] == block[None]
            none = torch.zeros_like(own)
            seen = torch.cat([torch.cat([past | own, none], 1), torch.cat([past, own], 1)])
            text = torch.ones(len(seen), self.spec.text_tokens, dtype=torch.bool)
            self._masks[key] = torch.cat([text, seen], 1)
        return self._masks[key]

    def _kept(self, frames: int, limit: int) -> Tensor:
        """Return the token indices of the sink and of the latest frames, ``limit`` frames in all."""
        recent = torch.arange(frames - (limit - self.spec.sink), frames)
        kept = torch.cat([torch.arange(self.spec.sink), recent])
        return (kept[:, None] * self.frame_tokens + torch.arange(self.frame_tokens)).flatten().to(self.device)

    def _check(self, block: Tensor, cache: Cache) -> None:
        if tuple(block.shape[2:]) != self.latent_shape or block.shape[1] != self.block_frames:
            raise ConfigError(
                f"a block of this student is [B, {self.block_frames}, {', '.join(map(str, self.latent_shape))}], "
                f"got {list(block.shape)}"
            )
        self._check_length(cache.frames + block.shape[1], cache.seen + block.shape[1])

    def _check_length(self, attended: int, total: int) -> None:
        if attended > self.spec.max_frames and not (self.spec.window and attended == total):
            raise ConfigError(
                f"latent frame {total} is past the {self.spec.max_frames} frames this student was trained on: "
                "set student.window (at most that many) to roll the cache"
            )


class _Layer(nn.Module):
    """One transformer layer: attention over [text | past | own] tokens, then an MLP, both modulated per frame."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.table = nn.Parameter(torch.randn(6, dim) * dim**-0.5)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.text_kv = nn.Linear(dim, 2 * dim)
        self.q_norm, self.k_norm = nn.RMSNorm(dim // heads), nn.RMSNorm(dim // heads)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        frame_tokens: int,
        text: Tensor,
        phases: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return new tokens [B, F n, D] and the layer's own unrotated keys and values [B, H, F n, d]."""
        table = (modulation + self.table).unsqueeze(2)  # [B, F, 1, 6, D]: one row per frame, broadcast over its tokens
        scale1, shift1, gate1, scale2, shift2, gate2 = table.unbind(3)
        frames = (table.shape[1], frame_tokens)
        x = x.unflatten(1, frames)
        q, k, v = self._split(self.qkv(torch.addcmul(shift1, self.norm1(x), 1 + scale1).flatten(1, 2)), 3)
        text_k, text_v = self._split(self.text_kv(text), 2)
        q, k = self.q_norm(q), self.k_norm(k)
        all_k = k if past is None else torch.cat([past[0], k], dim=2)
        all_v = v if past is None else torch.cat([past[1], v], dim=2)
        cos, sin = phases
        all_k = torch.cat([self.k_norm(text_k), _rotate(all_k, cos, sin)], dim=2)
        all_v = torch.cat([text_v, all_v], dim=2)
        q = _rotate(q, cos[-q.shape[2] :], sin[-q.shape[2] :])
        attended = F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask)
        x = torch.addcmul(x, gate1, self.out(attended.transpose(1, 2).flatten(2)).unflatten(1, frames))
        x = torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2)))
        return x.flatten(1, 2), k, v

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split [B, L, parts * D] into ``parts`` tensors [B, H, L, d]."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary phases [L, d] to [B, H, L, d] (half-split pairs; the sine carries the sign of its half)."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin)
