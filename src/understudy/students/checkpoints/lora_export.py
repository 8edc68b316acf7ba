"""A trained adapter on its way out: in the names of PEFT, diffusers or ComfyUI, on the base that people can fetch.

A student that was trained on a base with an adapter already merged (LongLive's ``lora.pt``) is exported as one adapter of
both, of rank r1 + r2, on that base; where the first one is gone, its own adapter is written and the card names both.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.files import new_path, write_json_atomic, write_text_atomic
from understudy.reading import read_json, read_limited
from understudy.students.bundle import check_tensors, read_tensors
from understudy.students.checkpoints.card import CARD, beside, card
from understudy.students.checkpoints.layout import module_names
from understudy.students.checkpoints.lora_files import read_adapter
from understudy.students.lora import BASE, SETTINGS, WEIGHTS

FORMATS: Final = ("lora", "lora-diffusers", "lora-comfyui")
_PEFT: Final = "base_model.model."
_DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"

Factors = dict[str, tuple[Tensor, Tensor]]
"""(A [rank, D_in], B [D, rank]) of each layer, scale 1, by the layer's name in the student."""


@dataclass(frozen=True)
class TrainedAdapter:
    """What ``save_adapter`` wrote: its factors, what it belongs on, and what there is to say about that."""

    factors: Factors
    base: str
    note: str


def export_adapter(folder: Path, to: str, out: Path) -> str:
    """Write the trained adapter in ``folder`` to the new place ``out``; return one line that says what was written.

    Args:
        folder: ``adapter`` of a trained student.
        to: ``lora`` (a folder for peft), ``lora-diffusers`` (a folder for diffusers) or ``lora-comfyui`` (a file).
        out: where to.

    Raises:
        CheckpointError: there is none, it is damaged, or the format cannot hold it.
    """
    if not (folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{folder.parent} has no LoRA adapter: it was trained in full (student.lora is null); export it as "
            "diffusers, selfforcing, comfyui or bundle"
        )
    found = _read(folder)
    if to == "lora":
        _write_peft(found, folder, out)
    else:
        _write_named(found, to, out)
    target = to.partition("-")[2] or "peft"
    return f"LoRA adapter of {folder.parent}, {len(found.factors)} layers, for {target}; {found.note}"


def _read(folder: Path) -> TrainedAdapter:
    """Return the adapter in ``folder``, joined with the one that was merged before it."""
    tensors, told = read_tensors(folder / WEIGHTS), _json(folder / SETTINGS)
    check_tensors(tensors, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, folder / WEIGHTS)
    try:
        scale = float(told["lora_alpha"]) / float(told["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder / SETTINGS} does not say how strong its adapter is ({error})") from None
    names = sorted(
        key.removeprefix(_PEFT).removesuffix(".lora_A.weight") for key in tensors if key.endswith("A.weight")
    )
    own: Factors = {}
    for name in names:
        down, up = (tensors.get(f"{_PEFT}{name}.lora_{half}.weight") for half in "AB")
        if down is None or up is None:
            raise CheckpointError(f"{folder / WEIGHTS} lacks a factor of {name!r}: restore it from a copy")
        own[name] = down.float(), up.float() * scale
    told_base = _json(folder / BASE) if (folder / BASE).is_file() else {}
    base = str(told_base.get("start") or told.get("base_model_name_or_path") or "its start")
    first = told_base.get("adapter")
    if not first:
        return TrainedAdapter(own, base, f"it belongs on {base}")
    try:
        before = _earlier(Path(first), told_base.get("adapter_alpha"), names)
    except CheckpointError as error:
        both = f"{base} with {first} merged"
        return TrainedAdapter(own, both, f"it belongs on {both}, which could not be joined to it ({error})")
    joined = {name: _join(before.get(name), own.get(name)) for name in sorted(before.keys() | own.keys())}
    return TrainedAdapter(joined, base, f"joined with {first}, it belongs on {base} itself")


def _earlier(path: Path, alpha: float | None, names: list[str]) -> Factors:
    """Return the factors of the adapter that was merged into the base, scale 1."""
    layers = 1 + max((int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=0)
    adapter = read_adapter(path, layers)
    found: Factors = {}
    for name, change in adapter.layers.items():
        if change.down is None or change.up is None or change.diff is not None or change.diff_b is not None:
            raise CheckpointError(f"{path} changes {change.spelled!r} by more than two factors")
        down, up = change.down.flatten(1).float(), change.up.flatten(1).float()
        found[name] = down, up * adapter.scale(change, len(down), alpha)
    return found


def _join(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return factors A [r1 + r2, D_in], B [D, r1 + r2] whose product is the sum of both products."""
    pairs = [pair for pair in (first, second) if pair is not None]
    return torch.cat([down for down, _ in pairs]).contiguous(), torch.cat([up for _, up in pairs], dim=1).contiguous()


def _write_peft(found: TrainedAdapter, folder: Path, out: Path) -> None:
    """Write a folder for ``PeftModel.from_pretrained``: as it was saved, or joined."""
    joined = (folder / BASE).is_file() and "joined" in found.note
    with new_path(out) as draft:
        draft.mkdir()
        if joined:
            ranks = {name: len(down) for name, (down, _) in found.factors.items()}
            usual = Counter(ranks.values()).most_common(1)[0][0]
            other = {name.replace(".", r"\."): rank for name, rank in ranks.items() if rank != usual}
            tensors = {f"{_PEFT}{name}.lora_A.weight": down for name, (down, _) in found.factors.items()}
            tensors |= {f"{_PEFT}{name}.lora_B.weight": up for name, (_, up) in found.factors.items()}
            save_file(tensors, draft / WEIGHTS, {"format": "pt"})
            settings = {"r": usual, "lora_alpha": usual, "rank_pattern": other, "alpha_pattern": other}
            head = {"peft_type": "LORA", "task_type": None, "inference_mode": True, "bias": "none", "lora_dropout": 0.0}
            named = {"base_model_name_or_path": found.base, "target_modules": sorted(ranks)}
            write_json_atomic(draft / SETTINGS, {**head, **named, **settings})
        else:
            for name in (WEIGHTS, SETTINGS):
                (draft / name).write_bytes(read_limited(folder / name, 1 << 40))
        how = f'peft.PeftModel.from_pretrained(student, "{out.name}")'
        write_text_atomic(draft / CARD, card(f"{out.name}: a LoRA adapter for PEFT", found.base, found.note, how))


def _write_named(found: TrainedAdapter, to: str, out: Path) -> None:
    """Write one file in the names of diffusers or ComfyUI, strength in the factors: either reads it with scale 1."""
    layers = 1 + max((int(name.split(".")[1]) for name in found.factors if name.startswith("blocks.")), default=0)
    known: Mapping[str, str] = module_names(layers)
    if strange := next((name for name in found.factors if name not in known), None):
        raise CheckpointError(
            f"{strange!r} is no layer of a Wan transformer, and {to} holds those only: export it as lora"
        )
    theirs = to == "lora-diffusers"
    names = {name: f"transformer.{known[name]}" if theirs else f"diffusion_model.{name}" for name in found.factors}
    tensors = {f"{names[name]}.lora_A.weight": down.contiguous() for name, (down, _) in found.factors.items()}
    tensors |= {f"{names[name]}.lora_B.weight": up.contiguous() for name, (_, up) in found.factors.items()}
    if theirs:
        with new_path(out) as draft:
            draft.mkdir()
            save_file(tensors, draft / _DIFFUSERS_FILE, {"format": "pt"})
            how = f'pipe.load_lora_weights("{out.name}")'
            write_text_atomic(
                draft / CARD, card(f"{out.name}: a LoRA adapter for diffusers", found.base, found.note, how)
            )
        return
    how = "ComfyUI: put it into models/loras and load it with LoraLoaderModelOnly, strength 1"
    with new_path(out) as draft:
        save_file(tensors, draft, {"format": "pt", "base_model": found.base})
    beside(out, card(f"{out.name}: a LoRA adapter for ComfyUI", found.base, found.note, how))


def _json(path: Path) -> dict[str, Any]:
    try:
        told = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore it from a copy") from None
    if not isinstance(told, dict):
        raise CheckpointError(f"{path} is no JSON object: restore it from a copy")
    return told
