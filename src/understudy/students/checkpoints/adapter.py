"""A public LoRA file merged into the checkpoint it belongs on: LongLive's ``lora.pt``, or a PEFT adapter.

LongLive's trainer writes ``generator_lora`` (beside ``critic_lora`` and ``step``): what peft's ``get_peft_model_state_dict``
returns, ``base_model.model.blocks.0.self_attn.q.lora_A.weight`` [rank, D_in] and ``lora_B`` [D, rank] for every linear layer
of the blocks. The scale alpha / rank is in its recipe only (256 / 256); a PEFT adapter has it in adapter_config.json.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from understudy.errors import CheckpointError
from understudy.reading import Unreadable, read_json
from understudy.students.bundle import check_tensors, read_tensors
from understudy.students.checkpoints.layout import module_names
from understudy.students.checkpoints.read import Checkpoint, load_plain, strip_prefixes
from understudy.students.lora import SETTINGS, WEIGHTS

_HALF: Final = re.compile(r"(?P<layer>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_PEFT: Final = "base_model.model."


def with_adapter(base: Checkpoint, path: str | Path, alpha: float | None = None) -> Checkpoint:
    """Return ``base`` with the adapter in ``path`` added in: W + alpha / rank * B A for its linear weights W [D, D_in].

    Args:
        base: the checkpoint it was trained on.
        path: LongLive's ``lora.pt``, a safetensors file, or a PEFT folder.
        alpha: numerator of the scale; None: what a PEFT folder says, otherwise the rank.

    Raises:
        CheckpointError: it is damaged, not only data, or no whole adapter of this checkpoint: every adapted layer has to be
            a linear one of the blocks, adapted in every block, and both halves of it there.
    """
    source = Path(path)
    content, told = _read(source)
    halves = _halves(content, source)
    rank = next(iter(halves.values())).shape[0]
    numerator = alpha if alpha is not None else told.get("lora_alpha", rank)
    if (
        isinstance(numerator, bool)
        or not isinstance(numerator, int | float)
        or not math.isfinite(numerator)
        or not rank
    ):
        raise CheckpointError(
            f"{source} has the scale {str(numerator)[:40]} over rank {rank}: these are no numbers above 0"
        )
    names = module_names(base.sizes.layers, base.sizes.image_dim is not None)
    linear = {name for name in names if name.startswith("blocks.") and f"{name}.bias" in base.tensors}
    linear = {name for name in linear if base.tensors[f"{name}.weight"].ndim == 2}
    ends = {name.split(".", 2)[2] for name, _ in halves if name.startswith("blocks.") and name.count(".") > 1}
    expected: dict[str, tuple[int, ...]] = {}
    for name in sorted(name for name in linear if name.split(".", 2)[2] in ends):
        out, inner = base.tensors[f"{name}.weight"].shape
        expected |= {f"{name}.lora_A": (rank, inner), f"{name}.lora_B": (out, rank)}
    check_tensors({f"{name}.lora_{half}": tensor for (name, half), tensor in halves.items()}, expected, source)
    tensors = dict(base.tensors)
    for name in sorted({name for name, _ in halves}):
        weight = tensors[f"{name}.weight"]
        change = halves[name, "B"].float() @ halves[name, "A"].float()
        tensors[f"{name}.weight"] = weight.float() + numerator / rank * change
    origin = f"{base.origin} with {source.name}, alpha {numerator:g} over rank {rank}"
    return replace(base, tensors=tensors, origin=origin)


def _read(source: Path) -> tuple[Any, Mapping[str, Any]]:
    """Return what an adapter's file holds, and its adapter_config.json if it has one."""
    if source.is_dir():
        try:
            told = read_json(source / SETTINGS)
        except (OSError, Unreadable) as error:
            raise CheckpointError(f"{source} is no PEFT adapter ({error}): it has {WEIGHTS} and {SETTINGS}") from None
        return read_tensors(source / WEIGHTS), told if isinstance(told, dict) else {}
    if source.suffix == ".safetensors":
        return read_tensors(source), {}
    return load_plain(source), {}


def _halves(content: Any, source: Path) -> dict[tuple[str, str], Tensor]:
    """Return the adapter's tensors by (layer under its original name, half A or B)."""
    if isinstance(content, Mapping) and "generator_lora" in content:
        content = content["generator_lora"]
    found: dict[tuple[str, str], Tensor] = {}
    for key, tensor in content.items() if isinstance(content, Mapping) else ():
        short = strip_prefixes(str(key).replace(_PEFT, "", 1))
        half = _HALF.fullmatch(short)
        if half is None or not isinstance(tensor, Tensor) or tensor.ndim != 2:
            raise CheckpointError(f"{source} holds {str(key)!r}, which is no half of a LoRA adapter: give one alone")
        found[half["layer"], half["half"]] = tensor
    if not found:
        raise CheckpointError(f"{source} holds no LoRA adapter: expected names that end in lora_A.weight")
    return found
