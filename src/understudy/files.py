"""Files: written so that a reader sees the old content or the new content, and read as data only.

Of files of tensors nothing is executed: they are read as tensors and plain values, or not at all.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import CheckpointError, UnderstudyError

_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS)  # what file systems say that sync no folders

TEMPORARY_PREFIX = ".tmp-"
"""Every half-written file starts with this; a leftover one belongs to a killed process."""

_SMALL = 4096
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "BOOL": "bool",
}
"""Types by their names in a safetensors file; any other counts as bytes."""


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def ensure_folder(path: str | Path) -> Path:
    """Create folder ``path`` with its parents when missing and return it.

    Raises:
        UnderstudyError: it is a file, or cannot be created or written to.
    """
    folder = Path(path)
    try:
        _make(folder)
    except (FileExistsError, NotADirectoryError):
        raise UnderstudyError(f"cannot use {folder} as a folder: it, or a parent of it, is a file") from None
    except OSError as error:
        raise UnderstudyError(f"cannot create folder {folder}: {_reason(error)}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnderstudyError(f"cannot write in folder {folder}: permission denied")
    return folder


def _make(folder: Path) -> None:
    """Make ``folder`` with its parents; those that are new survive a power cut, so that what is put there does."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync(path.parent)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Replace file ``path`` by ``data`` in one step, on disk when this returns.

    The folder has to exist.

    Raises:
        UnderstudyError: the disk is full, the folder is missing or read-only, or ``path`` is a folder.
    """
    target = Path(path)
    # The same folder, so that the final rename never crosses file systems. A random name rather
    # than tempfile's, whose files are private to the user whatever the umask says.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise UnderstudyError(f"cannot write {target}: {_reason(error)}") from None


def write_text_atomic(path: str | Path, text: str) -> None:
    """Replace file ``path`` by ``text`` as UTF-8; see `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: Mapping[str, object] | Sequence[object]) -> None:
    """Replace file ``path`` by ``value`` as indented JSON with a final newline; see `write_bytes_atomic`.

    Raises:
        UnderstudyError: also when ``value`` holds something JSON has no form for (NaN and infinity included).
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnderstudyError(f"cannot write {path}: the value has no JSON form ({error})") from None
    write_text_atomic(path, text + "\n")


@contextmanager
def new_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path for a large file or folder, which becomes ``path`` when the block ends without an error.

    Raises:
        UnderstudyError: ``path`` exists (other than as an empty folder), or it cannot be written.
    """
    target = Path(path)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UnderstudyError(f"{target} exists already: give another place, or remove it first")
    ensure_folder(target.parent)
    draft = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        try:
            yield draft
            for written in (draft, *draft.rglob("*")):
                sync(written)
            os.replace(draft, target)
        except BaseException:
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            draft.unlink(missing_ok=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise UnderstudyError(f"cannot write {target}: {_reason(error)}") from None


def load_tensors(path: str | Path, headers: bool = False) -> tuple[Any, dict[str, str]]:
    """Return what a file of tensors holds, and the plain values of a safetensors file's header.

    Tensors are mapped, not read: their values come from the disk when they are looked at.

    Args:
        path: a safetensors file, by its suffix, or one of torch's.
        headers: read names, shapes and types only: tensors are on the meta device, but for small ones of bytes (notes).

    Raises:
        CheckpointError: it is missing, damaged, a GGUF file, or would have to execute code to be read.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source} is missing: give a .pt or .safetensors file or a folder of them")
    try:
        with source.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {_reason(error)}") from None
    if start == b"GGUF":
        raise CheckpointError(
            f"{source} is a GGUF file, whose weights are quantised in blocks: give the .safetensors or .pt file in "
            "bfloat16, float16 or float32 that it was made from"
        )
    if source.suffix != ".safetensors":
        return load_plain(source, headers), {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, framework="numpy" if headers else "pt") as content:
            header = dict(content.metadata() or {})
            names = list(content.keys())
            return {name: _shape(content, name) if headers else content.get_tensor(name) for name in names}, header
    except RuntimeError as error:
        raise CheckpointError(f"{source} cannot be mapped ({error}): it is larger than this machine's memory") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source} is damaged ({error}): fetch it again") from None


def _shape(content: Any, name: str) -> Any:
    """Return a tensor of an open safetensors file without its values; small ones of bytes with them."""
    import torch

    part = content.get_slice(name)
    dtype: torch.dtype = getattr(torch, _DTYPES.get(part.get_dtype(), "uint8"))
    empty = torch.empty(part.get_shape(), dtype=dtype, device="meta")
    small = dtype == torch.uint8 and empty.ndim == 1 and empty.numel() <= _SMALL
    return torch.from_numpy(content.get_tensor(name)) if small else empty


def load_plain(path: Path, headers: bool = False) -> Any:
    """Return what a ``.pt`` file holds: tensors and plain containers of them, never code; see ``load_tensors``.

    Raises:
        CheckpointError: it is missing, damaged, or would have to execute code to be read.
    """
    import torch

    if not path.is_file():
        raise CheckpointError(f"{path} is missing: give a .pt or .safetensors file or a folder of them")
    try:
        # Mapped, not read: a trainer's file also holds a critic and two copies of the generator.
        mapped = zipfile.is_zipfile(path) and not headers
        return torch.load(path, map_location="meta" if headers else "cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can raise anything
        text = " ".join(str(error).split())
        if named := re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:class|type) (\S+)", text):
            what = f" ({named[1] or named[2]})"
            raise CheckpointError(
                f"{path} holds more than tensors and plain values{what}, and reading that could execute code: refused; "
                "save its state dict alone, best as .safetensors"
            ) from None
        raise CheckpointError(f"{path} is damaged or no torch file ({text[:160]}): fetch it again") from None


def _reason(error: OSError) -> str:
    """Return what went wrong without the path, which the caller names itself."""
    return (error.strerror or str(error)).lower()


def append_line(path: str | Path, line: str) -> None:
    """Append ``line`` to a file of lines; where a kill tore the last one, the new one still stands on its own.

    Raises:
        UnderstudyError: it is no regular file, the disk is full, or it cannot be written.
    """
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnderstudyError(f"cannot write {path}: it is no regular file")
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                data = b"\n" + data
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnderstudyError(f"cannot write {path}: {_reason(error)}") from None


def sync(path: Path) -> None:
    """Make a file's content, or a rename in a folder, survive a power cut, where the system lets ``path`` be synced.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(descriptor)
