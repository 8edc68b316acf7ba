"""A student that can be used: network, codec, sampler and clip form in one folder of safetensors and JSON.

Loading never executes code. The package ships ``builtin:frame`` and ``builtin:block``, few-step start students, which share
one codec; the repository also has ``builtin:base``, an undistilled one of the same recipe.
"""

import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from understudy import flow
from understudy.codecs.base import CodecModule, latent_frames
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.codecs.spec_fields import MOST_FRAMES
from understudy.codecs.wan import WanCodec, load_wan_codec
from understudy.errors import CheckpointError, ConfigError, UnderstudyError
from understudy.files import ensure_folder, write_bytes_atomic, write_json_atomic
from understudy.reading import Unreadable, open_regular, read_json
from understudy.students.base import StudentModule
from understudy.students.kinds import student_kind
from understudy.video.clips import ClipForm

BUILTIN: Final = "builtin:"
SHARED_CODEC: Final = "builtin:codec"
_ASSETS: Final = Path(__file__).parent.parent / "assets"
_FORMAT: Final = 1
# By the names in config.json; an entry that needs an extra imports it when it is asked for.
_CODECS: Final[dict[str, Callable[[Mapping[str, Any]], CodecModule]]] = {
    SmallCodec.kind: lambda config: SmallCodec(SmallCodecSpec(**config)),
    WanCodec.kind: lambda config: load_wan_codec(**_wan_codec(**config)),
}
_WRONG: Final = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    AssertionError,
)
_MOST_PIXELS: Final = 16_384
_MOST_FPS: Final = 1000.0


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


def _wan_codec(path: object, dtype: object = "float32", tile: object = None) -> dict[str, Any]:
    """Return where a Wan autoencoder is and how to load it; ValueError when a config says something else."""
    whole = tile is None or (isinstance(tile, int) and not isinstance(tile, bool) and 0 < tile <= _MOST_PIXELS)
    if not isinstance(path, str) or "\0" in path or dtype not in ("float32", "bfloat16") or not whole:
        raise ValueError("codec: path, dtype or tile cannot be")
    return {"path": path, "dtype": dtype, "tile": tile}


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
        kind, sizes = student_kind(config["kind"]), config["student"]
        own_kind, own_sizes = config.get("codec_kind", SmallCodec.kind), config["codec"]
        path, codec_path = _file(folder, "student"), _codec_file(folder, config.get("codec_weights"))
        _check_depth(sizes, len(shapes_of(path)), folder)
        _check_fit(lambda: kind.from_config(sizes), path)
        if codec is None and own_kind == SmallCodec.kind:
            _check_fit(lambda: _CODECS[own_kind](own_sizes), codec_path)
        student = kind.from_config(sizes)
        own = codec or _CODECS[own_kind](own_sizes)
        form = _form(config["form"])
        flow.check_levels(config["levels"])
        _check_form(form, student, own)
    except CheckpointError:
        raise
    except (*_WRONG, UnderstudyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a student ({reason}): save it again"
        ) from None
    load_weights(student, read_tensors(path), path)
    if codec is None and own.ships_weights:
        load_weights(own, read_tensors(codec_path), codec_path)
    levels = flow.level_lists(config["levels"])
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


def _check_depth(sizes: Mapping[str, Any], tensors: int, folder: Path) -> None:
    """Raise CheckpointError when a config promises more layers than there are tensors: even empty ones fill a memory."""
    model = sizes.get("model")
    told = [sizes.get("depth"), sizes.get("layers"), model.get("num_layers") if isinstance(model, dict) else None]
    for count in told:
        if isinstance(count, int) and count > tensors:
            raise CheckpointError(
                f"{folder / 'config.json'} says {str(count)[:30]} layers, and student.safetensors holds {tensors} tensors: "
                "they do not belong together"
            )


def _check_fit(build: Callable[[], nn.Module], path: Path) -> None:
    """Raise CheckpointError unless the tensors in ``path`` are those of the module that ``build`` makes.

    It is made without memory, and of the file only the header is read: what does not fit costs nothing.
    """
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in own_state(build()).items()}
    check_shapes(shapes_of(path), expected, path)


def _form(told: Mapping[str, Any]) -> ClipForm:
    """Return the form of clips in a config; ValueError when a number in it cannot be."""
    form = ClipForm(**told)
    for name, most in (("height", _MOST_PIXELS), ("width", _MOST_PIXELS), ("frames", MOST_FRAMES)):
        value = getattr(form, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"form.{name} is {str(value)[:40]}")
    if isinstance(form.fps, bool) or not isinstance(form.fps, int | float) or not 0 < form.fps <= _MOST_FPS:
        raise ValueError(f"form.fps is {str(form.fps)[:40]}")
    return form


def _check_form(form: ClipForm, student: StudentModule, codec: CodecModule) -> None:
    """Raise ValueError when the student does not draw clips of ``form`` through ``codec``."""
    channels, height, width = student.latent_shape
    if (form.height, form.width) != (height * codec.stride, width * codec.stride):
        raise ValueError(
            f"form is {form.height}x{form.width} pixels, the student's {height}x{width} latents are "
            f"{height * codec.stride}x{width * codec.stride}"
        )
    if isinstance(codec, SmallCodec) and codec.spec.channels != channels:
        raise ValueError(f"the codec has {codec.spec.channels} channels, the student {channels}")
    latents = latent_frames(codec, form.frames)
    if latents > student.spec.max_frames and not student.spec.window:
        raise ValueError(f"form.frames are {latents} latent frames, more than max_frames {student.spec.max_frames}")


def bundle_folder(name: str) -> Path:
    """Return the folder a bundle name stands for: builtin, a bundle folder, or a run folder's final student."""
    if name.startswith(BUILTIN):
        known = [path.parent.name for path in sorted(_ASSETS.glob("*/config.json"))]
        if (short := name.removeprefix(BUILTIN)) not in known:
            raise CheckpointError(f"there is no built-in student {name!r}; {_advice(short, known)}")
        return _ASSETS / short
    folder = Path(name)
    return folder / "student" if (folder / "student" / "config.json").is_file() else folder


def _advice(short: str, known: Sequence[str]) -> str:
    if short == "base":  # left out of the wheel for its size: only rows of the suites start from it
        return "it comes with the repository, not with the wheel: install a checkout with pip install -e ."
    return f"choose one of {', '.join(BUILTIN + name for name in known)}"


def is_bundle(name: str) -> bool:
    """Return whether ``name`` is a bundle, built in or a folder; no public checkpoint."""
    return name.startswith(BUILTIN) or _file(bundle_folder(name), "student").is_file()


def _file(folder: Path, part: str) -> Path:
    """Return the file of a part's weights; those that ship are packed, with a context for each byte of a float16."""
    return folder / f"{part}.safetensors{'.xz' if folder.is_relative_to(_ASSETS) else ''}"


def _codec_file(folder: Path, shared: object) -> Path:
    """Return the file of a bundle's codec weights: its own, or the one file that built-in students share, by its name."""
    if shared is None:
        return _file(folder, "codec")
    if shared != SHARED_CODEC:  # a name, never a path: a bundle from elsewhere reads nothing else on this disk
        raise CheckpointError(
            f"{folder / 'config.json'} says codec_weights {shared!r}, but only {SHARED_CODEC!r} can be shared: save it again"
        )
    return _file(_ASSETS, "codec")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of tensors such as [D, D]; CheckpointError in one line when it is missing or damaged."""
    with _safetensors(path):
        return load(lzma.decompress(path.read_bytes())) if path.suffix == ".xz" else load_file(path)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file by name, from its header; see `read_tensors`."""
    if path.suffix == ".xz":  # what ships is small
        return {key: tuple(tensor.shape) for key, tensor in read_tensors(path).items()}
    with _safetensors(path), safetensors.safe_open(path, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    """Turn what is wrong with a safetensors file into one line."""
    try:
        open_regular(path).close()  # a pipe would be waited for
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the folder holds no whole student or checkpoint") from error
    except (OSError, Unreadable, ValueError, lzma.LZMAError, safetensors.SafetensorError) as error:
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
    check_shapes({key: tuple(tensor.shape) for key, tensor in tensors.items()}, expected, origin)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{origin} holds values that are not finite in {key!r}: use an earlier checkpoint or another copy"
            )


def check_shapes(
    tensors: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], origin: Path | str
) -> None:
    """Raise CheckpointError unless ``tensors`` have the names and shapes of ``expected``."""
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    if missing or extra:
        firsts = [f"first missing {missing[0]!r}"] if missing else []
        firsts += [f"first unexpected {extra[0]!r}"] if extra else []
        raise CheckpointError(
            f"{origin} does not fit this model: {len(missing)} of {len(expected)} tensors missing, {len(extra)} "
            f"unexpected, {', '.join(firsts)}"
        )
    for key, shape in tensors.items():
        if shape != expected[key]:
            raise CheckpointError(
                f"{origin} does not fit this model: {key!r} has shape {list(shape)}, expected {list(expected[key])}"
            )


def _contiguous(module: nn.Module, half: bool) -> dict[str, Tensor]:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    return {key: t.half() if half and t.is_floating_point() else t for key, t in tensors.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a student: there is no config.json in it") from error
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore it from a copy") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not of format {_FORMAT}: it was written by another version or tool")
    return config
