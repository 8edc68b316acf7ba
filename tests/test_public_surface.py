"""What users type is a promise: verbs, options and recipe keys change on purpose or not at all."""

import dataclasses
import difflib
import os
from pathlib import Path
from typing import get_type_hints

from understudy import cli
from understudy.recipes.tree import config_fields

SURFACE = Path(__file__).parent / "data" / "surface.txt"
HOW = (
    "The commands or recipe keys have changed, which breaks what users have written down. If it is meant, say so in "
    "CHANGELOG.md and write the new list with: UPDATE_SURFACE=1 pytest tests/test_public_surface.py"
)


def options(name: str, verb: type) -> list[str]:
    hints, marked = get_type_hints(verb), get_type_hints(verb, include_extras=True)
    lines = []
    for field in dataclasses.fields(verb):
        hint = hints[field.name]
        kind = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", ()) else str(hint)
        kind = kind.replace("pathlib.", "")
        positional = "positional" in repr(marked[field.name]).lower()
        spelled = field.name.upper() if positional else f"--{field.name.replace('_', '-')}"
        lines.append(f"verb {name} {spelled}: {kind}")
    return lines or [f"verb {name}"]


def surface() -> list[str]:
    """The verbs with their options, then the recipe keys with kind and type; not the defaults, which may be tuned."""
    verbs = [line for name, verb in cli.VERBS.items() for line in options(name, verb)]
    keys = [f"key {field.key}{f' [{field.kind}]' if field.kind else ''}: {field.type}" for field in config_fields()]
    return verbs + keys


def test_the_public_surface_is_the_committed_one() -> None:
    found = surface()
    if os.environ.get("UPDATE_SURFACE") == "1":
        SURFACE.parent.mkdir(exist_ok=True)
        SURFACE.write_text("\n".join(found) + "\n", encoding="utf-8")
    committed = SURFACE.read_text(encoding="utf-8").splitlines()
    changes = [line for line in difflib.ndiff(committed, found) if line.startswith(("-", "+"))]
    assert not changes, "\n".join([HOW, *changes])


def test_no_line_is_there_twice() -> None:
    assert len(set(surface())) == len(surface())
