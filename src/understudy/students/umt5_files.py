"""UMT5's files: a diffusers folder, or the encoder file and tokenizer folder that Wan, Self-Forcing and ComfyUI use.

The original encoder (``models_t5_umt5-xxl-enc-bf16.pth``) has no settings: sizes follow from the shapes of its weights
[D, D_in]. ComfyUI's files have transformers' names, may be stored in eight bits, and may hold other models too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from understudy.errors import CheckpointError
from understudy.files import load_tensors
from understudy.students.checkpoints.quantised import dequantised

_TOKENIZERS: Final = ("google/umt5-xxl", "umt5-xxl", "tokenizer")
TOKENIZER_FILES: Final = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
"""One of these shows a tokenizer's folder."""
_SUFFIXES: Final = (".pth", ".pt", ".safetensors", ".bin", ".gguf")
_FILES: Final = re.compile(r"t5.*\.(?:pth|pt|safetensors)$", re.IGNORECASE)
_INSIDE: Final = re.compile(r"(?:text_encoders|cond_stage_model)\.(?:\w+\.)?(?:transformer\.)?")
_ADVICE: Final = (
    "give a diffusers pipeline of the Wan family, or a folder with models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl"
)
_ONCE: Final = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_LAYER: Final = {
    "norm1": "0.layer_norm",
    **{f"attn.{part}": f"0.SelfAttention.{part}" for part in "qkvo"},
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "norm2": "1.layer_norm",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
}


@dataclass(frozen=True)
class UMT5Files:
    """Where a text encoder is.

    Attributes:
        encoder: a transformers folder, or one file. tokenizer: a transformers folder.
    """

    encoder: Path
    tokenizer: Path

    def parts(self) -> dict[str, list[Path]]:
        """Return the files that decide what an embedding is."""
        encoder = [self.encoder] if self.encoder.is_file() else _inside(self.encoder)
        return {"text_encoder": encoder, "tokenizer": _inside(self.tokenizer)}


def find_umt5(path: str | Path) -> UMT5Files:
    """Return where the text encoder of ``path`` is: a pipeline folder of diffusers', Wan's own folder, or an encoder file.

    Raises:
        CheckpointError: a part is missing, or there are several.
    """
    place = Path(path)
    if (place / "text_encoder").is_dir() and (place / "tokenizer").is_dir():
        return UMT5Files(place / "text_encoder", place / "tokenizer")
    if place.is_dir():
        files = [file for file in sorted(place.iterdir()) if file.is_file() and _FILES.search(file.name)]
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"{path} holds several text encoders ({names}): give the file you mean")
        if not files:
            lacking = next(
                (part for part in ("text_encoder", "tokenizer") if not (place / part).is_dir()), "text_encoder"
            )
            raise CheckpointError(f"{path} holds no {lacking!r} folder: {_ADVICE}")
        encoder = files[0]
    elif place.is_file() and place.suffix in _SUFFIXES:
        encoder = place
    else:
        raise CheckpointError(f"{path} {'is no text encoder' if place.exists() else 'is missing'}: {_ADVICE}")
    for name in _TOKENIZERS:
        folder = encoder.parent / name
        if any((folder / file).is_file() for file in TOKENIZER_FILES):
            return UMT5Files(encoder, folder)
    raise CheckpointError(
        f"{encoder} has no tokenizer beside it: fetch {_TOKENIZERS[0]} of Wan-AI/Wan2.1-T2V-1.3B into {encoder.parent}"
    )


def read_encoder(path: Path, headers: bool = False) -> dict[str, Tensor]:
    """Return the tensors of an encoder file under transformers' names, linear weights [D, D_in].

    Raises:
        CheckpointError: it is damaged, or holds no UMT5 encoder.
    """
    content, _ = load_tensors(path, headers)
    tensors = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    inside = {_INSIDE.sub("", name, count=1): value for name, value in tensors.items() if _INSIDE.match(name)}
    tensors = {name: value for name, value in (inside or tensors).items() if isinstance(value, Tensor)}
    tensors = {name: value for name, value in tensors.items() if name not in ("spiece_model", "logit_scale")}
    plain, _ = dequantised(tensors, str(path))
    found = {transformers_name(name): value.detach() for name, value in plain.items()}
    if "shared.weight" not in found and "encoder.embed_tokens.weight" in found:
        found["shared.weight"] = found["encoder.embed_tokens.weight"]
    found.pop("encoder.embed_tokens.weight", None)
    for name in ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"):
        if name not in found or found[name].ndim != 2:
            first = next(iter(sorted(tensors)), "none")
            raise CheckpointError(
                f"{path} holds no UMT5 encoder: {len(tensors)} tensors without {name!r}, first {first!r}; {_ADVICE}"
            )
    return found


def transformers_name(name: str) -> str:
    """Return transformers' name of a weight of Wan's own T5 encoder; a name that is transformers' already stays."""
    if name in _ONCE:
        return _ONCE[name]
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name):
        return f"encoder.block.{match[1]}.layer.{_LAYER.get(match[2], match[2])}.weight"
    return name


def _inside(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_file())
