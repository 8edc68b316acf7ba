"""LoRA files as people have them for Wan, read into one form: which layers are changed, by what, and how strongly.

Known spellings of a layer's two factors, A [rank, D_in] and B [D, rank]: ``lora_A`` / ``lora_B`` (PEFT, diffusers, most
trainers), ``lora_down`` / ``lora_up`` (kohya, musubi, lightx2v) and ``lora.down`` / ``lora.up``; of its name: Wan's own,
diffusers', and kohya's with underscores, under any prefix. Whole differences (``diff``, ``diff_b``) are read too. The
scale of a layer's product is alpha / rank, with alpha in the file (``.alpha``), in PEFT's adapter_config.json or in the
header that diffusers writes; without any, alpha is the rank. What is none of this is refused by its name.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.files import load_tensors
from understudy.reading import parse_json, read_json
from understudy.students.checkpoints.layout import module_names
from understudy.students.checkpoints.read import strip_prefixes
from understudy.students.lora import SETTINGS, WEIGHTS

_PEFT: Final = "base_model.model."
_PARTS: Final = {
    "lora_A": "down",
    "lora_down": "down",
    "lora.down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "lora.up": "up",
}
_FACTOR: Final = re.compile(r"(?P<layer>.+)\.(?P<part>lora_(?:A|B|down|up)|lora\.(?:down|up))(?:\.[^.]+)?\.weight")
_OTHER: Final = re.compile(r"(?P<layer>.+)\.(?P<part>alpha|diff|diff_b)")
_KOHYA: Final = re.compile(r"(?:lora_unet|lora_transformer|lycoris)_(?P<layer>\w+)")
_KINDS: Final = (
    (r"dora_scale|lora_magnitude", "DoRA"),
    (r"hada_w|hada_t", "LoHa"),
    (r"lokr_", "LoKr"),
    (r"lora_mid", "LoCon with a middle factor"),
    (r"oft_|boft_", "OFT"),
    (r"lora_embedding", "an adapted embedding"),
    (r"lora_(?:A|B|up|down)\b.*\.bias$", "a bias of the factors (lora_bias)"),
    (r"modules_to_save", "whole layers that were trained beside it (modules_to_save)"),
    (r"^lora_te|text_encoder|text_model", "an adapter of the text encoder"),
)
# What changes nothing in how the factors are added to the weights; any other setting of PEFT's has to be off.
_HARMLESS: Final = {
    *(
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
    *(
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
    ),
    *("eva_config", "runtime_config"),
}
_NAMES: Final = {"use_dora": "DoRA", "lora_bias": "biases", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA"}
_START_UNCHANGED: Final = (None, True, False, "gaussian", "eva", "orthogonal")
_ADVICE: Final = "which is not merged here: merge it with the tool that made it, and give the merged checkpoint"


@dataclass
class LayerChange:
    """What a file says about one layer's weight W [D, D_in].

    Attributes:
        spelled: the layer's name in the file, without wrappers.
        down, up: A [rank, D_in] and B [D, rank], or with the axes of a convolution behind.
        alpha: numerator of their scale, where the file itself says.
        diff, diff_b: whole differences of weight and bias.
    """

    spelled: str
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    diff: Tensor | None = None
    diff_b: Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA file.

    Attributes:
        layers: what it changes, by original Wan names.
        told: settings as PEFT names them (``r``, ``lora_alpha``, ``use_rslora``, ...), empty where none come with it.
        source: the file or folder.
    """

    layers: Mapping[str, LayerChange]
    told: Mapping[str, Any] = field(default_factory=dict)
    source: Path = Path()

    def scale(self, change: LayerChange, rank: int, alpha: float | None = None) -> float:
        """Return what the product of a layer's factors of ``rank`` is multiplied with; ``alpha`` overrules the file's.

        Raises:
            CheckpointError: the settings say another rank.
        """
        says = _by_pattern(self.told, "rank_pattern", change.spelled, self.told.get("r"))
        if says is not None and says != rank:
            raise CheckpointError(
                f"{self.source}: {SETTINGS} says rank {says} for {change.spelled!r}, its weights have rank {rank}"
            )
        if alpha is None:
            alpha = change.alpha
        if alpha is None and self.told:
            alpha = _by_pattern(self.told, "alpha_pattern", change.spelled, self.told.get("lora_alpha", 8))
        alpha = rank if alpha is None else alpha
        return float(alpha) / (math.sqrt(rank) if self.told.get("use_rslora") else rank)


def read_adapter(path: str | Path, layers: int, image: bool = False) -> Adapter:
    """Read the LoRA file, or PEFT folder, ``path`` for a Wan of ``layers`` layers, with image features or without.

    Raises:
        CheckpointError: it is missing, damaged, not only data, or holds anything but what the module's text names.
    """
    source = Path(path)
    content, told = _read(source)
    check_settings(told, source)
    known = _names(layers, image)
    found: dict[str, LayerChange] = {}
    for key, tensor in content.items():
        spelled, part = _parse(str(key), tensor, source)
        name = known.get(strip_prefixes(spelled))
        if name is None:
            raise CheckpointError(
                f"{source} adapts {spelled!r} ({str(key)!r}), which the checkpoint does not have: it is for another model"
            )
        change = found.setdefault(name, LayerChange(spelled))
        if getattr(change, part) is not None:
            raise CheckpointError(f"{source} holds {part} of {spelled!r} twice: two adapters in one file, give one")
        setattr(change, part, float(tensor) if part == "alpha" else tensor.detach())
    _check_alphas(found, source)
    return Adapter(found, told, source)


def _names(layers: int, image: bool) -> dict[str, str]:
    """Return the original name of every module by each way to spell it."""
    known: dict[str, str] = {}
    for original, diffusers in module_names(layers, image).items():
        for name in (original, diffusers):
            known[name] = known[name.replace(".", "_")] = original
    return known


def _read(source: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return an adapter's tensors by their names, and its settings."""
    settings, weights = source.parent / SETTINGS, source
    if source.is_dir():
        settings = source / SETTINGS
        weights = next((file for file in (source / WEIGHTS, source / "adapter_model.bin") if file.is_file()), source)
        if weights == source or not settings.is_file():
            raise CheckpointError(f"{source} is no PEFT adapter: it has {WEIGHTS} and {SETTINGS}")
    content, header = load_tensors(weights)
    told: Any = {}
    if settings.is_file() and weights.name.startswith("adapter_model."):
        try:
            told = read_json(settings)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{settings} cannot be read ({error}): fetch it again") from None
    elif "lora_adapter_metadata" in header:
        try:
            told = parse_json(header["lora_adapter_metadata"])
        except ValueError as error:
            raise CheckpointError(f"{weights}: its header's lora_adapter_metadata is no JSON ({error})") from None
        if isinstance(told, dict):
            told = {key.removeprefix("transformer."): value for key, value in told.items()}
    if not isinstance(told, dict):
        raise CheckpointError(f"{source}: the adapter's settings are no JSON object: fetch them again")
    if isinstance(content, Mapping) and "generator_lora" in content:
        content = content["generator_lora"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{source} holds no LoRA adapter: expected names that end in lora_A.weight")
    return content, told


def check_settings(told: Mapping[str, Any], source: Path) -> None:
    """Raise CheckpointError, with its name, for the first of PEFT's settings that would change what the factors mean."""
    if str(told.get("peft_type", "LORA")).upper() != "LORA":
        raise CheckpointError(f"{source} is an adapter of type {told['peft_type']}, {_ADVICE}")
    if (bias := told.get("bias", "none")) != "none":
        raise CheckpointError(f"{source}: {SETTINGS} has bias {bias!r} (trained biases), {_ADVICE}")
    if (start := told.get("init_lora_weights", True)) not in _START_UNCHANGED:
        raise CheckpointError(
            f"{source}: {SETTINGS} has init_lora_weights {start!r}, which changed the base's weights, {_ADVICE}"
        )
    for name, value in told.items():
        if name not in _HARMLESS and value:
            said = f" ({_NAMES[name]})" if name in _NAMES else ""
            raise CheckpointError(f"{source}: {SETTINGS} has {name} {json.dumps(value)[:80]}{said}, {_ADVICE}")
    for name in ("r", "lora_alpha"):
        if not isinstance(told.get(name, 1), int | float) or isinstance(told.get(name), bool):
            raise CheckpointError(f"{source}: {SETTINGS} has {name} {told[name]!r}, which is no number")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(told.get(name) or {}, dict):
            raise CheckpointError(f"{source}: {SETTINGS} has {name} {told[name]!r}, which is no mapping")


def _parse(key: str, tensor: object, source: Path) -> tuple[str, str]:
    """Return the layer that a tensor of an adapter belongs to, as it is spelled, and which part of the layer it is."""
    short = key.replace(_PEFT, "", 1)
    match = _FACTOR.fullmatch(short) or _OTHER.fullmatch(short)
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, short)), None)
    if kind is not None:
        raise CheckpointError(f"{source} holds {key!r}, {kind}, {_ADVICE}")
    if match is None or not isinstance(tensor, Tensor):
        raise CheckpointError(f"{source} holds {key!r}, which is no half of a LoRA adapter: give one alone")
    part = _PARTS.get(match["part"], match["part"])
    if part == "alpha":
        if tensor.numel() != 1 or not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{source}: {key!r} is no single finite number")
    elif not tensor.is_floating_point() or (part in ("down", "up") and tensor.ndim < 2):
        raise CheckpointError(
            f"{source}: {key!r} of shape {list(tensor.shape)}, {tensor.dtype}, is no factor of a LoRA"
        )
    layer = match["layer"]
    kohya = _KOHYA.fullmatch(layer)
    return (kohya["layer"] if kohya else layer), part


def _check_alphas(layers: Mapping[str, LayerChange], source: Path) -> None:
    """Raise CheckpointError where a layer has a strength and nothing that it would be the strength of."""
    for change in layers.values():
        if change.down is None and change.up is None and change.diff is None and change.diff_b is None:
            raise CheckpointError(f"{source} holds an alpha of {change.spelled!r} and no factors: fetch it again")


def _by_pattern(told: Mapping[str, Any], patterns: str, name: str, otherwise: Any) -> Any:
    """Return PEFT's setting of a layer: that of the first pattern that its name ends in."""
    table: Mapping[str, Any] = told.get(patterns) or {}
    return table.get(_first(table, name), otherwise)


def _first(patterns: Collection[str], name: str) -> str:
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return pattern
        except re.error as error:
            raise CheckpointError(f"{SETTINGS}: {pattern!r} is no pattern for names ({error})") from None
    return name
