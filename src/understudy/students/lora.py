"""Low-rank adapters (LoRA, 2106.09685) on any student, by peft: several policies on one set of base weights.

A policy is a module of its own, so that nothing has to be switched between two evaluations or between a forward pass and
the recomputation of a checkpointed one; what it does not train it shares, storage and all, with every other policy.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from understudy.errors import CheckpointError, ConfigError, UnderstudyError
from understudy.files import ensure_folder, write_bytes_atomic, write_json_atomic
from understudy.reading import read_json
from understudy.recipes.config import LoraConfig
from understudy.students.base import StudentModule
from understudy.students.bundle import check_tensors, read_tensors

WEIGHTS: Final = "adapter_model.safetensors"
SETTINGS: Final = "adapter_config.json"
BASE: Final = "base.json"
"""What an adapter belongs on, in parts: PEFT's own settings have room for one name."""
_NAME: Final = "default"
_PREFIX: Final = "base_model.model."

S = TypeVar("S", bound=StudentModule)


def fork(policy: S) -> S:
    """Return a frozen copy of ``policy``: what it trains is copied, what is frozen in it is shared."""
    tensors = (*policy.parameters(), *policy.buffers())
    memo: dict[int, Any] = {id(t): t for t in tensors if not t.requires_grad} if has_adapter(policy) else {}
    return copy.deepcopy(policy, memo).requires_grad_(False)


def on_base(base: S) -> S:
    """Return a frozen module on the same storage as ``base``: the reference policy, adapters off."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in base.parameters()}
    memo |= {id(b): b for b in base.buffers()}
    view = copy.deepcopy(base, memo)
    view.borrowed = frozenset(view.state_dict())
    return view


def adapted(base: StudentModule, lora: LoraConfig, seed: int) -> StudentModule:
    """Return a student on the storage of ``base`` whose only trainable weights are new adapters, without effect yet.

    Every adapted weight W [D, D_in] acts as W + alpha / rank * B A with A [rank, D_in] drawn from ``seed`` and B zero.

    Raises:
        ConfigError: peft is missing, or a target names no linear layer.
    """
    try:
        import peft
    except ImportError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"student.lora needs the package peft ({why}): pip install 'understudy[wan]'") from None
    student = on_base(base)
    targets = lora_targets(student, lora.targets)
    settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, student, _NAME)
    for parameter in student.parameters():
        if parameter.requires_grad:  # small steps vanish in the half precision that a base may have
            parameter.data = parameter.data.float()
    own = {name for name, tensor in student.state_dict(keep_vars=True).items() if tensor.requires_grad}
    student.borrowed = frozenset(student.state_dict().keys() - own)
    student.adapter = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": targets}
    return student


def lora_targets(student: nn.Module, wanted: tuple[str, ...] | None) -> list[str]:
    """Return the linear layers to adapt: those whose names end in one of ``wanted``, or all of the student's blocks.

    Raises:
        ConfigError: one of ``wanted`` names no linear layer.
    """
    stacks = tuple(f"{name}." for name, child in student.named_children() if isinstance(child, nn.ModuleList))
    linear = [name for name, module in student.named_modules() if type(module) is nn.Linear]
    inside = [name for name in linear if name.startswith(stacks)]
    if wanted is None:
        return inside
    for end in wanted:
        if not any(f".{name}".endswith(f".{end}") for name in linear):
            known = ", ".join(sorted({name.split(".", 2)[2] for name in inside}))
            raise ConfigError(f"student.lora.targets: {end!r} is no linear layer; the blocks have {known}")
    return [name for name in linear if any(f".{name}".endswith(f".{end}") for end in wanted)]


def has_adapter(student: StudentModule) -> bool:
    """Return whether ``student`` carries adapters."""
    return student.adapter is not None


def merged(student: StudentModule, weights: Mapping[str, Tensor] | None = None) -> StudentModule:
    """Return ``student`` as plain weights [D, D_in] of its own in float32, adapters added in; as it is without any.

    Small changes vanish in a half precision that the base may have: with ``weights``, the base's own by the plain
    student's names, the adapters are added to these instead.
    """
    if not has_adapter(student):
        return student
    plain = copy.deepcopy(student).float()
    deltas: dict[str, Tensor] = {}
    for name, layer in list(plain.named_modules()):
        if not hasattr(layer, "get_delta_weight"):
            continue
        linear = layer.base_layer
        assert isinstance(linear, nn.Linear)
        deltas[f"{name}.weight"] = layer.get_delta_weight(_NAME).detach()
        plain.set_submodule(name, linear)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if weights is not None:
                parameter.copy_(weights[name])
            if name in deltas:
                parameter.add_(deltas[name].to(parameter.device, torch.float32))
    plain.borrowed, plain.adapter = frozenset(), None
    return plain.requires_grad_(False)


def adapter_tensors(student: nn.Module) -> dict[str, Tensor]:
    """Return the adapters A [rank, D_in] and B [D, rank] under the names of a PEFT file."""
    tensors = student.state_dict()
    own = [name for name in tensors if f".{_NAME}." in name and ".lora_" in name]
    return {_PREFIX + name.replace(f".{_NAME}.", "."): tensors[name].detach().cpu().contiguous() for name in own}


def save_adapter(
    student: StudentModule, folder: Path, base: str, first: str | None = None, alpha: float | None = None
) -> None:
    """Write the adapters as PEFT reads them (``PeftModel.from_pretrained``).

    Args:
        student: with adapters.
        folder: to write.
        base: names what they belong on.
        first: names the adapter that had been merged into ``base`` before, if any.
        alpha: the strength that this one was given, if it was.
    """
    assert student.adapter is not None
    ensure_folder(folder)
    write_bytes_atomic(folder / WEIGHTS, save(adapter_tensors(student), {"format": "pt"}))
    named = base if first is None else f"{base} with {first} merged"
    head = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": named, "inference_mode": True}
    write_json_atomic(folder / SETTINGS, {**head, **student.adapter, "lora_dropout": 0.0, "bias": "none"})
    write_json_atomic(folder / BASE, {"start": base, "adapter": first, "adapter_alpha": alpha})


def load_adapter(student: StudentModule, folder: Path) -> StudentModule:
    """Return ``student`` with the PEFT adapter in ``folder``, strictly: every tensor has its place.

    Raises:
        CheckpointError: the folder holds no LoRA adapter, or one of another student.
    """
    try:
        told = read_json(folder / SETTINGS)
        targets = told["target_modules"]
        targets = (targets,) if isinstance(targets, str) else tuple(targets)
        lora = LoraConfig(rank=told["r"], alpha=told["lora_alpha"], targets=targets)
        policy = adapted(student, lora, 0)
    except (OSError, KeyError, TypeError, ValueError, UnderstudyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} holds no LoRA adapter for this student ({reason})") from None
    tensors = read_tensors(folder / WEIGHTS)
    places = adapter_tensors(policy)
    check_tensors(tensors, {key: tuple(tensor.shape) for key, tensor in places.items()}, folder / WEIGHTS)
    names = {key: key.removeprefix(_PREFIX).removesuffix(".weight") + f".{_NAME}.weight" for key in tensors}
    policy.load_state_dict({names[key]: tensor for key, tensor in tensors.items()}, strict=False)
    return policy
