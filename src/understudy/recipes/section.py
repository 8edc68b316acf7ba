"""The base of all sections of a recipe, and what bounds their values."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from understudy.errors import shown

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Section(BaseModel):
    """A section: frozen, unknown keys forbidden, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="after")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Refuse what no file name, no command and no UTF-8 text can hold."""
        if isinstance(value, str | Path) and (found := _NO_TEXT.search(str(value))):
            raise ValueError(f"no text may hold the character {shown(found[0])}")
        return value


class _FarInt(int):
    pass


class _FarFloat(float):
    pass


def far(bound: Any) -> Any:
    """Return ``bound`` as one that is there to catch slips: an error says it, the list of fields does not."""
    return _FarInt(bound) if isinstance(bound, int) else _FarFloat(bound)


def is_far(bound: object) -> bool:
    """Say whether `far` made it."""
    return isinstance(bound, _FarInt | _FarFloat)


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` can be that of a folder, wherever it is made."""
    if not re.fullmatch(r"[^\W_][\w .,+()='-]{0,63}", name) or name.endswith((" ", ".")):
        raise ValueError(
            f"{shown(name)[:64]!r} has to be a folder's name: letters, digits, spaces and -_.,+=()', a letter or digit "
            "first, 64 at most"
        )
