"""Sizes that come from a file: of the right kind and within reason, before anything is built from them."""

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Final

from understudy.errors import ConfigError

MOST: Final = 1 << 20
"""Largest width, height or count that any network of ours has."""
MOST_FRAMES: Final = 10_000
"""Longest span of latent frames."""
_FRAMES: Final = ("max_frames", "block_frames", "window", "sink")


def check_fields(spec: Any, zero: Collection[str] = ()) -> None:
    """Check every field of a frozen dataclass against the kind of its default.

    Args:
        spec: whole numbers have to lie in 1..2^20, numbers of frames in 1..10,000; other numbers have to be finite and above
            0; lists of numbers and of words are checked item by item.
        zero: names of numbers that may be 0.

    Raises:
        ConfigError: one of them is of another kind or out of range.
    """
    for field in fields(spec):
        value, default = getattr(spec, field.name), field.default
        least = 0 if field.name in zero else 1
        most = MOST_FRAMES if field.name in _FRAMES else MOST
        if isinstance(default, bool):
            fits = isinstance(value, bool)
        elif isinstance(default, int):
            fits = _whole(value, least, most)
        elif isinstance(default, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        elif isinstance(default, str):
            fits = isinstance(value, str)
        elif isinstance(default, tuple) and all(isinstance(item, int) for item in default) and default:
            fits = isinstance(value, tuple) and len(value) <= 1000 and all(_whole(v, 1, MOST_FRAMES) for v in value)
        elif isinstance(default, tuple):
            fits = isinstance(value, tuple) and len(value) <= MOST and all(isinstance(v, str) for v in value)
        else:
            continue
        if not fits:
            raise ConfigError(f"{field.name} is {_short(value)}: that is no size of a student")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number without end"
    return text if len(text) <= 60 else f"{text[:57]}..."
