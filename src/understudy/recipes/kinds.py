"""Kinds: each objective, discriminator and so on is a folder that is found because it is there.

``objectives/gan/`` is the kind ``gan``: its ``config.py`` holds the section that a recipe may write, and a module beside it
``build``s what the section describes. Sections are read without torch; the module is imported when it is asked for.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field

from understudy.recipes.section import Section


@dataclass(frozen=True)
class Kinds:
    """The kinds in the folders of some packages.

    Attributes:
        packages: names of the packages whose subpackages are looked at, in the order in which kinds are listed.
        module: name of the module in each folder whose ``build(section, ...)`` makes what the section describes.
        usual: the kind that stands where a recipe names none.
    """

    packages: tuple[str, ...]
    module: str
    usual: str

    @cached_property
    def sections(self) -> dict[str, type[Section]]:
        """The section of every kind, by its name."""
        found = {section.model_fields["kind"].default: section for section in self._found()}
        return {self.usual: found[self.usual], **found}

    @property
    def union(self) -> Any:
        """The type annotation of a field that holds one of them."""
        return Annotated[Union[tuple(self.sections.values())], Field(discriminator="kind")]  # noqa: UP007

    @property
    def default(self) -> Any:
        """The usual kind's section with its defaults."""
        return self.sections[self.usual]()

    def build(self, section: BaseModel, *given: Any) -> Any:
        """Return what ``section`` describes, made of what is ``given``."""
        build: Callable[..., Any] = self.maker(section).build
        return build(section, *given)

    def maker(self, section: BaseModel) -> ModuleType:
        """Return the module that makes what ``section`` describes."""
        return import_module(f"{type(section).__module__.rpartition('.')[0]}.{self.module}")

    def _found(self) -> Iterator[type[Section]]:
        for package in self.packages:
            for info in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
                if info.ispkg and find_spec(f"{info.name}.config") is not None:
                    module = import_module(f"{info.name}.config")
                    yield from (
                        section
                        for _, section in inspect.getmembers(module, inspect.isclass)
                        if issubclass(section, Section) and section.__module__ == module.__name__
                    )


TEACHERS = Kinds(("understudy.teachers",), "teacher", "world")
DISCRIMINATORS = Kinds(("understudy.discriminators",), "network", "clip_cnn")
OBJECTIVES = Kinds(("understudy.objectives", "understudy.objectives.experimental"), "update", "afd")
REWARDS = Kinds(("understudy.rewards",), "reward", "python")
