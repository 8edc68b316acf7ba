"""Prompts as UMT5 embeddings, the text conditioning of the Wan family, each prompt encoded once and kept on disk.

As in Wan: at most 512 tokens, every embedding past a prompt's end is zero, and those zeros are attended to, not masked.
The encoder (11 GB of weights) is loaded when a prompt is met that is not on disk yet, and never for one that is. The home
of the transformers extra for text.
"""

import hashlib
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from understudy.errors import CheckpointError, ConfigError, MissingExtra
from understudy.files import ensure_folder, load_tensors, sha256_hex, write_bytes_atomic
from understudy.students.umt5_files import TOKENIZER_FILES, UMT5Files, find_umt5, read_encoder

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
        self._tokenizer: Any = None
        self._model: Any = None

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

    def counts(self, prompts: Sequence[str]) -> list[int] | None:
        """Return the tokens of each prompt, end token included; None when transformers is not installed.

        Raises:
            CheckpointError: the tokenizer cannot be loaded.
        """
        texts = [normalise(prompt) for prompt in prompts]
        try:
            tokenizer = self._loaded_tokenizer()
        except MissingExtra:  # all embeddings may be on disk: then nothing else needs it
            return None
        found = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"] if texts else []
        return [len(ids) for ids in found]

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
        tokenizer, encoder = self._loaded_tokenizer(), self._loaded()
        ids = tokenizer([prompt], truncation=True, max_length=self.length, add_special_tokens=True)["input_ids"]
        tokens = torch.tensor(ids, device=self.device)
        return encoder(tokens, torch.ones_like(tokens)).last_hidden_state[0].cpu().contiguous()

    def _loaded_tokenizer(self) -> Any:
        if self._tokenizer is None:
            try:
                from transformers import AutoTokenizer
            except ImportError as error:
                raise MissingExtra("encoding prompts with UMT5", "wan") from error
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self._files.tokenizer, local_files_only=True)
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise CheckpointError(f"{self.path} cannot be loaded as a UMT5 tokenizer: {reason}") from None
        return self._tokenizer

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                from transformers import UMT5EncoderModel
            except ImportError as error:
                raise MissingExtra("encoding prompts with UMT5", "wan") from error
            try:
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
            self._model = encoder.to(self.device).eval().requires_grad_(False)
        return self._model


def build_umt5(tensors: Mapping[str, Tensor], path: Path) -> Any:
    """Return transformers' encoder with ``tensors``, by their names there, as weights [D, D_in] in the type they have.

    Raises:
        MissingExtra: transformers is not installed.
        CheckpointError: they do not fit, the first wrong one named.
    """
    try:
        from transformers import UMT5Config, UMT5EncoderModel
    except ImportError as error:
        raise MissingExtra("encoding prompts with UMT5", "wan") from error
    first = "encoder.block.0.layer"
    bias, wide = (
        tensors.get(f"{first}.0.SelfAttention.relative_attention_bias.weight"),
        f"{first}.1.DenseReluDense.wi_0.weight",
    )
    if bias is None or bias.ndim != 2 or wide not in tensors:
        lacking = wide if bias is not None else f"{first}.0.SelfAttention.relative_attention_bias.weight"
        raise CheckpointError.misfit(path, [lacking], ())
    layers = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.block\.(\d+)\.", name))}
    vocabulary, width = tensors["shared.weight"].shape
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=tensors[f"{first}.0.SelfAttention.q.weight"].shape[0] // bias.shape[1],
        d_ff=tensors[wide].shape[0],
        num_layers=max(layers) + 1,
        num_heads=bias.shape[1],
        relative_attention_num_buckets=bias.shape[0],
    )
    with torch.device("meta"):
        encoder: Any = UMT5EncoderModel(config)
    expected = {name: value for name, value in encoder.state_dict().items() if name != "encoder.embed_tokens.weight"}
    if expected.keys() != tensors.keys():
        raise CheckpointError.misfit(path, expected.keys() - tensors.keys(), tensors.keys() - expected.keys())
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path} does not fit this model: {name!r} has shape {list(tensor.shape)}, expected "
                f"{list(expected[name].shape)}"
            )
    encoder.load_state_dict(
        {**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"]}, assign=True, strict=False
    )
    encoder.tie_weights()
    return encoder


def check_umt5(path: str | Path) -> UMT5Files:
    """Return what ``find_umt5`` does, after holding names and shapes [D, D_in] to transformers' own; headers only.

    Raises:
        MissingExtra, CheckpointError: see ``find_umt5`` and ``build_umt5``.
    """
    files = find_umt5(path)
    if files.encoder.is_file():
        tensors = read_encoder(files.encoder, headers=True)
    else:
        shards = sorted(files.encoder.glob("*.safetensors"))
        if not shards or not (files.encoder / "config.json").is_file():
            raise CheckpointError(
                f"{files.encoder} holds no config.json with .safetensors files: fetch the text encoder"
            )
        tensors = {}
        for shard in shards:
            tensors |= load_tensors(shard, headers=True)[0]
        tensors.pop("encoder.embed_tokens.weight", None)
    build_umt5(tensors, files.encoder)
    if not any((files.tokenizer / file).is_file() for file in TOKENIZER_FILES):
        raise CheckpointError(f"{files.tokenizer} holds no tokenizer ({', '.join(TOKENIZER_FILES)}): fetch it")
    return files


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
