"""The layers of Wan with the parameter names of its public checkpoints.

Tokens are [B, F n, D]: n patches for each of F latent frames. Every frame has its own modulation. Attention itself is
given from outside, so one layer serves a cached block, a whole causal clip and a teacher-forced pair of clips.
"""

from collections.abc import Callable

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


class _Attention(nn.Module):
    """Projections and whole-width query and key norms of one attention."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)

    def query(self, x: Tensor) -> Tensor:
        """Return queries [B, L, H, d] of tokens [B, L, D]."""
        return self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1))

    def key_value(self, x: Tensor) -> KeyValue:
        """Return keys and values [B, L, H, d] of tokens [B, L, D]."""
        return self.norm_k(self.k(x)).unflatten(-1, (self.heads, -1)), self.v(x).unflatten(-1, (self.heads, -1))


class WanLayer(nn.Module):
    """Self-attention, attention to the text, MLP; the first and the last modulated per frame."""

    def __init__(self, index: int, dim: int, ffn_dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.index = index
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = _Attention(dim, heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = _Attention(dim, heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) * dim**-0.5)

    def modulate(self, base: Tensor) -> tuple[Tensor, ...]:
        """Return shift, 1 + scale, gate of attention and MLP, each [B, F, 1, D], for ``base`` [B, F, 6, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (base + self.modulation).unsqueeze(3).unbind(2)
        return shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2

    def attended_tokens(self, x: Tensor, table: tuple[Tensor, ...]) -> Tensor:
        """Return what self-attention projects: normalised, modulated tokens [B, F n, D]."""
        frames = table[0].shape[1]
        return torch.addcmul(table[0], self.norm1(x).unflatten(1, (frames, -1)), table[1]).flatten(1, 2)

    def forward(self, x: Tensor, table: tuple[Tensor, ...], text: KeyValue | Tensor, attend: Attend) -> Tensor:
        """Return new tokens [B, F n, D]; ``text`` is its keys and values, or tokens [B, S, D] to make them of."""
        frames = (table[0].shape[1], -1)
        inner, attn = self.attended_tokens(x, table), self.self_attn
        y = attn.o(attend(self.index, attn.query(inner), *attn.key_value(inner)).flatten(2))
        x = torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), table[2]).flatten(1, 2)
        cross = self.cross_attn
        k, v = cross.key_value(text) if isinstance(text, Tensor) else text
        x = x + cross.o(attention(cross.query(self.norm3(x)), k, v).flatten(2))
        x = x.unflatten(1, frames)
        y = self.ffn(torch.addcmul(table[3], self.norm2(x), table[4]))
        return torch.addcmul(x, y, table[5]).flatten(1, 2)


class WanHead(nn.Module):
    """The last modulated norm and the projection to patches."""

    def __init__(self, dim: int, patch_dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, patch_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) * dim**-0.5)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return patches [B, F, n, P] of tokens [B, F n, D] under the time embedding ``condition`` [B, F, D]."""
        shift, scale = (condition.unsqueeze(2) + self.modulation).unsqueeze(3).unbind(2)
        return self.head(torch.addcmul(shift, self.norm(x).unflatten(1, (condition.shape[1], -1)), 1 + scale))


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
