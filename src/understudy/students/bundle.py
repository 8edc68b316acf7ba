"""A student that can be used: network, codec, sampler and clip form in one folder of safetensors and JSON.

Loading never executes code. ``builtin:frame`` and ``builtin:block`` are the start students that ship with the package.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from understudy import flow
from understudy.codecs.base import CodecModule
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import CheckpointError, UnderstudyError
from understudy.files import ensure_folder, write_bytes_atomic, write_json_atomic
from understudy.students.base import StudentModule
from understudy.students.transformer import CausalVideoTransformer

BUILTIN: Final = "builtin:"
_FORMAT: Final = 1
# By the names in config.json; an entry that needs an extra imports it when it is asked for.
_STUDENTS: Final[dict[str, type[StudentModule]]] = {CausalVideoTransformer.kind: CausalVideoTransformer}
_CODECS: Final[dict[str, Callable[[Mapping[str, Any]], CodecModule]]] = {
    SmallCodec.kind: lambda config: SmallCodec(SmallCodecSpec(**config))
}


@dataclass(frozen=True)
class ClipForm:
    """The clips a student draws, frames [T, H, W, 3]: H, W pixels, frames per second, T pixel frames it was trained on."""

    height: int
    width: int
    fps: float
    frames: int


@dataclass(frozen=True)
class Bundle:
    """A student with everything around it.

    Attributes:
        student, codec: the modules, in evaluation mode.
        levels: noise levels of its few-step sampler, descending from 1; see ``flow.Levels``.
        form: the clips it draws.
        source: where it was loaded from, or how it was made.
    """

    student: StudentModule
    codec: CodecModule
    levels: flow.Levels
    form: ClipForm
    source: str

    def with_window(self, window: int | None, sink: int | None) -> "Bundle":
        """Return the bundle with another attention window and sink (latent frames); None keeps the student's own."""
        given = {"window": window, "sink": sink}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(self, student=self.student.with_spec(**changes))


def save_bundle(bundle: Bundle, folder: Path, half: bool = False) -> None:
    """Write ``config.json``, ``student.safetensors`` and ``codec.safetensors``; ``half`` stores weights as float16."""
    ensure_folder(folder)
    write_bytes_atomic(folder / "student.safetensors", save(_contiguous(bundle.student, half)))
    if bundle.codec.ships_weights:
        write_bytes_atomic(folder / "codec.safetensors", save(_contiguous(bundle.codec, half)))
    config = {
        "format": _FORMAT,
        "kind": bundle.student.kind,
        "student": bundle.student.config(),
        "codec_kind": bundle.codec.kind,
        "codec": bundle.codec.config(),
        "levels": list(bundle.levels),
        "form": asdict(bundle.form),
        "source": bundle.source,
    }
    write_json_atomic(folder / "config.json", config)


def load_bundle(name: str | Path) -> Bundle:
    """Load a bundle folder, or ``builtin:NAME``.

    Raises:
        CheckpointError: the folder is missing, damaged, of another format, or holds weights that are not finite.
    """
    folder = bundle_folder(str(name))
    config = _read_config(folder)
    try:
        student = _STUDENTS[config["kind"]].from_config(config["student"])
        codec = _CODECS[config.get("codec_kind", SmallCodec.kind)](config["codec"])
        form, levels = ClipForm(**config["form"]), flow.level_lists(config["levels"])
    except (KeyError, TypeError, ValueError, UnderstudyError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a student ({error}): save it again"
        ) from error
    load_weights(student, read_tensors(folder / "student.safetensors"), folder / "student.safetensors")
    if codec.ships_weights:
        load_weights(codec, read_tensors(folder / "codec.safetensors"), folder / "codec.safetensors")
    sampler = levels[0] if len(levels) == 1 else levels
    return Bundle(student.eval(), codec.eval().requires_grad_(False), sampler, form, str(name))


def bundle_folder(name: str) -> Path:
    """Return the folder a bundle name stands for: builtin, a bundle folder, or a run folder's final student."""
    if name.startswith(BUILTIN):
        assets = Path(__file__).parent.parent / "assets"
        folder = assets / name.removeprefix(BUILTIN)
        if not folder.is_dir():
            known = ", ".join(sorted(BUILTIN + path.parent.name for path in assets.glob("*/config.json")))
            raise CheckpointError(f"there is no built-in student {name!r}; choose one of {known}")
        return folder
    folder = Path(name)
    return folder / "student" if (folder / "student" / "config.json").is_file() else folder


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; CheckpointError in one line when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the folder holds no whole student or checkpoint") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): restore it from a copy or an earlier checkpoint"
        ) from error


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load ``tensors`` strictly; CheckpointError names the first missing, unexpected, misshapen or non-finite one."""
    expected = module.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        first = f"missing {missing[0]!r}" if missing else f"unexpected {extra[0]!r}"
        raise CheckpointError(
            f"{path} does not fit this model: {len(missing)} missing and {len(extra)} unexpected tensors, first {first}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path} does not fit this model: {key!r} has shape {list(tensor.shape)}, "
                f"expected {list(expected[key].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path} holds values that are not finite in {key!r}: use an earlier checkpoint")
    module.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()})


def _contiguous(module: nn.Module, half: bool) -> dict[str, Tensor]:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    return {key: t.half() if half and t.is_floating_point() else t for key, t in tensors.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a student: there is no config.json in it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore it from a copy") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not of format {_FORMAT}: it was written by another version or tool")
    return config
