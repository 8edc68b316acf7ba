"""Loading VideoReward: the base model's folder, the public reward weights, a run's released discriminator.

Files are read as tensors only, never unpickled freely, and have to fit by name and shape.
"""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from understudy.discriminators.videoreward.model import VideoReward, VideoRewardSpec, canonical_name
from understudy.errors import CheckpointError, MissingExtra


def load_videoreward(
    path: str | Path,
    spec: VideoRewardSpec,
    reward: str | Path | None = None,
    weights: str | Path | None = None,
    dtype: str = "bfloat16",
) -> VideoReward:
    """Build the discriminator from files; nothing is downloaded.

    Args:
        path: transformers folder of Qwen2-VL with its tokenizer (the public model is built on the 2B Instruct one).
        spec: settings.
        reward: public VideoReward weights: the folder with ``checkpoint-*``, one such folder, or a file. They hold the
            whole network. None begins with the base model, fresh LoRA layers and a fresh head.
        weights: a trained discriminator's LoRA layers and head (``discriminator.pt``, ``.safetensors``), put on top.
        dtype: "bfloat16" or "float32" of the frozen weights and the arithmetic; what is trained is float32.

    Raises:
        MissingExtra: transformers or peft is not installed.
        CheckpointError: a folder or file is missing, damaged, or does not fit, the first wrong name given.
    """
    try:
        from transformers import AutoTokenizer, Qwen2VLModel
    except ImportError as error:
        raise MissingExtra("the VideoReward discriminator", "wan") from error
    if not (Path(path) / "config.json").is_file():
        raise CheckpointError(f"{path} holds no Qwen2-VL model: give a transformers folder with config.json in it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        loaded: Any = Qwen2VLModel.from_pretrained(
            path, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be loaded as Qwen2-VL: {' '.join(str(error).split())}") from None
    model, info = loaded
    if info["missing_keys"]:
        raise CheckpointError.misfit(path, info["missing_keys"], ())
    network = VideoReward(model, tokenizer, spec)
    for source in (reward, weights):
        if source is not None:
            load_reward_weights(network, source)
    return network


@torch.no_grad()
def load_reward_weights(network: VideoReward, path: str | Path) -> None:
    """Load a whole network's weights, or LoRA factors [D, r] and head alone, into ``network``.

    Which of the two ``path`` holds shows in its names; each must be complete.

    Raises:
        CheckpointError: it is missing, damaged, not of tensors alone, or does not fit, the first wrong name given.
    """
    found: dict[str, Tensor] = {}
    for file in _files(Path(path)):
        for name, tensor in _tensors(_read(file)):
            if (known := canonical_name(name)) is not None:
                found[known] = tensor
    expected = {str(canonical_name(name)): parameter for name, parameter in network.named_parameters()}
    if all("lora_" in name or name == "rm_head.weight" for name in found):
        expected = {name: parameter for name, parameter in expected.items() if parameter.requires_grad}
    if found.keys() != expected.keys():
        raise CheckpointError.misfit(path, expected.keys() - found.keys(), found.keys() - expected.keys())
    embedding = network.model.language_model.embed_tokens
    for name, tensor in found.items():
        target = expected[name]
        if name == "language_model.embed_tokens.weight" and tensor.shape[1:] == target.shape[1:]:
            embedding.num_embeddings = len(tensor)  # the public file has dropped the base model's unused rows
            target.data = torch.empty_like(target[:1]).expand(tensor.shape).clone()
        if tensor.shape != target.shape:
            raise CheckpointError(
                f"{path} does not fit this model: {name!r} has shape {list(tensor.shape)}, expected {list(target.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path} holds values that are not finite in {name!r}: get the file again")
        target.copy_(tensor)


def _files(path: Path) -> list[Path]:
    """Return the files that make up ``path``: itself, or those of the newest checkpoint of a folder."""
    if path.is_file():
        return [path]
    steps = [folder for folder in path.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdecimal()]
    folder = max(steps, key=lambda step: int(step.name.rpartition("-")[2]), default=path)
    for names in (("model.pth",), ("adapter_model.safetensors", "non_lora_state_dict.pth"), ("discriminator.pt",)):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    raise CheckpointError(
        f"{path} holds no discriminator weights: give a file, or a folder with model.pth, with adapter_model.safetensors "
        "and non_lora_state_dict.pth, or with discriminator.pt"
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} holds more than tensors and is not read, for it could run code ({reason})"
        ) from None
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())}): get the file again") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    return content


def _tensors(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of nested mappings under dotted names; settings saved beside them are left out."""
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) and "optim" not in str(name):
            yield from _tensors(value, f"{prefix}{name}.")
