"""Weights stored in eight bits, brought back to plain ones: w = stored * scale.

Files of float8 weights exist plain (a cast, no scale) and scaled, one scale a tensor or a row, spelled ``scale_weight`` or
``weight_scale``; int8 weights the same with a scale. A scale stands beside its weight [D, D_in] as [], [1], [D] or [D, 1].
Formats that pack several weights into a byte, or scale them in blocks, are refused by name.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.reading import parse_json

_EIGHT_BITS: Final = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int8)
_SCALES: Final = (".scale_weight", ".weight_scale")
_BESIDE: Final = (".scale_input", ".input_scale")  # of activations: nothing of the weights
_FORMAT: Final = ".comfy_quant"
_MARKERS: Final = ("scaled_fp8",)
_OTHERS: Final = (
    (".weight_scale_inv", "block-wise float8"),
    (".weight_scale_2", "NVFP4"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".SCB", "bitsandbytes int8"),
)
_ADVICE: Final = "give the file in bfloat16, float16 or float32 that it was made from"


def dequantised(tensors: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], str]:
    """Return plain weights [D, D_in] and what was done to them, empty where nothing was; tensors may be on the meta device.

    Raises:
        CheckpointError: they are in a format that is not known here, or a scale does not belong to its weight.
    """
    for name in tensors:
        kind = next((kind for end, kind in _OTHERS if name.endswith(end)), None)
        if kind is not None:
            raise CheckpointError(f"{origin} holds weights quantised as {kind} ({name!r}): {_ADVICE}")
    scales = {name: end for name in tensors for end in _SCALES if name.endswith(end)}
    dropped = {name for name in tensors if name.endswith((*_BESIDE, _FORMAT)) or name.rpartition(".")[2] in _MARKERS}
    for name in tensors:
        if name.endswith(_FORMAT):
            _check_format(name, tensors[name], origin)
    plain = {name: tensor for name, tensor in tensors.items() if name not in scales and name not in dropped}
    changed: dict[torch.dtype, int] = {}
    for scale, end in scales.items():
        name = scale.removesuffix(end) + ".weight"
        if name not in plain:
            raise CheckpointError(f"{origin} holds the scale {scale!r} of a weight that is not there: fetch it again")
        stored = plain[name]
        plain[name] = _scaled(stored, tensors[scale], f"{origin}: {scale!r}")
        changed[stored.dtype] = changed.get(stored.dtype, 0) + 1
    for name, tensor in plain.items():
        if tensor.dtype in _EIGHT_BITS and tensor.is_floating_point():
            plain[name] = tensor.to(torch.bfloat16)  # holds every such value exactly
            changed[tensor.dtype] = changed.get(tensor.dtype, 0) + 1
        elif not tensor.is_floating_point():
            raise CheckpointError(f"{origin} holds {name!r} in {_name(tensor.dtype)}, packed or quantised: {_ADVICE}")
    said = ", ".join(f"{count} tensors brought back from {_name(dtype)}" for dtype, count in changed.items())
    return plain, said


def _scaled(stored: Tensor, scale: Tensor, what: str) -> Tensor:
    """Return the plain weight [D, D_in] in single precision."""
    if not scale.is_floating_point() or scale.dtype in _EIGHT_BITS:
        raise CheckpointError(f"{what} is in {_name(scale.dtype)}, as block-wise formats have it: {_ADVICE}")
    rows = scale.ndim <= 2 and scale.shape[:1] == stored.shape[:1] and scale.numel() == stored.shape[0]
    if scale.numel() != 1 and not rows:
        raise CheckpointError(
            f"{what} has shape {list(scale.shape)} for a weight of shape {list(stored.shape)}, one scale a block: {_ADVICE}"
        )
    shape = (1,) * stored.ndim if scale.numel() == 1 else (-1,) + (1,) * (stored.ndim - 1)
    return stored.float() * scale.float().reshape(shape)


def _check_format(name: str, tensor: Tensor, origin: str) -> None:
    """Raise CheckpointError unless ComfyUI's note on a layer's format, JSON as bytes, names a plain eight-bit one."""
    if tensor.device.type == "meta":
        return
    try:
        told = parse_json(bytes(tensor.to(torch.uint8).flatten().tolist()))
        kind, turned = str(told["format"]), bool(told.get("convrot"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{origin}: {name!r} does not say how its layer is quantised: {_ADVICE}") from None
    if turned or not kind.startswith(("float8_", "int8_tensorwise", "int8")):
        raise CheckpointError(f"{origin} holds weights quantised as {kind}{' with rotation' * turned}: {_ADVICE}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
