"""Prompts as UMT5 embeddings, the text conditioning of the Wan family, each prompt encoded once and kept on disk.

As in Wan: at most 512 tokens, every embedding past a prompt's end is zero, and those zeros are attended to, not masked.
The encoder (11 GB of weights) is loaded when a prompt is met that is not on disk yet, and never for one that is. The home
of the transformers extra for text.
"""

import hashlib
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from understudy.errors import CheckpointError, ConfigError, MissingExtra
from understudy.files import ensure_folder, sha256_hex, write_bytes_atomic
from understudy.students.umt5_files import UMT5Files, build_umt5, find_umt5, read_encoder

_SAMPLE = 1 << 20


def normalise(prompt: str) -> str:
    """Return ``prompt`` as Wan reads it: HTML entities resolved (twice, as there), white space collapsed.

    Wan also repairs mis-decoded text (ftfy); that is left to whoever writes the prompts.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


class UMT5Text:
    """Turns prompts into embeddings [B, L, D]; a prompt's embedding depends on no other prompt of its batch.

    Args:
        path: diffusers pipeline folder with ``text_encoder`` and ``tokenizer``, or Wan's own folder or encoder file, see
            ``umt5_files``; nothing is downloaded.
        cache: folder of the embeddings, one safetensors file a prompt, named by a hash of the model's identity, its
            arithmetic, the normalised prompt and ``length``.
        length: L, tokens a prompt is cut or filled up to; 512 for Wan.
        dtype: "bfloat16" or "float32", of the encoder's weights and arithmetic.
        device: where prompts are encoded.

    Raises:
        CheckpointError: ``path`` holds no such model.
    """

    def __init__(
        self,
        path: str | Path,
        cache: str | Path = "runs/text",
        length: int = 512,
        dtype: str = "bfloat16",
        device: str = "cpu",
    ) -> None:
        self.path, self.cache, self.length, self.device = Path(path), ensure_folder(cache), length, device
        if length < 1:
            raise ConfigError(f"text.length must be at least 1 token, got {length}")
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._files = find_umt5(path)
        self._identity = f"{_fingerprint(self._files)}\n{dtype}"
        self._model: tuple[Any, Any] | None = None

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings [B, L, D] (float32, on the CPU), zero past each prompt's end.

        Raises:
            MissingExtra: a prompt has to be encoded and transformers is not installed.
            CheckpointError: the encoder's weights do not fit, first wrong key named.
        """
        rows = [self._embedding(normalise(prompt)) for prompt in prompts]
        filled = torch.zeros(len(rows), self.length, rows[0].shape[1] if rows else 0)
        for i, row in enumerate(rows):
            filled[i, : len(row)] = row
        return filled

    @property
    def name(self) -> str:
        """What saved students call it, see ``students.wan.text``."""
        return f"umt5:{self.path}"

    def __deepcopy__(self, memo: object) -> "UMT5Text":
        """Policies copied from one student share the frozen encoder."""
        return self

    def precompute(self, prompts: Sequence[str]) -> None:
        """Bring all ``prompts`` to disk and free the encoder's memory: then training needs no encoder at all."""
        for prompt in prompts:
            self._embedding(normalise(prompt))
        self._model = None

    def file(self, prompt: str) -> Path:
        """Return where the embedding of ``prompt`` is or will be kept."""
        key = sha256_hex(f"{self._identity}\n{self.length}\n{normalise(prompt)}".encode())
        return self.cache / f"{key}.safetensors"

    def _embedding(self, prompt: str) -> Tensor:
        """Return the embedding [n, D] of one prompt up to its end."""
        file = self.file(prompt)
        if file.is_file():
            try:
                return load_file(file)["embedding"]
            except (OSError, KeyError, SafetensorError):
                pass  # damaged: encoded again and replaced
        row = self._encode(prompt)
        write_bytes_atomic(file, save({"embedding": row}))
        return row

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        tokenizer, encoder = self._loaded()
        ids = tokenizer([prompt], truncation=True, max_length=self.length, add_special_tokens=True)["input_ids"]
        tokens = torch.tensor(ids, device=self.device)
        return encoder(tokens, torch.ones_like(tokens)).last_hidden_state[0].cpu().contiguous()

    def _loaded(self) -> tuple[Any, Any]:
        if self._model is None:
            try:
                from transformers import AutoTokenizer, UMT5EncoderModel
            except ImportError as error:
                raise MissingExtra("encoding prompts with UMT5", "wan") from error
            try:
                tokenizer = AutoTokenizer.from_pretrained(self._files.tokenizer, local_files_only=True)
                if self._files.encoder.is_file():
                    encoder = build_umt5(read_encoder(self._files.encoder), self._files.encoder).to(self.dtype)
                    loaded: Any = encoder, {"missing_keys": ()}
                else:
                    loaded = UMT5EncoderModel.from_pretrained(
                        self._files.encoder,
                        dtype=self.dtype,
                        local_files_only=True,
                        use_safetensors=True,
                        output_loading_info=True,
                    )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                raise CheckpointError(f"{self.path} cannot be loaded as a UMT5 encoder: {reason}") from None
            encoder, info = loaded
            if info["missing_keys"]:
                raise CheckpointError.misfit(self._files.encoder, info["missing_keys"], ())
            self._model = tokenizer, encoder.to(self.device).eval().requires_grad_(False)
        return self._model


def _fingerprint(files: UMT5Files) -> str:
    """Return a hash that tells models apart without reading all their weights.

    It covers small files whole, and of large ones the size, the first and the last megabyte.
    """
    digest = hashlib.sha256()
    for part, items in files.parts().items():
        for file in items:
            size = file.stat().st_size
            digest.update(f"{part}/{file.name} {size}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_SAMPLE))
                if size > _SAMPLE:
                    stream.seek(-_SAMPLE, os.SEEK_END)
                    digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()
