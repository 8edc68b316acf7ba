"""WebDataset tars: plain tar files whose members ``KEY.mp4``, ``KEY.txt``, ``KEY.json`` make one sample each.

Nothing is unpacked: members are read from their place in the tar, and their names never become paths.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import ClipError, ConfigError
from understudy.prompts import normalise
from understudy.reading import Unreadable, open_regular
from understudy.tables import read_json

VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".m4v", ".ts", ".flv", ".ogv")
_PROMPT_FIELDS = ("prompt", "caption", "text")
_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class TarClip:
    """One clip of a tar.

    Attributes:
        tar: the tar file.
        key: the sample's key.
        prompt: its text, normalised; empty when the sample has none.
        record: the sample's JSON object; empty without one.
        offset, size: where the video lies in the tar, in bytes.
    """

    tar: Path
    key: str
    prompt: str
    record: Mapping[str, Any]
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the video file.

        Raises:
            ClipError: the tar is gone or shorter than it was.
        """
        try:
            with open_regular(self.tar) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except (OSError, Unreadable) as error:
            raise ClipError(f"cannot read {self.tar}: {error}") from None
        if len(data) < self.size:
            raise ClipError(f"{self.tar} is cut short in sample {self.key!r}; fetch it again")
        return data


def tar_clips(path: str | Path) -> list[TarClip]:
    """Return the clips in the tar ``path`` in their order; other members are passed over.

    Raises:
        ConfigError: it is missing, compressed, damaged or no tar.
    """
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return list(_clips(Path(path), tar))
    except FileNotFoundError:
        raise ConfigError(f"tar {path} does not exist") from None
    except Unreadable as error:
        raise ConfigError(f"cannot read tar {path}: {error}") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} is not a whole, uncompressed tar ({error}); unpack its compression first") from None
    except OSError as error:
        raise ConfigError(f"cannot read tar {path}: {(error.strerror or str(error)).lower()}") from None


def _clips(path: Path, tar: tarfile.TarFile) -> Iterator[TarClip]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if member.isreg() and stem and dot:
            samples.setdefault(f"{folder}/{stem}" if folder else stem, {})["." + suffix.lower()] = member
    for key, members in samples.items():
        video = next((members[suffix] for suffix in VIDEO_SUFFIXES if suffix in members), None)
        if video is None:
            continue
        record: Mapping[str, Any] = {}
        if ".json" in members:
            try:
                told = read_json(_text(tar, members[".json"]))
            except ValueError:
                raise ConfigError(f"{path} has a damaged {key}.json; write the tar again") from None
            record = told if isinstance(told, dict) else {}
        texts = [_text(tar, members[".txt"])] if ".txt" in members else []
        texts += [value for name in _PROMPT_FIELDS if isinstance(value := record.get(name), str)]
        prompt = next((text for text in map(normalise, texts) if text), "")
        yield TarClip(path, key, prompt, record, video.offset_data, video.size)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member) if member.size <= _TEXT_BYTES else None
    return "" if file is None else file.read().decode("utf-8", errors="replace")


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a member that is the same on every machine: no owner, no time."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
