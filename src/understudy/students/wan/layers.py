"""The layers of Wan with the parameter names of its public checkpoints.

Tokens are [B, F n, D]: n patches for each of F latent frames. Every frame has a modulation [B, F, 1, D] of its own, or all
share one [D], as in a rollout. Attention itself is given from outside, so one layer serves a cached block, a whole causal
clip and a teacher-forced pair of clips.
"""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values), all [B, L, H, d] before rotation -> attended [B, L, H, d]."""
KeyValue = tuple[Tensor, Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention [B, L, H, d] of queries [B, L, H, d] over keys and values [B, M, H, d]."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Turn neighbouring pairs of x [B, L, H, d] by unit complex ``phases`` [L, 1, d / 2], in single precision."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phases).flatten(-2).to(x.dtype)


def modulated(x: Tensor, eps: float, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens [B, F n, D], normalised, times ``scale`` plus ``shift``: one of each for all [D], or [B, F, 1, D]."""
    if shift.ndim == 1:
        return F.layer_norm(x, shift.shape, scale, shift, eps)
    normed = F.layer_norm(x, x.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, normed, scale).flatten(1, 2)


def gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return x + ``gate`` y for tokens [B, F n, D] and a gate [D] or [B, F, 1, D]."""
    if gate.ndim == 1:
        return torch.addcmul(x, y, gate)
    frames = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), gate).flatten(1, 2)


class _RMSNorm(nn.RMSNorm):
    """On a CPU, where torch makes eight passes of it, in four."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, L, D] over its root mean square, times the weight."""
        if x.is_cuda or x.dtype != self.weight.dtype:
            return super().forward(x)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        mean_square = torch.addcmul(length.new_full((), self.eps or 0.0), length, length, value=1 / x.shape[-1])
        return x * mean_square.rsqrt() * self.weight


class _Attention(nn.Module):
    """Projections and whole-width query and key norms of one attention."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = _RMSNorm(dim, eps), _RMSNorm(dim, eps)

    def query(self, x: Tensor) -> Tensor:
        """Return queries [B, L, H, d] of tokens [B, L, D]."""
        q = self.q(x)
        return self.norm_q(q).to(q.dtype).unflatten(-1, (self.heads, -1))

    def key_value(self, x: Tensor) -> KeyValue:
        """Return keys and values [B, L, H, d] of tokens [B, L, D]."""
        k, v = self.k(x), self.v(x)
        return self.norm_k(k).to(k.dtype).unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


class WanLayer(nn.Module):
    """Self-attention, attention to the text, MLP; the first and the last modulated by the noise level."""

    def __init__(self, index: int, dim: int, ffn_dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.index, self.eps = index, eps
        self.self_attn = _Attention(dim, heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = _Attention(dim, heads, eps)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) * dim**-0.5)

    def modulate(self, base: Tensor) -> tuple[Tensor, ...]:
        """Return shift, 1 + scale, gate of attention and of the MLP for ``base`` [B, F, 6, D], [B, F, 1, D] or [D] each."""
        return _rows(base + self.modulation, scales=(1, 4))

    def project(self, x: Tensor, table: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, F n, H, d] of tokens [B, F n, D], before rotation."""
        inner = modulated(x, self.eps, *table[:2])
        return self.self_attn.query(inner), *self.self_attn.key_value(inner)

    def finish(self, x: Tensor, y: Tensor, table: tuple[Tensor, ...], text: KeyValue | Tensor) -> Tensor:
        """Return new tokens [B, F n, D] of tokens x and what they attended to, y [B, F n, H, d]."""
        gate, shift, scale, last_gate = table[2:]
        x = gated(x, self.self_attn.o(y.flatten(2)), gate)
        cross = self.cross_attn
        k, v = cross.key_value(text) if isinstance(text, Tensor) else text
        x = x + cross.o(attention(cross.query(self.norm3(x)), k, v).flatten(2))
        return gated(x, self.ffn(modulated(x, self.eps, shift, scale)), last_gate)

    def forward(self, x: Tensor, table: tuple[Tensor, ...], text: KeyValue | Tensor, attend: Attend) -> Tensor:
        """Return new tokens [B, F n, D]; ``text`` is its keys and values, or tokens [B, S, D] to make them of."""
        return self.finish(x, attend(self.index, *self.project(x, table)), table, text)


class WanHead(nn.Module):
    """The last modulated norm and the projection to patches."""

    def __init__(self, dim: int, patch_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = nn.Linear(dim, patch_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) * dim**-0.5)

    def modulate(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Return shift and 1 + scale, [B, F, 1, D] or [D] each, for the time embedding ``condition`` [B, F, D]."""
        return _rows(condition.unsqueeze(2) + self.modulation, scales=(1,))

    def forward(self, x: Tensor, table: tuple[Tensor, ...]) -> Tensor:
        """Return patches [B, F n, P] of tokens [B, F n, D]."""
        return self.head(modulated(x, self.eps, *table))


def _rows(table: Tensor, scales: Collection[int]) -> tuple[Tensor, ...]:
    """Split ``table`` [B, F, R, D] into R modulations [B, F, 1, D], or [D] if B = F = 1; add 1 to those at ``scales``."""
    one = table.shape[:2] == (1, 1)
    rows = table.flatten(0, 2).unbind(0) if one else table.unsqueeze(3).unbind(2)
    return tuple(1 + row if place in scales else row for place, row in enumerate(rows))


def frame_phases(positions: Tensor, rows: int, columns: int, head_dim: int) -> Tensor:
    """Return rotary phases [F n, 1, d / 2] (complex64) of n = rows x columns patches of frames at ``positions`` [F].

    Computed in double precision. Of the d / 2 pairs, rows and columns get d // 6 each and time the rest; theta is 1e4.
    """
    side = head_dim // 6
    widths = (head_dim // 2 - 2 * side, side, side)
    places = (positions, *(torch.arange(count, device=positions.device) for count in (rows, columns)))
    grid = (len(positions), rows, columns)
    parts = []
    for axis, (width, place) in enumerate(zip(widths, places, strict=True)):
        angle = place.double()[:, None] * 1e4 ** -(torch.arange(width, device=place.device).double() / width)
        shape = [1, 1, 1, width]
        shape[axis] = len(place)
        parts.append(torch.polar(torch.ones_like(angle), angle).reshape(shape).expand(*grid, -1))
    return torch.cat(parts, dim=-1).reshape(-1, 1, head_dim // 2).to(torch.complex64)


def time_features(levels: Tensor, width: int) -> Tensor:
    """Return sinusoidal features [B, F, width] (float64), cosines first, of noise levels [B, F] in [0, 1].

    The network was trained on timesteps 1000 t in single precision; rounding there recovers them from the level.
    """
    half = width // 2
    steps = (levels.float() * 1000).double()
    angle = steps[..., None] * 1e4 ** -(torch.arange(half, device=levels.device).double() / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
