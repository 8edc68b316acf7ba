"""A public LoRA file merged into the checkpoint it belongs on; which files are known is in ``lora_files``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.students.bundle import check_tensors
from understudy.students.checkpoints.lora_files import Adapter, LayerChange, read_adapter
from understudy.students.checkpoints.read import Checkpoint


def with_adapter(base: Checkpoint, path: str | Path, alpha: float | None = None) -> Checkpoint:
    """Return ``base`` with the adapter in ``path`` added in: W + scale * B A for its weights W [D, D_in].

    How many layers it adapts is said in ``origin`` where it is not all of them. A base of shapes alone (on the meta
    device) stays one.

    Args:
        base: the checkpoint it was trained on.
        path: LongLive's ``lora.pt``, a PEFT folder, or any other file that ``lora_files`` knows.
        alpha: numerator of the scale of every layer; None: what the file says, otherwise the rank.

    Raises:
        CheckpointError: it is damaged, not only data, or not an adapter of this checkpoint: every tensor has to have its
            place, and every adapted layer both factors, of the right shapes and finite.
    """
    adapter = read_adapter(path, base.sizes.layers, base.sizes.image_dim is not None)
    _check_factors(base.tensors, adapter)
    tensors = dict(base.tensors)
    for name, change in sorted(adapter.layers.items()):
        _apply(tensors, name, change, adapter, alpha)
    return replace(base, tensors=tensors, origin=f"{base.origin} with {_described(adapter, base.tensors, alpha)}")


def _check_factors(tensors: Mapping[str, Tensor], adapter: Adapter) -> None:
    """Raise CheckpointError unless both factors of every adapted layer are there, finite, and of its weight's shape."""
    found: dict[str, Tensor] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name, change in sorted(adapter.layers.items()):
        halves = {"A": change.down, "B": change.up}
        found |= {
            f"{name}.lora_{half}": value.flatten(1).float() for half, value in halves.items() if value is not None
        }
        weight = tensors.get(f"{name}.weight")
        some, whole = any(v is not None for v in halves.values()), all(v is not None for v in halves.values())
        if some and weight is not None and weight.ndim > 1 and (whole or name.startswith("blocks.")):
            rank = change.down.shape[0] if change.down is not None else found[f"{name}.lora_B"].shape[1]
            expected |= {f"{name}.lora_A": (rank, weight[0].numel()), f"{name}.lora_B": (weight.shape[0], rank)}
    check_tensors(found, expected, adapter.source)


def _apply(tensors: dict[str, Tensor], name: str, change: LayerChange, adapter: Adapter, alpha: float | None) -> None:
    """Add one layer's change to its weight W [D, D_in] and bias [D], in single precision."""
    key = f"{name}.weight" if f"{name}.weight" in tensors else name
    weight = tensors[key]
    with torch.no_grad():
        if change.down is not None and change.up is not None:
            down, up = (half.flatten(1).float().to(weight.device) for half in (change.down, change.up))
            scale = adapter.scale(change, change.down.shape[0], alpha)
            tensors[key] = weight.float() + scale * (up @ down).reshape(weight.shape)
        for part, target in (("diff", key), ("diff_b", f"{name}.bias")):
            whole: Tensor | None = getattr(change, part)
            if whole is None:
                continue
            if target not in tensors:
                raise CheckpointError(f"{adapter.source} holds {part} of {change.spelled!r}, which has no bias")
            own = tensors[target]
            check_tensors({f"{name}.{part}": whole.float()}, {f"{name}.{part}": tuple(own.shape)}, adapter.source)
            tensors[target] = own.float() + whole.float().to(own.device)


def _described(adapter: Adapter, tensors: Mapping[str, Tensor], alpha: float | None) -> str:
    """Return the adapter's file with how strongly it acts, and on how many layers where that is not all."""
    pairs = [(change, change.down.shape[0]) for change in adapter.layers.values() if change.down is not None]
    root = bool(adapter.told.get("use_rslora"))
    strengths = {(adapter.scale(change, rank, alpha) * (rank**0.5 if root else rank), rank) for change, rank in pairs}
    said = [adapter.source.name]
    if len(strengths) == 1:
        numerator, rank = strengths.pop()
        said.append(f"alpha {numerator:g} over {'the root of ' if root else ''}rank {rank}")
    elif strengths:
        ranks = [rank for _, rank in pairs]
        scales = [adapter.scale(change, rank, alpha) for change, rank in pairs]
        said.append(f"ranks {min(ranks)} to {max(ranks)}, scales {min(scales):g} to {max(scales):g}")
    linear = {key.removesuffix(".weight") for key in tensors if key.startswith("blocks.") and _linear(tensors, key)}
    inside = len(linear & adapter.layers.keys())
    outside = len(adapter.layers) - inside
    if inside < len(linear) or outside:
        said.append(f"adapts {inside} of {len(linear)} layers" + (f" and {outside} other parts" if outside else ""))
    return ", ".join(said)


def _linear(tensors: Mapping[str, Tensor], key: str) -> bool:
    return key.endswith(".weight") and tensors[key].ndim == 2
