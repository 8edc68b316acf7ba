"""Reading public checkpoints: Self-Forcing style ``.pt`` files, original Wan safetensors, diffusers folders.

Whatever the nesting, the prefixes and the layout, what comes out is the same: every tensor of one transformer under its
original Wan name [D, D_in]. Files that hold more (an all-in-one checkpoint of ComfyUI) give what is needed, weights of
eight bits become plain ones, and nothing is executed: ``.pt`` files are read as tensors and plain values or not at all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from understudy.errors import CheckpointError
from understudy.files import load_plain, load_tensors
from understudy.reading import Unreadable, read_json
from understudy.students.bundle import check_tensors, is_bundle
from understudy.students.checkpoints.card import is_ours
from understudy.students.checkpoints.layout import Layout, WanSizes, layout_of, renamed, shapes, sizes_of
from understudy.students.checkpoints.quantised import dequantised

__all__ = [
    "Checkpoint",
    "is_public_checkpoint",
    "load_plain",
    "names_public_checkpoint",
    "read_checkpoint",
    "strip_prefixes",
]

WEIGHTS: Final = ("generator_ema", "generator", "model", "state_dict")
"""Where trainers put the student's weights, the first one there is taken; a ``critic`` beside them is never read."""

_DEEPEST: Final = 8  # a file may hold itself
_TORCH_FILES: Final = (".pt", ".pth", ".bin", ".ckpt")
_REFUSED_FILES: Final = (".gguf",)
_INSIDE: Final = "model.diffusion_model."
_BESIDE: Final = ("first_stage_model.", "vae.", "cond_stage_model.", "text_encoders.", "clip_vision.", "conditioner.")
"""What an all-in-one checkpoint of ComfyUI holds beside the transformer."""
_OTHER_PARTS: Final = re.compile(r"vae|t5|clip|text_enc", re.IGNORECASE)
"""Files of an original Wan folder that hold no transformer."""
_WRAPPERS: Final = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_PREFIXES: Final = ("module.", "generator.", "model.", "diffusion_model.", "transformer.")


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one Wan transformer, whole.

    Attributes:
        tensors: by original Wan names; linear weights [D, D_in], in the type they were stored in.
        sizes: of the transformer.
        layout: that the file was in.
        weights: which of a file's weights these are, ``generator_ema``; empty when it holds no choice.
        origin: file and weights, for people.
        bidirectional: what shows that it was never made causal; empty where nothing does. Weights do not tell.
    """

    tensors: dict[str, Tensor]
    sizes: WanSizes
    layout: Layout
    weights: str
    origin: str
    bidirectional: str = ""


def is_public_checkpoint(path: Path) -> bool:
    """Return whether ``path`` may be for ``read_checkpoint``: a file of weights, or a folder of safetensors or one .pt."""
    if path.is_file():
        return path.suffix in (".safetensors", *_TORCH_FILES, *_REFUSED_FILES)
    if not path.is_dir():
        return False
    return _transformer_folder(path) != path or bool(_weight_files(path)) or _distributed(path) is not None


def names_public_checkpoint(source: str) -> bool:
    """Return whether ``source`` is a public checkpoint, not a bundle: folders are told apart by their files."""
    return not is_bundle(source) and is_public_checkpoint(Path(source))


def read_checkpoint(
    path: str | Path, weights: str | None = None, heads: int | None = None, headers: bool = False
) -> Checkpoint:
    """Read the transformer in ``path``.

    Args:
        path: a ``.pt`` or ``.safetensors`` file, a folder of safetensors shards, a diffusers folder or pipeline folder.
        weights: which weights of a ``.pt`` file (``generator``, ``generator_ema``); None: the first of ``WEIGHTS``.
        heads: attention heads, of a model whose heads are not 128 wide and that has no config.json.
        headers: look at names and shapes only: no value is read, and the tensors that come back are on the meta device.

    Raises:
        CheckpointError: it is missing, damaged, not only data, not a Wan transformer, or not a whole one; the message
            counts the missing and unexpected tensors and names the first of each.
    """
    source = Path(path)
    config: dict[str, Any] = {}
    header: dict[str, str] = {}
    if source.is_dir():
        if (saved := _distributed(source)) is not None:
            raise CheckpointError(
                f"{saved} is a checkpoint of torch.distributed.checkpoint; make one file of it: "
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {saved} {source.name or 'model'}.pt"
            )
        source = _transformer_folder(source)
        config = _read_config(source)
        files = _weight_files(source)
        if not files:
            raise CheckpointError(f"{source} holds no weights: expected .safetensors files, or one .pt file")
        if len(files) == 1:
            tensors, chosen, header = _read_file(files[0], weights, headers)
        else:
            tensors, chosen = _read_shards(source, files, headers), ""
    else:
        tensors, chosen, header = _read_file(source, weights, headers)
    origin = f"{path} ({chosen})" if chosen else str(path)
    tensors, notes = _wanted(tensors, origin)
    layout = layout_of(tensors)
    if layout is None:
        first = next(iter(sorted(tensors)), "none")
        raise CheckpointError(
            f"{origin} holds no Wan transformer: {len(tensors)} tensors, none with a known name, first {first!r}"
        )
    sizes = sizes_of(tensors, layout, config, heads, origin)
    check_tensors(_shapes_alone(tensors) if headers else tensors, shapes(sizes, layout), origin)
    if layout == "diffusers":
        tensors = renamed(tensors, sizes, "original")
    said = f"{origin} ({'; '.join(notes)})" if notes else origin
    return Checkpoint(tensors, sizes, layout, chosen, said, _bidirectional(Path(path), config, header, chosen))


def _wanted(tensors: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the transformer's tensors out of a file's, plain and without prefixes, and what there is to say about that."""
    notes = []
    if any(name.startswith(_INSIDE) for name in tensors):
        inside = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BESIDE)}
        if len(inside) < len(tensors):
            notes.append(f"{len(inside)} of {len(tensors)} tensors, those of {_INSIDE[:-1]}")
        tensors = inside
    clean, changed = dequantised(_clean(tensors, origin), origin)
    return clean, [*notes, *([changed] if changed else [])]


def _shapes_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the same shapes that have no values to look at."""
    return {name: torch.empty(tensor.shape, dtype=torch.int8, device="meta") for name, tensor in tensors.items()}


def _bidirectional(path: Path, config: Mapping[str, Any], header: Mapping[str, str], chosen: str) -> str:
    """Return what shows that a checkpoint is one of the public bidirectional models, as far as anything does."""
    if chosen.startswith("generator") or "causal" in str(config.get("_class_name", "")).lower():
        return ""
    if "causal_ar" in header.get("config", "") or (path.is_dir() and is_ours(_transformer_folder(path))):
        return ""
    if (path / "model_index.json").is_file():
        return f"{path} is a diffusers pipeline folder"
    if config.get("_class_name") == "WanModel":
        return f"its config.json is of a {config['_class_name']}"
    if re.search(r"wan[-_ ]?2[._]?[12].*(?:t2v|ti2v)", path.name.lower()):
        return f"its name is {path.name}"
    return ""


def _read_file(path: Path, weights: str | None, headers: bool) -> tuple[dict[str, Tensor], str, dict[str, str]]:
    """Return the tensors of one file, the name of the weights chosen in it, and its header."""
    content, header = load_tensors(path, headers)
    if path.suffix != ".safetensors":
        return *_choose(content, weights, path), header
    if any(".lora_" in key for key in content):
        raise CheckpointError(f"{path} holds a LoRA adapter only: give its base, and this file as student.adapter")
    return content, "", header


def _choose(content: Any, weights: str | None, path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in what a ``.pt`` file holds, and the names of the entries that lead to it."""
    chosen: list[str] = []
    wanted = WEIGHTS if weights is None else (weights,)
    while isinstance(content, Mapping):
        name = next((key for key in wanted if isinstance(content.get(key), Mapping)), None)
        if name is None:
            break
        if len(chosen) == _DEEPEST:
            raise CheckpointError(f"{path} holds {'.'.join(chosen)} and so on without end: this is no state dict")
        chosen.append(name)
        content, wanted = content[name], WEIGHTS
    held = sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
    if "generator_lora" in held or any(".lora_" in key for key in held):
        raise CheckpointError(f"{path} holds a LoRA adapter only: give its base, and this file as student.adapter")
    if (
        (weights is None or chosen)
        and isinstance(content, Mapping)
        and isinstance(next(iter(content.values()), 0), Tensor)
    ):
        other = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
        if other is None:
            return {str(key): value for key, value in content.items()}, ".".join(chosen)
        raise CheckpointError(f"{path}: {other!r} among the weights is no tensor: this is no state dict")
    looked = weights or ", ".join(WEIGHTS)
    found = f"{path} holds no student: looked for {looked}, found {', '.join(held[:6]) or 'nothing'}"
    if isinstance(content, Mapping) and (there := _students(content)):
        raise CheckpointError(
            f"{found}; there is one under {' and '.join(map(repr, there))}: name it with student.weights in a recipe, or "
            f"with export --weights {there[0]}"
        )
    raise CheckpointError(found)


def _students(content: Mapping[Any, Any]) -> list[str]:
    """Return the keys under which a trainer's file holds something with the names of a Wan transformer."""
    found = []
    for key, value in content.items():
        inner = value
        while isinstance(inner, Mapping) and (
            name := next((n for n in WEIGHTS if isinstance(inner.get(n), Mapping)), "")
        ):
            inner = inner[name]
        if isinstance(inner, Mapping) and layout_of([strip_prefixes(str(name)) for name in inner]) is not None:
            found.append(str(key))
    return found


def strip_prefixes(name: str) -> str:
    """Return a tensor's name without what FSDP, checkpointing, compiling and wrapping classes put into it."""
    name = _WRAPPERS.sub("", name)
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _clean(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Strip the prefixes of all names; two names that become one are an error."""
    clean: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = strip_prefixes(name)
        if short in clean:
            raise CheckpointError(f"{origin} holds {short!r} twice, under different prefixes: two models in one file")
        clean[short] = tensor.detach()
    return clean


def _distributed(folder: Path) -> Path | None:
    """Return the checkpoint of torch.distributed.checkpoint that ``folder`` is or holds."""
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    return next((place for place in places if (place / ".metadata").is_file() and any(place.glob("*.distcp"))), None)


def _transformer_folder(folder: Path) -> Path:
    """Return where the transformer of a diffusers pipeline folder is; the folder itself when it is none."""
    inside = folder / "transformer"
    return inside if (inside / "config.json").is_file() and not (folder / "config.json").is_file() else folder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    config = _read_json(path)
    name = config.get("_class_name", "WanModel")
    if not re.fullmatch(r"(Causal)?Wan(Transformer3D)?Model", str(name)):
        raise CheckpointError(f"{path} is of a {name}, not of a Wan transformer (WanModel, WanTransformer3DModel)")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object: fetch it again")
    return value


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in ``folder``: all safetensors, else the only torch file."""
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if len(files) > 1 and not list(folder.glob("*.safetensors.index.json")):
        shards = [path for path in files if not _OTHER_PARTS.search(path.name)]
        files = shards or files
    named = sorted(path for path in folder.iterdir() if path.suffix in _TORCH_FILES)
    return files or [path for path in named if not _OTHER_PARTS.search(path.name)][:2] or named[:2]


def _read_shards(folder: Path, files: Sequence[Path], headers: bool) -> dict[str, Tensor]:
    """Read a sharded model; the index, or the file names, say which shards there have to be."""
    if any(path.suffix != ".safetensors" for path in files):
        raise CheckpointError(f"{folder} holds several weight files ({files[0].name}, ...): give the one you mean")
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) > 1:
        raise CheckpointError(f"{folder} holds {len(indices)} shard indices: two models in one folder")
    if indices:
        return _read_indexed(folder, indices[0], headers)
    tensors: dict[str, Tensor] = {}
    counts = {int(m[1]) for path in files if (m := re.search(r"-\d+-of-(\d+)\.safetensors$", path.name))}
    if counts != {len(files)}:
        names = ", ".join(path.name for path in files[:3])
        raise CheckpointError(
            f"{folder}: the {len(files)} safetensors files ({names}) are not all shards of one model: "
            "fetch the missing ones, or give the file you mean"
        )
    for path in files:
        tensors |= _safetensors(path, headers)
    return tensors


def _safetensors(path: Path, headers: bool) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_tensors(path, headers)[0]
    return tensors


def _read_indexed(folder: Path, index: Path, headers: bool) -> dict[str, Tensor]:
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{index} has no weight_map: fetch it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file beside it")
        shard = _safetensors(folder / name, headers)
        wrong = sorted(shard.keys() ^ {key for key, file in listed.items() if file == name})
        if wrong:
            raise CheckpointError(
                f"{folder / name} and {index.name} disagree on {len(wrong)} tensors, first {wrong[0]!r}"
            )
        tensors |= shard
    return tensors
