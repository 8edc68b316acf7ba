"""Prompts as tokens: a word tokenizer, a small text encoder trained with the student, and what prompts are cut at."""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

PAD, UNKNOWN = 0, 1


@runtime_checkable
class Measured(Protocol):
    """A text encoder, or a tokenizer, that can say how long prompts are."""

    @property
    def length(self) -> int:
        """Tokens that it reads of a prompt at most; what comes after them is cut."""
        ...

    def counts(self, prompts: Sequence[str]) -> list[int] | None:
        """Return the tokens of each prompt, end token included, before any cut; None when that cannot be told."""
        ...


def cut_prompts(encoder: object, prompts: Sequence[str]) -> tuple[list[tuple[int, str]], int]:
    """Return (tokens, prompt) of the prompts that ``encoder`` cuts, longest first, and how many tokens it reads.

    An encoder that is not `Measured` cuts nothing as far as is known; its length is given as 0.
    """
    counts = encoder.counts(prompts) if isinstance(encoder, Measured) else None
    if counts is None or not isinstance(encoder, Measured):
        return [], 0
    return sorted(
        ((n, p) for n, p in zip(counts, prompts, strict=True) if n > encoder.length), reverse=True
    ), encoder.length


def cut_note(encoder: object, prompts: Sequence[str]) -> str | None:
    """Say in a line which of ``prompts`` are cut; None when none is."""
    cut, most = cut_prompts(encoder, prompts)
    if not cut:
        return None
    count, longest = cut[0]
    return (
        f"{len(cut)} of {len(prompts)} prompts are longer than the {most} tokens that the student reads, and are cut there; "
        f"the longest has {count}: {longest[:60]!r}"
    )


class Tokenizer:
    """Maps a prompt to word indices; words outside the vocabulary become ``UNKNOWN``, never an error."""

    def __init__(self, vocabulary: Sequence[str], length: int) -> None:
        self.length = length
        self._index = {word: i + 2 for i, word in enumerate(vocabulary)}

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Return the words of each prompt."""
        return [len(_words(prompt)) for prompt in prompts]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return word indices [B, L] (int64), padded or cut to ``length``."""
        ids = torch.full((len(prompts), self.length), PAD, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            words = _words(prompt)[: self.length]
            ids[row, : len(words)] = torch.tensor([self._index.get(w, UNKNOWN) for w in words], dtype=torch.long)
        return ids


def _words(prompt: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", prompt.lower())


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
