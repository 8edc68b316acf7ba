"""What a user brings along: an object, or the name of one in a module of theirs.

An object given from Python rides inside its section and wins over what is written there; the section's ``call`` says where
it came from, so that a saved recipe names it.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr

from understudy.errors import ConfigError, PluginError, UnderstudyError
from understudy.recipes.section import Section


class PythonSection(Section):
    """Base of the sections of kind ``python``."""

    call: str = Field(pattern=r"^[^:\s]+:[^:\s]+$")
    """What to use, as module:Name; the module is looked for where you run the command, then among installed packages."""
    settings: dict[str, Any] = Field({})
    """Keyword arguments for it."""

    what: ClassVar[str] = "plug-in"

    _given: Any = PrivateAttr(default=None)

    @classmethod
    def holding(cls, given: Any, **fields: Any) -> Self:
        """Return the section of an object that is there already."""
        section = cls(call=name_of(given), **fields)
        section._given = given
        return section

    def found(self) -> Any:
        """Return the object that was given, or what ``call`` names, as it stands in its module.

        Raises:
            ConfigError: there is no such module or name, or its module fails.
        """
        return self._given if self._given is not None else load(self.call, self.what)

    def made(self, *given: Any) -> Any:
        """Return the object that was given, or what the class or function behind ``call`` makes of ``given`` and settings.

        Raises:
            ConfigError: there is no such name. PluginError: it fails.
        """
        if self._given is not None and not inspect.isclass(self._given):
            return self._given
        found = self.found()
        if not callable(found):
            return found
        return guarded(f"{self.what} {self.call}", found, *given, **self.settings)


def name_of(given: Any) -> str:
    """Return module:Name of a function, a class or an object's class."""
    named = given if inspect.isclass(given) or inspect.isroutine(given) else type(given)
    return f"{named.__module__}:{named.__qualname__.replace('<locals>.', '').replace('<lambda>', 'lambda')}"


def load(call: str, what: str) -> Any:
    """Return the object that ``call``, as module:Name, names.

    Raises:
        ConfigError: there is no such module or name, or the module fails when it is imported; ``what`` says what for.
    """
    module_name, _, name = call.partition(":")
    if (here := os.getcwd()) not in sys.path:  # a command's path is where the command lies
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise ConfigError(f"{what} {call}: there is no module {error.name!r} here or among the packages") from None
        raise ConfigError(f"{what} {call}: its module needs {error.name!r}, which is not installed") from None
    except Exception as error:
        raise ConfigError(f"{what} {call}: its module fails: {_said(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(n for n in vars(found) if not n.startswith("_"))[:200]
            raise ConfigError(f"{what} {call}: {module_name} has no {part!r}; it has {names or 'nothing'}")
        found = getattr(found, part)
    return found


def guarded(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what ``call`` returns; what it raises names the plug-in.

    Raises:
        PluginError: it failed. What is one of our own errors already passes.
    """
    try:
        return call(*args, **kwargs)
    except UnderstudyError:
        raise
    except Exception as error:
        raise PluginError(f"{name} failed: {_said(error)}; UNDERSTUDY_TRACEBACK=1 shows where") from error


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
