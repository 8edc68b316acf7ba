"""The tree of a recipe's sections: every key of `RunConfig`, what may stand there, and how to say it."""

import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from understudy.errors import ConfigError
from understudy.recipes.config import RunConfig
from understudy.recipes.section import is_far

KIND: Final = "kind"
"""The key that says which kind of section stands somewhere."""

Keys = tuple[str, ...]


@dataclass(frozen=True)
class ConfigField:
    """One field of `RunConfig`, for help texts.

    Attributes:
        key: its dotted key, ``train.steps``; NAME stands for a name of the user's choice.
        kind: the kind of section that has it; empty when all have.
        type: what it accepts, in words.
        default: its default as YAML, or ``required``.
        help: what it is for.
        section: what its section is for.
    """

    key: str
    kind: str
    type: str
    default: str
    help: str
    section: str


def config_fields() -> list[ConfigField]:
    """Return every field of `RunConfig`, depth first in the order of the models, unions kind by kind."""
    return list(_fields_of(RunConfig, "", "", None, {}))


def canonical_key(name: str) -> str | None:
    """Return the dotted key that ``name`` (hyphens may stand for underscores) means, or None for no key."""
    keys, spots = descend(name.split("."))
    return ".".join(keys) if spots else None


def field_named(name: str, section: bool = False) -> str:
    """Return the dotted key that a Python keyword means: ``train__steps``, or ``steps`` where that is clear.

    A single word is a key of the recipe itself, or else of ``train``, or else of the one section that has it. With
    ``section`` it may name a whole section.

    Raises:
        ConfigError: there is no such key, or several sections have it.
    """
    key = name.replace("__", ".")
    leaves = dict.fromkeys(field.key for field in config_fields() if ".NAME" not in field.key)
    if (section or key != name) and canonical_key(key) is not None:
        return key
    for known in (name, f"train.{name}"):
        if known in leaves or (known == name in ("compare", "rewards")):
            return known
    parents = dict.fromkeys(known.rpartition(".")[0] for known in leaves) if section else ()
    found = [known for known in (*leaves, *parents) if known.rpartition(".")[2] == name]
    if len(found) > 1:
        spelled = ", ".join(known.replace(".", "__") for known in found)
        raise ConfigError(f"{name} may mean {' or '.join(found)}: write one of {spelled}")
    if not found:
        near = near_key(key)
        hint = f"did you mean {near}, written {near.replace('.', '__')}?" if near else "`understudy config` lists all"
        raise ConfigError(f"there is no field {key}; {hint}")
    return found[0]


def near_key(name: str, others: Sequence[str] = ()) -> str | None:
    """Return what ``name``, which is no key, may have been meant to be: a dotted key or one of ``others``."""
    known = [*others, *dict.fromkeys(field.key for field in config_fields())]
    wanted, last = _spelled(name), _spelled(name).rsplit(".", 1)[-1]
    # By the last word, which is what people remember; the section then decides between equals.
    near = difflib.get_close_matches(last, {_spelled(key).rsplit(".", 1)[-1] for key in known}, n=1, cutoff=0.7)
    found = [key for key in known if _spelled(key).rsplit(".", 1)[-1] in near]
    return max(found, key=lambda key: difflib.SequenceMatcher(None, wanted, key).ratio(), default=None)


def _spelled(name: str) -> str:
    return name.replace("-", "_")


@dataclass(frozen=True)
class Spot:
    """A place in the tree of sections: the types it takes (None apart), their bounds, default and help."""

    options: tuple[Any, ...]
    optional: bool = False
    bounds: tuple[Any, ...] = ()
    default: Any = PydanticUndefined
    help: str = ""

    @property
    def sections(self) -> dict[str, type[BaseModel]]:
        """The sections it takes by kind; a section of one kind only has the kind ''."""
        return {
            str(kind): option
            for option in self.options
            if isinstance(option, type) and issubclass(option, BaseModel)
            for kind in (_kinds(option) if len(self.options) > 1 else ("",))
        }

    @property
    def values(self) -> "Spot | None":
        """What the values of a mapping with free names are, if it is one."""
        if len(self.options) == 1 and get_origin(self.options[0]) in (dict, Mapping):
            return spot_of(get_args(self.options[0])[1])
        return None

    def section(self, value: object) -> type[BaseModel] | None:
        """Return the section that the mapping ``value`` is, as far as that can be told."""
        sections = self.sections
        if list(sections) == [""]:
            return sections[""]
        return sections.get(str(value.get(KIND))) if isinstance(value, Mapping) else None


def spot_of(annotation: Any, field: FieldInfo | None = None) -> Spot:
    """Return the spot that a type annotation, and the ``field`` that has it, make."""
    bounds: list[Any] = list(field.metadata) if field else []
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        bounds += [bound for item in extra for bound in getattr(item, "metadata", [item])]
    union = get_origin(annotation) in (Union, types.UnionType)
    options = get_args(annotation) if union else (annotation,)
    return Spot(
        options=tuple(option for option in options if option is not type(None)),
        optional=type(None) in options,
        bounds=tuple(bounds),
        default=field.get_default(call_default_factory=True, validated_data={}) if field else PydanticUndefined,
        help=" ".join((field.description or "").split()) if field else "",
    )


ROOT: Final = Spot((RunConfig,))
"""The recipe itself."""


def spots_of(section: type[BaseModel]) -> dict[str, Spot]:
    """Return the spots of a section's fields by name."""
    return {name: spot_of(field.annotation, field) for name, field in section.model_fields.items()}


def _kinds(section: type[BaseModel]) -> tuple[str, ...]:
    field = section.model_fields.get(KIND)
    return tuple(get_args(field.annotation)) if field else ("",)


_WORDS: Final[dict[Any, str]] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
}


def type_text(spot: Spot, all_bounds: bool = False) -> str:
    """Say in words what ``spot`` takes; bounds that only catch slips are left out unless all are wanted."""
    sections = spot.sections
    if len(sections) > 1:
        text = f"section of kind {' or '.join(sections)}"
    elif sections:
        text = "section"
    else:
        text = " or ".join(_option_text(option) for option in spot.options)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [
        f"{sign} {value:g}"
        for bound in spot.bounds
        for name, sign in signs.items()
        if (value := getattr(bound, name, None)) is not None and (all_bounds or not is_far(value))
    ]
    text += f" {' and '.join(limits)}" if limits else ""
    return f"{text}, or null" if spot.optional else text


def _option_text(option: Any) -> str:
    origin, arguments = get_origin(option), get_args(option)
    if origin is Literal:
        names = ", ".join(_plain(argument) for argument in arguments)
        return f"one of {names}" if len(arguments) > 1 else names
    if origin in (tuple, list) and arguments:
        item = type_text(spot_of(arguments[0]))
        example = "[1, 2]" if "whole" in item else "[1, 0.5]" if "number" in item else "[a, b]"
        return f"list of {item.replace('number', 'numbers')} like {example}"
    if origin in (dict, Mapping):
        return f"names, each with a {type_text(spot_of(arguments[1]))}"
    return _WORDS.get(option, getattr(option, "__name__", str(option)))


def _fields_of(
    section: type[BaseModel],
    prefix: str,
    kind: str,
    instance: object,
    listed: dict[tuple[type[BaseModel], ...], str],
) -> Iterator[ConfigField]:
    """Yield the fields of ``section``.

    ``instance`` is the section by default; ``listed`` are the unions that had their turn, with their keys.
    """
    about = " ".join((section.__doc__ or "").split())
    for name, spot in spots_of(section).items():
        names, default = prefix + name, getattr(instance, name, spot.default)
        while (values := spot.values) is not None:  # free names: describe what stands under any of them
            spot, names, default = values, f"{names}.NAME", PydanticUndefined
        sections = spot.sections
        if len(sections) > 1:
            which = f"one of {', '.join(sections)}"
            chosen = _default_text(getattr(default, KIND, PydanticUndefined))
            help_text = " ".join(
                f"{each}: {' '.join((model.__doc__ or '').split())}" for each, model in sections.items()
            )
            yield ConfigField(f"{names}.{KIND}", kind, which, chosen, help_text, about)
            if (known := listed.get(tuple(sections.values()))) is not None:
                yield ConfigField(f"{names}.*", kind, f"as {known}.*", "", f"The fields of {known}.", about)
                continue
            listed[tuple(sections.values())] = names
        elif not sections:
            if name != KIND:
                yield ConfigField(names, kind, type_text(spot), _default_text(default), spot.help, about)
            continue
        for each, model in sections.items():
            inner = default if isinstance(default, model) else None
            yield from _fields_of(model, f"{names}.", each or kind, inner, listed)


def _default_text(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_plain(item) for item in value)}]"
    return _plain(value)


def _plain(value: object) -> str:
    """Return a scalar as it is written in YAML, without the quotes."""
    return str(value) if isinstance(value, str | Path) and str(value) else show(value)


def descend(names: Sequence[str]) -> tuple[Keys, list[Spot]]:
    """Follow ``names`` through every kind of section; return them as spelled there, and what they lead to.

    No spots: there is no such key.
    """
    spots, keys = [ROOT], list[str]()
    for name in names:
        found: list[Spot] = []
        for spot in spots:
            if spot.values is not None and name:
                found.append(spot.values)
            for section in spot.sections.values():
                inner = spots_of(section)
                name = name if name in inner else _spelled(name)
                found += [inner[name]] if name in inner else []
        spots = found
        keys.append(name)
    return tuple(keys), spots


def show(value: object) -> str:
    """Return ``value`` on one short line, texts in quotes."""
    return cut(json.dumps(value, ensure_ascii=False, default=str))


def cut(text: str) -> str:
    """Return ``text`` on one line of 60 characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
