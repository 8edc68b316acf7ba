"""Text conditioning of the Wan students: what turns prompts into embeddings, and their keys and values per layer."""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from understudy.errors import ConfigError
from understudy.students.text import Measured
from understudy.students.umt5 import UMT5Text

Encoder = Callable[[Sequence[str]], Tensor]
"""Prompts -> embeddings [B, S, text_dim], zero past each prompt's end."""


@dataclass(frozen=True)
class WanText:
    """The conditioning of B prompts. It belongs to the weights it was made with and to one rollout or update.

    Attributes:
        tokens: projected text tokens [B, S, D].
        layers: keys and values [B, S, H, d] of every layer; empty where gradients need them made anew.
        tables: modulations by noise level, filled as a rollout meets them; None where gradients flow.
    """

    tokens: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    tables: dict[tuple[float, ...], list[tuple[Tensor, ...]]] | None = field(default=None, repr=False)

    def index(self, rows: Tensor) -> "WanText":
        """Return the conditioning of the given rows [B'] (int64)."""
        layers = tuple((k[rows], v[rows]) for k, v in self.layers)
        return replace(self, tokens=self.tokens[rows], layers=layers, tables=None if self.tables is None else {})


class HashedWords:
    """A stand-in without weights: every word is a fixed random direction, so different prompts differ.

    For tiny students and tests; it knows nothing of language.
    """

    def __init__(self, width: int, length: int) -> None:
        self.width, self.length = width, length

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Return the words of each prompt."""
        return [len(re.findall(r"\w+", prompt)) for prompt in prompts]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings [B, S, width], zero past each prompt's end."""
        out = torch.zeros(len(prompts), self.length, self.width)
        for row, prompt in enumerate(prompts):
            for place, word in enumerate(re.findall(r"\w+", prompt.lower())[: self.length]):
                generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                out[row, place] = torch.randn(self.width, generator=generator)
        return out


def _umt5(where: str, length: int) -> Encoder:
    if not where:
        raise ConfigError("this student reads UMT5 embeddings and does not say where UMT5 is: set student.text.path")
    return UMT5Text(where, length=length)


ENCODERS: Final[dict[str, Callable[[str, int, int], Encoder]]] = {
    "words": lambda where, width, length: HashedWords(width, length),
    "umt5": lambda where, width, length: _umt5(where, length),
}
"""Makers of text encoders by kind: (where, width, length) -> encoder."""


class TextSource:
    """A text encoder that is made when it is first needed and shared by all copies of a student."""

    def __init__(self, name: str, width: int, length: int) -> None:
        self.name, self._width, self._length = name, width, length
        self._encoder: Encoder | None = None

    def __deepcopy__(self, memo: object) -> "TextSource":
        """Return itself: the three policies of a run read one encoder."""
        return self

    def use(self, encoder: Encoder) -> None:
        """Take ``encoder`` instead of the one that the name stands for."""
        self._encoder = encoder

    @property
    def length(self) -> int:
        """Tokens that are read of a prompt at most."""
        return self._encoder.length if isinstance(self._encoder, Measured) else self._length

    def counts(self, prompts: Sequence[str]) -> list[int] | None:
        """Return the tokens of each prompt; None when the encoder cannot tell."""
        encoder = self._made()
        return encoder.counts(prompts) if isinstance(encoder, Measured) else None

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings [B, S, text_dim] of B prompts.

        Raises:
            ConfigError: there is no text encoder of that kind.
        """
        return self._made()(prompts)

    def _made(self) -> Encoder:
        if self._encoder is None:
            kind, _, where = self.name.partition(":")
            if kind not in ENCODERS:
                raise ConfigError(f"there is no text encoder {kind!r}; choose one of {', '.join(sorted(ENCODERS))}")
            self._encoder = ENCODERS[kind](where, self._width, self._length)
        return self._encoder
