"""Loading VideoReward: the base model's folder, the public reward weights, a run's released discriminator.

Files are read as tensors only, never unpickled freely, and have to fit by name and shape. VideoReward's trainer leaves
the whole network, or LoRA factors [D, r] with what else was trained, or a merged network without LoRA; with one output, or
three, one for each rating.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from understudy.discriminators.videoreward.model import VideoReward, VideoRewardSpec, canonical_name
from understudy.errors import CheckpointError, MissingExtra
from understudy.files import load_tensors
from understudy.reading import read_json
from understudy.students.checkpoints.lora_files import check_settings
from understudy.students.lora import SETTINGS


def load_videoreward(
    path: str | Path,
    spec: VideoRewardSpec,
    reward: str | Path | None = None,
    weights: str | Path | None = None,
    dtype: str = "bfloat16",
    headers: bool = False,
) -> VideoReward:
    """Build the discriminator from files; nothing is downloaded.

    Args:
        path: transformers folder of Qwen2-VL with its tokenizer (the public model is built on the 2B Instruct one).
        spec: settings.
        reward: public VideoReward weights: the folder with ``checkpoint-*``, one such folder, or a file. What of the
            network they do not hold was frozen and is the base model's. None: base model, fresh LoRA layers and head.
        weights: a trained discriminator's LoRA layers and head (``discriminator.pt``, ``.safetensors``), put on top.
        dtype: "bfloat16" or "float32" of the frozen weights and the arithmetic; what is trained is float32.
        headers: look at names and shapes only; what comes back is on the meta device, and good for nothing else.

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
        if headers:
            with torch.device("meta"):
                network = VideoReward(_shapes_of(Path(path)), tokenizer, spec)
        else:
            loaded: Any = Qwen2VLModel.from_pretrained(
                path, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            model, info = loaded
            if info["missing_keys"]:
                raise CheckpointError.misfit(path, info["missing_keys"], ())
            network = VideoReward(model, tokenizer, spec)
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be loaded as Qwen2-VL: {' '.join(str(error).split())}") from None
    for source in (reward, weights):
        if source is not None:
            load_reward_weights(network, source, headers)
    return network


def _shapes_of(path: Path) -> Any:
    """Return the base model of a transformers folder without weights, after holding its files' names to the model's."""
    from transformers import AutoConfig, Qwen2VLModel

    model: Any = Qwen2VLModel(AutoConfig.from_pretrained(path, local_files_only=True))
    found = {
        canonical_name(name) for shard in path.glob("*.safetensors") for name in load_tensors(shard, headers=True)[0]
    }
    missing = {name for name in model.state_dict() if canonical_name(name) not in found}
    if missing:
        raise CheckpointError.misfit(path, missing, ())
    return model


@torch.no_grad()
def load_reward_weights(network: VideoReward, path: str | Path, headers: bool = False) -> None:
    """Load a whole network's weights, LoRA factors [D, r] and head, or a merged network without LoRA, into ``network``.

    LoRA factors and head have to be whole where there are any; without any, all the rest has to be. ``headers`` looks at
    names and shapes only.

    Raises:
        CheckpointError: it is missing, damaged, not of tensors alone, or does not fit, the first wrong name given.
    """
    found: dict[str, Tensor] = {}
    for file in _files(Path(path)):
        _check_adapter(network, file)
        for name, tensor in _tensors(_read(file, headers)):
            if (known := canonical_name(name)) is not None:
                found[known] = tensor
    head = found.get("rm_head.weight")
    if head is not None and head.shape == (3, network.rm_head.weight.shape[1]):
        network.set_outputs(3)
    expected = {str(canonical_name(name)): parameter for name, parameter in network.named_parameters()}
    adapters = {name for name in expected if "lora_" in name}
    merged = not any("lora_" in name for name in found)
    needed = (
        (expected.keys() - adapters) if merged and found.keys() - {"rm_head.weight"} else {*adapters, "rm_head.weight"}
    )
    if not needed <= found.keys() <= expected.keys():
        raise CheckpointError.misfit(path, needed - found.keys(), found.keys() - expected.keys())
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
        if headers:
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path} holds values that are not finite in {name!r}: get the file again")
        target.copy_(tensor)


def _check_adapter(network: VideoReward, file: Path) -> None:
    """Raise CheckpointError where PEFT's settings beside the LoRA file say another strength than ``network`` gives it."""
    settings = file.parent / SETTINGS
    if not file.name.startswith("adapter_model.") or not settings.is_file():
        return
    try:
        told = read_json(settings)
        rank, alpha, root = told["r"], told["lora_alpha"], bool(told.get("use_rslora"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{settings} does not say how strong its adapter is ({error}): get it again") from None
    check_settings({name: value for name, value in told.items() if name != "modules_to_save"}, file)
    if (rank, alpha, root) != (network.spec.rank, network.spec.alpha, False):
        raise CheckpointError(
            f"{file.parent} was trained with rank {rank} and alpha {alpha}{' over its root' * root}, the recipe has "
            f"{network.spec.rank} and {network.spec.alpha}: set discriminator.rank {rank} and discriminator.alpha "
            f"{alpha if not root else alpha * rank**0.5:g}"
        )


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


def _read(path: Path, headers: bool) -> Mapping[str, Any]:
    content, _ = load_tensors(path, headers)
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
