"""What a user brings along: an object, or the name of one in a module of theirs.

An object given from Python rides inside its section and wins over what is written there; the section's ``call`` says where
it came from, so that a saved recipe names it.
"""

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
        """Return what the class or function behind it makes of ``given`` and the settings, or the object that it is.

        Raises:
            ConfigError: there is no such name. PluginError: it fails.
        """
        found = self.found()
        if not inspect.isclass(found) and not inspect.isroutine(found) and not isinstance(found, functools.partial):
            return found
        return guarded(f"{self.what} {self.call}", found, *given, **self.settings)


def name_of(given: Any) -> str:
    """Return module:Name of a function, a class or an object's class."""
    if isinstance(given, functools.partial):
        return name_of(given.func)
    named = given if inspect.isclass(given) or inspect.isroutine(given) else type(given)
    name = named.__qualname__.replace("<locals>.", "").replace("<lambda>", "lambda")
    return f"{named.__module__}:{name}"


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
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what} {call}: there is no module {error.name!r} here or among the packages") from None
        raise ConfigError(f"{what} {call}: its module needs {error.name!r}, which is not installed") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what} {call}: its module fails: {_said(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            if module_name == "__main__":
                raise ConfigError(
                    f"{what} {call} was given from a Python session: go on from there, or put it into a module"
                )
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
        raise PluginError(f"{name} failed: {_said(error)}{_place(error)}{_MORE}") from error


@contextmanager
def named(parts: Mapping[str, str]) -> Iterator[None]:
    """Let an error inside a plug-in name it: ``parts`` says what it is by its ``call``.

    A discriminator or a student is called from deep inside torch: what failed is told by the innermost line of theirs.

    Raises:
        PluginError: one of them failed. Other errors pass as they are.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            here = [call for call in parts if call.partition(":")[0].partition(".")[0] == package]
            if here:
                inside = frame.f_code.co_qualname.replace("<locals>.", "")
                call = next((c for c in here if inside.split(".")[0] == c.partition(":")[2].split(".")[0]), here[0])
                raise PluginError(f"{parts[call]} {call} failed: {_said(error)}{_place(error)}{_MORE}") from error
        raise


_MORE = "; UNDERSTUDY_TRACEBACK=1 shows all of it"


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _place(error: BaseException) -> str:
    """Return the file and line where it went wrong, as far as that is neither here nor in a library."""
    libraries = (str(Path(__file__).parent), os.path.dirname(os.__file__))
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if not file.startswith(libraries) and "site-packages" not in file:
            return f" ({Path(file).name} line {line})"
    return ""
