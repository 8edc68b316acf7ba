"""What of a recipe is the user's own: the parts of kind ``python``."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from understudy.recipes.config import RunConfig


def own_parts(config: RunConfig) -> dict[str, str]:
    """Return what each plug-in of a recipe is (teacher, reward ...), by its ``call``."""
    return dict(_parts(config))


def _parts(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _parts(item)
    if isinstance(value, BaseModel):
        if getattr(value, "kind", "") == "python":
            yield str(getattr(value, "call", "")), str(getattr(value, "what", "plug-in"))
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name))
