"""The causal Wan student: Wan2.1 with a noise level per frame and a block cache that is a value.

Parameters are named as in the original Wan and Self-Forcing checkpoints. Past keys and values are only read and a
block's own ones are put beside them, so no gradient passes through a cache and recomputing activations is always right;
public code overwrites its cache while gradients are on, which leaks them across blocks. The parallel passes attend
block by block over what each block sees: no mask, any token count, the same window and sink as the cache.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from understudy.errors import ConfigError
from understudy.students.base import StudentModule, block_sizes
from understudy.students.wan.layers import (
    Attend,
    KeyValue,
    WanHead,
    WanLayer,
    attention,
    frame_phases,
    modulated,
    rotate,
    time_features,
)
from understudy.students.wan.spec import WanSpec
from understudy.students.wan.text import TextSource, WanText

_PHASES_KEPT = 64
_TABLES_KEPT = 32


@dataclass(frozen=True)
class WanCache:
    """Clean past: keys and values [B, frames * n, H, d] per layer; a value, never written in place.

    Keys are rotated to absolute positions, or unrotated when the student's positions are relative.

    Attributes:
        frames: latent frames held.
        seen: latent frames drawn since the start; larger than ``frames`` once the window has rolled.
        slots: the storage of keys and values with room for one block behind them, where a step without gradients puts its
            own ones to have them beside the past without a copy of it.
    """

    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    frames: int = 0
    seen: int = 0
    slots: tuple[KeyValue, ...] = field(default=(), repr=False)


class WanStudent(StudentModule):
    """See ``Student`` for the contract and ``WanSpec`` for sizes.

    Attributes:
        gradient_checkpointing: share of the layers that are recomputed in the backward pass instead of keeping their
            activations; False is none, True is all.
        text_encoder: what reads prompts; not part of the weights.
    """

    kind: ClassVar[str] = "wan"
    spec: WanSpec

    def __init__(self, spec: WanSpec) -> None:
        super().__init__()
        self.spec, dim = spec, spec.dim
        _, rows, columns = spec.patch
        self.patch_embedding = nn.Conv3d(spec.in_channels, dim, spec.patch, spec.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(spec.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(spec.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(WanLayer(i, dim, spec.ffn_dim, spec.heads, spec.eps) for i in range(spec.layers))
        self.head = WanHead(dim, rows * columns * spec.out_channels, spec.eps)
        self.text_encoder = TextSource(spec.text, spec.text_dim, spec.text_len)
        self.gradient_checkpointing: float = False
        self._phase_tables: dict[tuple[Any, ...], Tensor] = {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return an untrained student of the spec that ``config()`` gave."""
        return cls(WanSpec(**{**config, "patch": tuple(config["patch"]), "blocks": tuple(config["blocks"])}))

    def with_settings(self, block: int | None = None, **changes: Any) -> Self:
        """See ``StudentModule``; all blocks are then of one size."""
        return self.with_spec(**changes, **({} if block is None else {"blocks": (block,)}))

    @property
    def block_list(self) -> tuple[int, ...]:
        """Latent frames of the first blocks; the last size repeats."""
        return self.spec.blocks

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame as it is drawn; velocities of any other size are computed as well."""
        return self.spec.in_channels, self.spec.height, self.spec.width

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame as it is drawn."""
        return self._tokens(self.spec.height, self.spec.width)

    def use_text(self, encoder: Callable[[Sequence[str]], Tensor]) -> None:
        """Take ``encoder``, prompts -> embeddings [B, S, text_dim]; a saved student names it if it has a ``name``."""
        self.text_encoder.use(encoder)
        if name := getattr(encoder, "name", ""):
            self.spec = replace(self.spec, text=name)

    def encode_text(self, prompts: Sequence[str]) -> WanText:
        """Return the conditioning of B prompts."""
        return self.text(self.text_encoder(prompts))

    def text(self, embeddings: Tensor) -> WanText:
        """Return the conditioning of a text encoder's output [B, S, text_dim]; keys and values too where no gradient is."""
        tokens = self.text_embedding(embeddings.to(self.patch_embedding.weight))
        if torch.is_grad_enabled():
            return WanText(tokens)
        return WanText(tokens, tuple(layer.cross_attn.key_value(tokens) for layer in self.layers()), {})

    def empty_cache(self) -> WanCache:
        """Return the cache before the first block."""
        return WanCache()

    def velocity(self, noisy: Tensor, levels: Tensor, text: WanText, cache: WanCache) -> Tensor:
        """Return the velocity [B, b, C, h, w] of one noisy block at ``levels`` [B, b], given its clean past."""
        self._check(noisy, cache)
        tokens, table = self._run(noisy, levels, text, self._beside(cache, noisy, None))
        return self._unpatch(self.head(tokens, table), noisy)

    @torch.no_grad()
    def commit(self, clean: Tensor, text: WanText, cache: WanCache) -> WanCache:
        """Return ``cache`` extended by the clean block [B, b, C, h, w], rolled to the window; no gradient enters it."""
        self._check(clean, cache)
        return self._commit(clean, text, cache)

    @torch.no_grad()
    def recache(self, past: Sequence[Tensor], text: WanText, seen: int, cache: WanCache | None = None) -> WanCache:
        """See ``StudentModule`` and ``WanSpec.joint_recache``."""
        if not (self.spec.joint_recache and past):
            return super().recache(past, text, seen, cache)
        clean, base = torch.cat(list(past), 1), WanCache()
        if cache is not None and seen > clean.shape[1]:
            clean, held = clean[:, self.spec.sink :], self.spec.sink * self._tokens(*clean.shape[3:])
            keys, values = (tuple(t[:, :held] for t in kept) for kept in (cache.keys, cache.values))
            base = WanCache(keys, values, self.spec.sink, seen - clean.shape[1])
        return self._commit(clean, text, base)

    def _commit(self, clean: Tensor, text: WanText, cache: WanCache) -> WanCache:
        own: list[KeyValue] = []
        attend = self._beside(cache, clean, own)
        self._run(clean, clean.new_zeros(()).expand(clean.shape[:2]), text, attend, own)
        frames, n = clean.shape[1], self._tokens(*clean.shape[3:])
        spans = self._visible(cache.frames + frames, self.spec.window - min(self.spec.blocks))
        kept = sum(high - low for low, high in spans)
        room = (kept + max(self.spec.blocks)) * n
        slots = []
        for i, new in enumerate(own):
            old = (cache.keys[i], cache.values[i]) if cache.frames else (new[0][:, :0], new[1][:, :0])
            slots.append((_grown(old[0], new[0], spans, room, n), _grown(old[1], new[1], spans, room, n)))
        keys, values = (tuple(slot[which][:, : kept * n] for slot in slots) for which in (0, 1))
        return WanCache(keys, values, kept, cache.seen + frames, tuple(slots))

    def teacher_forced(self, clean: Tensor, noisy: Tensor, levels: Tensor, text: WanText) -> Tensor:
        """Return the velocity [B, F, C, h, w] of all noisy blocks: block i sees clean blocks < i and itself.

        Equals, block by block, what ``velocity`` gives with a cache of the clean past (to float tolerance). Gradients
        also flow through the keys and values of the clean past, which are made with the same weights.
        """
        if clean.shape != noisy.shape:
            raise ConfigError(f"clean and noisy clips differ in shape: {list(clean.shape)} and {list(noisy.shape)}")
        both, f = torch.cat([clean, noisy], 1), clean.shape[1]
        attend = self._parallel(both, f)
        tokens, table = self._run(both, torch.cat([torch.zeros_like(levels), levels], 1), text, attend)
        shown = tuple(row if row.ndim == 1 else row[:, f:] for row in table)
        return self._unpatch(self.head(tokens[:, f * self._tokens(*clean.shape[3:]) :], shown), noisy)

    def block_causal(self, clip: Tensor, levels: Tensor, text: WanText) -> Tensor:
        """Return the velocity [B, F, C, h, w] of a clip at ``levels`` [B, F] whose blocks see each other as they are.

        With one block of F frames this is the bidirectional model.
        """
        tokens, table = self._run(clip, levels, text, self._parallel(clip, clip.shape[1]))
        return self._unpatch(self.head(tokens, table), clip)

    def layers(self) -> list[WanLayer]:
        """Return the transformer layers, first to last."""
        return [layer for layer in self.blocks if isinstance(layer, WanLayer)]

    def _run(
        self, x: Tensor, levels: Tensor, text: WanText, attend: Attend, kept: list[KeyValue] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the layers on latents [B, F, C, h, w]; return tokens [B, F n, D] and the head's modulation.

        For a commit (``kept``) only keys and values matter, so the last layer stops where it has them. They are kept for
        steps with gradients as well; what else is made without gradients is not, and inference mode saves its book-keeping.
        """
        tables, head = self._modulation(levels, text)
        tokens, grad = self._embed(x), torch.is_grad_enabled()
        with nullcontext() if grad or kept is not None else torch.inference_mode():
            for i, layer in enumerate(self.layers()):
                if kept is not None and i == self.spec.layers - 1:
                    k, v = layer.self_attn.key_value(modulated(tokens, layer.eps, *tables[i][:2]))
                    attend(i, k, k, v)
                    break
                words = text.layers[i] if text.layers and not grad else text.tokens
                if grad and i < self.gradient_checkpointing * self.spec.layers:
                    tokens = checkpoint(layer, tokens, tables[i], words, attend, use_reentrant=False)
                else:
                    tokens = layer(tokens, tables[i], words, attend)
        return tokens, head

    def _modulation(self, levels: Tensor, text: WanText) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """Return the modulation of every layer and of the head at ``levels`` [B, F]: one for all at a single level.

        A rollout meets the same few levels again and again, and expands one number to [B, F]: that it is one is then known
        without asking a GPU.
        """
        memo = None if torch.is_grad_enabled() or levels.is_cuda else text.tables
        values = () if levels.is_cuda else tuple(levels.flatten().tolist())
        if levels.stride() == (0, 0) or len(set(values)) == 1:
            levels, values = levels[:1, :1], values[:1]
        key = (*levels.shape, *values)
        if memo is not None and key in memo:
            *tables, head = memo[key]
            return tables, head
        features = time_features(levels, self.spec.freq_dim).to(self.patch_embedding.weight.dtype)
        condition = self.time_embedding(features)
        base = self.time_projection(condition).unflatten(-1, (6, self.spec.dim))
        made = [*(layer.modulate(base) for layer in self.layers()), self.head.modulate(condition)]
        if memo is not None:
            if len(memo) >= _TABLES_KEPT:
                memo.clear()
            memo[key] = made
        return made[:-1], made[-1]

    def _beside(self, cache: WanCache, block: Tensor, kept: list[KeyValue] | None) -> Attend:
        """Return the attention of one block over the visible past and itself; own keys and values go to ``kept``."""
        frames, (rows, columns) = block.shape[1], block.shape[3:]
        n, relative = self._tokens(rows, columns), self.spec.relative_rope
        spans = self._visible(cache.frames, self.spec.window - frames)
        past = sum(high - low for low, high in spans)
        first = 0 if relative else cache.seen
        phases = self._phases(first, past + frames if relative else frames, block)
        last, low, high = self.spec.layers - 1, past * n, (past + frames) * n
        # Frames that are skipped over lie between sink and window only where block sizes differ.
        beside = cache.slots if not torch.is_grad_enabled() and past == cache.frames else ()

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            own = k if relative else rotate(k, phases)
            if kept is not None:
                kept.append((own, v))
                if i == last:
                    return q
            keys, values = own, v
            if beside:
                keys, values = (slot[:, :high] for slot in beside[i])
                keys[:, low:], values[:, low:] = own, v
            elif past:
                keys = torch.cat([*_pieces(cache.keys[i], spans, n), own], 1)
                values = torch.cat([*_pieces(cache.values[i], spans, n), v], 1)
            if relative:
                keys = rotate(keys, phases)
            return attention(rotate(q, phases[-frames * n :]), keys, values)

        return attend

    def _parallel(self, clip: Tensor, frames: int) -> Attend:
        """Return the attention of a clip of ``frames`` frames, or of a clean and a noisy one put after each other."""
        sizes = block_sizes(self, frames)
        if sum(sizes) != frames:
            raise ConfigError(f"{frames} latent frames are not whole blocks of {list(self.spec.blocks)}: cut the clip")
        self._check_length(frames)
        n, relative = self._tokens(*clip.shape[3:]), self.spec.relative_rope
        streams = range(0, clip.shape[1], frames)
        phases = self._phases(0, frames, clip)
        both = torch.cat([phases] * len(streams))

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not relative:
                q, k = rotate(q, both), rotate(k, both)
            out = []
            for stream in streams:
                start = 0
                for size in sizes:
                    low, high = stream + start, stream + start + size
                    spans = [*self._visible(start, self.spec.window - size), (low, high)]
                    keys, values, own = _parts(k, spans, n), _parts(v, spans, n), q[:, low * n : high * n]
                    if relative:
                        own = rotate(own, phases[keys.shape[1] - size * n : keys.shape[1]])
                        keys = rotate(keys, phases[: keys.shape[1]])
                    out.append(attention(own, keys, values))
                    start += size
            return torch.cat(out, 1)

        return attend

    def _visible(self, frames: int, allowed: int) -> list[tuple[int, int]]:
        """Return which of ``frames`` past frames are seen, as ranges: all, or the sink and the latest."""
        if not self.spec.window or frames <= allowed:
            return [(0, frames)] if frames else []
        sink = self.spec.sink
        return [span for span in ((0, sink), (frames - (allowed - sink), frames)) if span[0] < span[1]]

    def _phases(self, first: int, frames: int, like: Tensor) -> Tensor:
        """Return rotary phases [frames * n, 1, d / 2] of frames from ``first`` on for latents of the size of ``like``."""
        rows, columns = like.shape[3] // self.spec.patch[1], like.shape[4] // self.spec.patch[2]
        key = (first, frames, rows, columns, like.device)
        if key not in self._phase_tables:
            if len(self._phase_tables) >= _PHASES_KEPT:
                self._phase_tables.clear()
            positions = torch.arange(first, first + frames, device=like.device)
            self._phase_tables[key] = frame_phases(positions, rows, columns, self.spec.dim // self.spec.heads)
        return self._phase_tables[key]

    def _tokens(self, height: int, width: int) -> int:
        return (height // self.spec.patch[1]) * (width // self.spec.patch[2])

    def _embed(self, latents: Tensor) -> Tensor:
        """Patchify [B, F, C, h, w] into tokens [B, F n, D]."""
        patches = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype).transpose(1, 2))
        return patches.flatten(2).transpose(1, 2).contiguous()

    def _unpatch(self, patches: Tensor, like: Tensor) -> Tensor:
        """Turn patches [B, F, n, p * q * C] into latents [B, F, C, h, w] of the size and type of ``like``."""
        b, f, _, h, w = like.shape
        _, p, q = self.spec.patch
        grid = patches.reshape(b, f, h // p, w // q, p, q, self.spec.out_channels).permute(0, 1, 6, 2, 4, 3, 5)
        return grid.reshape(b, f, self.spec.out_channels, h, w).to(like.dtype)

    def _check(self, block: Tensor, cache: WanCache) -> None:
        """Raise ConfigError unless ``block`` [B, b, C, h, w] fits the network, its window and its trained length."""
        _, p, q = self.spec.patch
        if block.ndim != 5 or block.shape[2] != self.spec.in_channels or block.shape[3] % p or block.shape[4] % q:
            raise ConfigError(
                f"a block of this student is [B, b, {self.spec.in_channels}, h, w] with h, w multiples of {p}, {q}, "
                f"got {list(block.shape)}"
            )
        if self.spec.window and block.shape[1] + self.spec.sink > self.spec.window:
            raise ConfigError(f"a block of {block.shape[1]} frames and the sink exceed the window {self.spec.window}")
        self._check_length(cache.seen + block.shape[1])

    def _check_length(self, frames: int) -> None:
        if frames > self.spec.max_frames and not self.spec.window:
            raise ConfigError(
                f"latent frame {frames} is past the {self.spec.max_frames} frames this student was trained on: "
                "set student.window (at most that many) to roll the cache"
            )


def _grown(past: Tensor, own: Tensor, spans: Sequence[tuple[int, int]], room: int, n: int) -> Tensor:
    """Return storage [B, room, H, d] that begins with the frames of ``spans`` of past and own ones put together."""
    seen = past.shape[1] // n
    before = [(low, min(high, seen)) for low, high in spans if low < seen]
    after = [(max(low, seen) - seen, high - seen) for low, high in spans if high > seen]
    pieces = [*_pieces(past, before, n), *_pieces(own, after, n)]
    storage = own.new_empty(own.shape[0], room, *own.shape[2:])
    if pieces:
        torch.cat(pieces, 1, out=storage[:, : sum(piece.shape[1] for piece in pieces)])
    return storage


def _pieces(tensor: Tensor, spans: Sequence[tuple[int, int]], n: int) -> list[Tensor]:
    """Return the frames of ``spans`` of keys or values [B, L, H, d] with n tokens a frame, neighbours in one piece."""
    merged: list[tuple[int, int]] = []
    for low, high in spans:
        if merged and merged[-1][1] == low:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return [tensor[:, low * n : high * n] for low, high in merged]


def _parts(tensor: Tensor, spans: Sequence[tuple[int, int]], n: int) -> Tensor:
    """Return the frames of ``spans`` of [B, L, H, d] put together."""
    pieces = _pieces(tensor, spans, n)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def compile_layers(student: WanStudent, **options: Any) -> None:
    """Let torch compile what lies between attentions: fixed shapes, whatever the past; ``options`` of torch.compile."""
    for layer in student.layers():
        for name in ("project", "finish"):
            setattr(layer, name, torch.compile(getattr(layer, name), dynamic=False, fullgraph=True, **options))
