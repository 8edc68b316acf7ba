"""A student that can be used: network, codec, sampler and clip form in one folder of safetensors and JSON.

Loading never executes code. The package ships ``builtin:frame`` and ``builtin:block``, few-step start students, and
``builtin:base``, an undistilled one of the same recipe.
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
from understudy.clips import ClipForm
from understudy.codecs.base import CodecModule
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.codecs.wan import WanCodec, load_wan_codec
from understudy.errors import CheckpointError, ConfigError, UnderstudyError
from understudy.files import ensure_folder, write_bytes_atomic, write_json_atomic
from understudy.students.base import StudentModule
from understudy.students.kinds import student_kind

BUILTIN: Final = "builtin:"
_FORMAT: Final = 1
# By the names in config.json; an entry that needs an extra imports it when it is asked for.
_CODECS: Final[dict[str, Callable[[Mapping[str, Any]], CodecModule]]] = {
    SmallCodec.kind: lambda config: SmallCodec(SmallCodecSpec(**config)),
    WanCodec.kind: lambda config: load_wan_codec(**config),
}


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

    def to(self, device: str) -> None:
        """Move student and codec to ``device``; ConfigError when it cannot be used."""
        try:
            self.student.to(device)
            self.codec.to(device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise ConfigError(f"device {device!r} cannot be used ({why}): use --device cpu") from error


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


def load_bundle(name: str | Path, codec: CodecModule | None = None) -> Bundle:
    """Load a bundle folder, or ``builtin:NAME``, with ``codec`` in place of its own if one is given.

    Raises:
        CheckpointError: the folder is missing, damaged, of another format, or holds weights that are not finite.
    """
    folder = bundle_folder(str(name))
    config = _read_config(folder)
    try:
        student = student_kind(config["kind"]).from_config(config["student"])
        own = codec or _CODECS[config.get("codec_kind", SmallCodec.kind)](config["codec"])
        form, levels = ClipForm(**config["form"]), flow.level_lists(config["levels"])
    except (KeyError, TypeError, ValueError, UnderstudyError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a student ({error}): save it again"
        ) from error
    load_weights(student, read_tensors(folder / "student.safetensors"), folder / "student.safetensors")
    if codec is None and own.ships_weights:
        load_weights(own, read_tensors(folder / "codec.safetensors"), folder / "codec.safetensors")
    sampler = levels[0] if len(levels) == 1 else levels
    return Bundle(student.eval().requires_grad_(False), own.eval().requires_grad_(False), sampler, form, str(name))


def bundle_form(name: str | Path) -> ClipForm:
    """Return the clips that a bundle's student draws, without loading its weights.

    Raises:
        CheckpointError: the folder is missing or its ``config.json`` does not say.
    """
    folder = bundle_folder(str(name))
    try:
        return ClipForm(**_read_config(folder)["form"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a student ({error}): save it again"
        ) from error


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
    """Read a safetensors file of tensors such as [D, D]; CheckpointError in one line when it is missing or damaged."""
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
    expected = own_state(module)
    check_tensors(tensors, {key: tuple(tensor.shape) for key, tensor in expected.items()}, path)
    found = {key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()}
    module.load_state_dict(found, strict=False)  # strictness is the check above: borrowed weights stay


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of ``module`` without what it borrows from the start student; see ``students.lora``."""
    borrowed = module.borrowed if isinstance(module, StudentModule) else frozenset()
    return {key: tensor for key, tensor in module.state_dict().items() if key not in borrowed}


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], origin: Path | str) -> None:
    """Raise CheckpointError unless ``tensors`` are those of ``expected``, of these shapes and finite."""
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        firsts = [f"first missing {missing[0]!r}"] if missing else []
        firsts += [f"first unexpected {extra[0]!r}"] if extra else []
        raise CheckpointError(
            f"{origin} does not fit this model: {len(missing)} of {len(expected)} tensors missing, {len(extra)} "
            f"unexpected, {', '.join(firsts)}"
        )
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != expected[key]:
            raise CheckpointError(
                f"{origin} does not fit this model: {key!r} has shape {list(tensor.shape)}, expected {list(expected[key])}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{origin} holds values that are not finite in {key!r}: use an earlier checkpoint or another copy"
            )


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
