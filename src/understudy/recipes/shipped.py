"""The recipes and suites that come with the package, and how a name on the command line finds one."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from understudy.errors import ConfigError

FOLDER: Final = Path(__file__).parents[1] / "recipe_files"
"""Where they are, as package data."""

_SUITES: Final = FOLDER / "bench"
_OWN: Final = "recipe.yaml"  # what `understudy init` writes into a folder


@dataclass(frozen=True)
class Shipped:
    """A recipe, or a suite of them.

    Attributes:
        name: what the command line takes.
        kind: recipe, for ``train``; suite, for ``bench``; row, a part of suites; start, for `understudy.pretraining`.
        about: the first sentence of its head.
    """

    name: str
    path: Path
    kind: Literal["recipe", "suite", "row", "start"]
    about: str


def shipped() -> list[Shipped]:
    """Return all that ship, by kind and name."""
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        kind: Literal["recipe", "suite", "row", "start"] = "recipe"
        if path.is_relative_to(_SUITES):
            kind = "suite" if "\nkind: bench" in text else "row"
        elif "\nkind: start" in text:
            kind = "start"
        name = path.relative_to(_SUITES if kind == "suite" else FOLDER).with_suffix("").as_posix()
        found.append(Shipped(name, path, kind, _about(text)))
    return found


def _about(text: str) -> str:
    """Return the first sentence of the comment that a file begins with."""
    head = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    return re.split(r"(?<=[a-z0-9)])\. |: (?=python|`)", " ".join(head) + " ", maxsplit=1)[0].strip().rstrip(".:")


def locate(path: str | Path) -> Path:
    """Return the file that ``path`` means: itself; the recipe.yaml in that folder; or the one of that name that ships.

    Names go without folder and suffix, or as in a checkout of old: quickstart, main, bench/main, recipes/quickstart.yaml.

    Raises:
        ConfigError: there is no such file and none of that name ships.
    """
    given = Path(path)
    if given.is_file():
        return given
    if (given / _OWN).is_file():
        return given / _OWN
    name = given.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) and ".." not in name:
        for folder in (FOLDER, _SUITES):
            if (folder / f"{name}.yaml").is_file():
                return folder / f"{name}.yaml"
    if given.exists():
        return given  # a folder, a pipe: what reads it says what is wrong
    near = difflib.get_close_matches(name, [item.name for item in shipped()], 1)
    hint = f"did you mean {near[0]}?" if near else "`understudy recipes` lists those that ship"
    raise ConfigError(f"recipe {path} does not exist; {hint}")
