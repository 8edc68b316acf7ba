"""Prompts as tokens: a word tokenizer and a small text encoder trained with the student."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PAD, UNKNOWN = 0, 1


class Tokenizer:
    """Maps a prompt to word indices; words outside the vocabulary become ``UNKNOWN``, never an error."""

    def __init__(self, vocabulary: Sequence[str], length: int) -> None:
        self.length = length
        self._index = {word: i + 2 for i, word in enumerate(vocabulary)}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return word indices [B, L] (int64), padded or cut to ``length``."""
        ids = torch.full((len(prompts), self.length), PAD, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            words = re.findall(r"[a-z0-9']+", prompt.lower())[: self.length]
            ids[row, : len(words)] = torch.tensor([self._index.get(w, UNKNOWN) for w in words], dtype=torch.long)
        return ids


class TextEncoder(nn.Module):
    """Word indices [B, L] -> a few summary tokens [B, S, D] that student blocks attend to."""

    def __init__(self, words: int, length: int, width: int, heads: int, summary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 2, width, padding_idx=PAD)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.query = nn.Parameter(torch.randn(summary, width) * width**-0.5)
        self.mix = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Return summary tokens [B, S, D]; padding is masked, so the padded length does not matter."""
        pad = ids == PAD
        pad = pad & ~pad.all(dim=1, keepdim=True)  # an empty prompt attends to its padding: no NaN
        words = self.mix(self.embedding(ids) + self.position, src_key_padding_mask=pad)
        query = self.query.expand(len(ids), -1, -1)
        return self.norm(self.pool(query, words, words, key_padding_mask=pad, need_weights=False)[0])
