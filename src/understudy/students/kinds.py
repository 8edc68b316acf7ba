"""Kinds of students: each family is a folder here, and installed packages may add theirs.

A saved bundle names its kind and is loaded without executing any code of its own: the kind is a folder here, a class that
the program has imported already, or an entry point ``understudy.students`` of an installed package.
"""

import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Final

from understudy.errors import ConfigError
from understudy.students.base import StudentModule

GROUP: Final = "understudy.students"
"""Group of the entry points: name = "package.module:Class", the name being the class's ``kind``."""


def student_kind(name: str) -> type[StudentModule]:
    """Return the class of the students of a kind.

    Raises:
        ConfigError: there is none, or the package that adds it fails.
    """
    if (own := shipped_kinds().get(name)) is not None:
        return own
    imported = [cls for cls in _below(StudentModule) if vars(cls).get("kind") == name]
    if imported:
        return imported[-1]  # the latest: a notebook's cell may have been run again
    for entry in metadata.entry_points(group=GROUP, name=name):
        try:
            found = entry.load()
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"students of kind {name!r} come from {entry.value}, which fails: {why}") from error
        if not (inspect.isclass(found) and issubclass(found, StudentModule)):
            raise ConfigError(f"students of kind {name!r} come from {entry.value}, which is no StudentModule")
        return found
    known = sorted({*shipped_kinds(), *metadata.entry_points(group=GROUP).names})
    raise ConfigError(
        f"there are no students of kind {name!r} among {', '.join(known)}: import the module or install the package "
        "that has them"
    )


@cache
def shipped_kinds() -> dict[str, type[StudentModule]]:
    """Return the kinds that are folders of this package, by name."""
    found: dict[str, type[StudentModule]] = {}
    package = import_module(__package__ or "")
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if info.ispkg and find_spec(f"{info.name}.model") is not None:
            module = import_module(f"{info.name}.model")
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, StudentModule) and cls.__module__ == module.__name__ and "kind" in vars(cls):
                    found[cls.kind] = cls
    return found


def _below(cls: Any) -> Iterator[type[StudentModule]]:
    for child in cls.__subclasses__():
        yield child
        yield from _below(child)
