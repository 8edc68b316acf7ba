"""What makes a run another run: whatever decides its results, and nothing else.

Where it is written, what it is called, where clips are kept, how often it saves and on how many threads decide nothing. A
field at its default decides nothing either: a newer version with one more field goes on with what an older one began.
Prompts and the start student count by what they are, not by where their files lie.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from understudy.errors import UnderstudyError
from understudy.files import sha256_hex
from understudy.prompts import read_prompts
from understudy.reading import open_regular
from understudy.recipes.config import FilePromptsConfig, RunConfig
from understudy.students.bundle import bundle_folder, weights_file

_FREE: Final = frozenset(
    {
        "name",
        "out",
        "threads",
        "device",
        "collection",
        "track",
        "clips.store",
        "train.checkpoint_every",
        "evaluation.shown",
        "student.recompute",
        "student.text.cache",
        "discriminator.checkpointing",
        *(
            f"teacher.{field}"
            for field in (
                "key_env",
                "plain_http",
                "max_megabytes",
                "price_per_clip",
                "price_per_second",
                "currency",
                "terms",
                "device",
            )
        ),
    }
)
"""Keys that decide no result."""
_KIND: Final = "kind"
_ENDS: Final = 1 << 20  # bytes of a weight file's beginning and end that tell it from another of its size


def config_hash(config: RunConfig) -> str:
    """Return a hash of what decides a run's results."""
    decides = _deciding(config, "")
    if isinstance(config.prompts, FilePromptsConfig):
        decides["prompts"] = {name: _prompts(getattr(config.prompts, name)) for name in ("train", "held_out")}
    decides.setdefault("student", {})["start"] = _weights(config.student.start)
    return sha256_hex(json.dumps(decides, sort_keys=True).encode())


def _deciding(section: BaseModel, prefix: str) -> dict[str, Any]:
    """Return the fields of ``section`` that decide something and differ from their default."""
    found: dict[str, Any] = {}
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        key, value = f"{prefix}{name}", getattr(section, name)
        default = field.get_default(call_default_factory=True, validated_data={})
        if key in _FREE or (default is not PydanticUndefined and value == default):
            continue
        if isinstance(value, BaseModel):
            found[name] = _section(value, f"{key}.")
        elif isinstance(value, dict) and any(isinstance(one, BaseModel) for one in value.values()):
            found[name] = {label: _section(one, f"{key}.{label}.") for label, one in value.items()}
        else:
            found[name] = plain[name]
        if found[name] == {}:  # all that differs decides nothing
            del found[name]
    return found


def _section(value: BaseModel, prefix: str) -> dict[str, Any]:
    """Return the deciding fields of a section, with its kind where it is one of several."""
    kind = getattr(value, _KIND, None)
    return {**({} if kind is None else {_KIND: kind}), **_deciding(value, prefix)}


def _prompts(path: Path) -> list[str]:
    try:
        return read_prompts(path)
    except UnderstudyError:  # whoever needs them says what is wrong
        return [str(path)]


def _weights(start: str) -> str:
    """Return what tells the weights in ``start`` from others: their beginning, their end and their size."""
    try:
        folder = bundle_folder(start)
        path = weights_file(folder, "student") if folder.is_dir() else folder
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(f"{size}\n".encode() + file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read(_ENDS))
        return digest.hexdigest()
    except (OSError, UnderstudyError):  # a folder of shards, or nothing yet
        return start
