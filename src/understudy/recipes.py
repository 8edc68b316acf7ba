"""Recipes: runs described in YAML, with inheritance and command-line overrides, read into one `RunConfig`.

A recipe holds the keys of `RunConfig`. ``base: other.yaml`` (relative to the recipe itself) inherits another recipe: its
keys are merged under the recipe's own, section by section. A section whose ``kind`` changes is replaced as a whole, and
an empty one (``compare: {}``) drops what the base says. Every other relative path in a recipe counts from the working
directory, like a path on the command line.
"""

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from understudy.config import RunConfig
from understudy.errors import ConfigError
from understudy.prompts import read_text

_KIND: Final = "kind"
_BASE: Final = "base"
_COMMAND_LINE: Final = "command line"
_MAX_PROBLEMS: Final = 5
_MAX_NODES: Final = 100_000  # far beyond any recipe; stops aliases of aliases before they fill the memory

Keys = tuple[str, ...]
Origins = dict[Keys, str]


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


def load_recipe(path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> RunConfig:
    """Read recipe ``path``, put ``overrides`` (dotted key, value as YAML) on top, and check the whole.

    Relative paths inside count from the working directory, only ``base`` counts from the recipe.

    Raises:
        ConfigError: something is wrong; one line for each problem, at most five, with file, key, value and
            what is expected.
    """
    data, origins = _read(Path(path), ())
    # Kinds first: a change of kind empties the section.
    for name, text in sorted(overrides, key=lambda item: not item[0].endswith(f".{_KIND}")):
        keys, spots = _descend(name.split("."))
        if not spots:
            near = near_key(name)
            hint = f"did you mean {near}?" if near else "`understudy config` lists all keys"
            raise ConfigError(f"{_COMMAND_LINE}: unknown key {name} (value {_show(text)}); {hint}")
        _override(data, keys, _override_value(keys, spots, text))
        origins[keys] = _COMMAND_LINE
    data = _settle(data, _ROOT)
    try:
        # JSON with strict types: text is no number and true is not 1, while paths and tuples still work.
        return RunConfig.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = [_problem(item, origins, path) for item in error.errors(include_url=False)]
    found = [" ".join(problem.splitlines()) for problem in found]  # a key may hold anything
    problems = list(dict.fromkeys(found))
    if (more := len(problems) - _MAX_PROBLEMS) > 0:
        problems = problems[:_MAX_PROBLEMS]
        problems[-1] += f" (and {more} more problems)"
    raise ConfigError("\n".join(problems))


def read_yaml(path: Path, what: str) -> Any:
    """Return the plain value that a YAML file holds, read as recipes are; ``what`` names it in errors.

    Raises:
        ConfigError: it is missing, or no YAML.
    """
    return _parse(read_text(path, what), f"{what} {path}", str(path))[0]


def dump(config: RunConfig) -> str:
    """Return ``config`` as YAML with every field, in the order of the models; it loads back as equal."""
    values = config.model_dump(mode="json")
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def config_fields() -> list[ConfigField]:
    """Return every field of `RunConfig`, depth first in the order of the models, unions kind by kind."""
    return list(_fields_of(RunConfig, "", "", None, {}))


def canonical_key(name: str) -> str | None:
    """Return the dotted key that ``name`` (hyphens may stand for underscores) means, or None for no key."""
    keys, spots = _descend(name.split("."))
    return ".".join(keys) if spots else None


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


# --- what may stand where -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
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
    def values(self) -> "_Spot | None":
        """What the values of a mapping with free names are, if it is one."""
        if len(self.options) == 1 and get_origin(self.options[0]) in (dict, Mapping):
            return _spot(get_args(self.options[0])[1])
        return None

    def section(self, value: object) -> type[BaseModel] | None:
        """Return the section that the mapping ``value`` is, as far as that can be told."""
        sections = self.sections
        if list(sections) == [""]:
            return sections[""]
        return sections.get(str(value.get(_KIND))) if isinstance(value, Mapping) else None


def _spot(annotation: Any, field: FieldInfo | None = None) -> _Spot:
    bounds: list[Any] = list(field.metadata) if field else []
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        bounds += [bound for item in extra for bound in getattr(item, "metadata", [item])]
    union = get_origin(annotation) in (Union, types.UnionType)
    options = get_args(annotation) if union else (annotation,)
    return _Spot(
        options=tuple(option for option in options if option is not type(None)),
        optional=type(None) in options,
        bounds=tuple(bounds),
        default=field.get_default(call_default_factory=True, validated_data={}) if field else PydanticUndefined,
        help=" ".join((field.description or "").split()) if field else "",
    )


_ROOT: Final = _Spot((RunConfig,))


def _spots(section: type[BaseModel]) -> dict[str, _Spot]:
    return {name: _spot(field.annotation, field) for name, field in section.model_fields.items()}


def _kinds(section: type[BaseModel]) -> tuple[str, ...]:
    field = section.model_fields.get(_KIND)
    return tuple(get_args(field.annotation)) if field else ("",)


_WORDS: Final[dict[Any, str]] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
}


def _type_text(spot: _Spot) -> str:
    """Say in words what ``spot`` takes."""
    sections = spot.sections
    if len(sections) > 1:
        text = f"section of kind {' or '.join(sections)}"
    elif sections:
        text = "section"
    else:
        text = " or ".join(_option_text(option) for option in spot.options)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in spot.bounds
        for name, sign in signs.items()
        if getattr(bound, name, None) is not None
    ]
    text += f" {' and '.join(limits)}" if limits else ""
    return f"{text}, or null" if spot.optional else text


def _option_text(option: Any) -> str:
    origin, arguments = get_origin(option), get_args(option)
    if origin is Literal:
        names = ", ".join(_plain(argument) for argument in arguments)
        return f"one of {names}" if len(arguments) > 1 else names
    if origin in (tuple, list) and arguments:
        item = _type_text(_spot(arguments[0]))
        example = "[1, 2]" if "whole" in item else "[1, 0.5]" if "number" in item else "[a, b]"
        return f"list of {item.replace('number', 'numbers')} like {example}"
    if origin in (dict, Mapping):
        return f"names, each with a {_type_text(_spot(arguments[1]))}"
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
    for name, spot in _spots(section).items():
        names, default = prefix + name, getattr(instance, name, spot.default)
        while (values := spot.values) is not None:  # free names: describe what stands under any of them
            spot, names, default = values, f"{names}.NAME", PydanticUndefined
        sections = spot.sections
        if len(sections) > 1:
            which = f"one of {', '.join(sections)}"
            chosen = _default_text(getattr(default, _KIND, PydanticUndefined))
            help_text = " ".join(
                f"{each}: {' '.join((model.__doc__ or '').split())}" for each, model in sections.items()
            )
            yield ConfigField(f"{names}.{_KIND}", kind, which, chosen, help_text, about)
            if (known := listed.get(tuple(sections.values()))) is not None:
                yield ConfigField(f"{names}.*", kind, f"as {known}.*", "", f"The fields of {known}.", about)
                continue
            listed[tuple(sections.values())] = names
        elif not sections:
            if name != _KIND:
                yield ConfigField(names, kind, _type_text(spot), _default_text(default), spot.help, about)
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
    return str(value) if isinstance(value, str | Path) and str(value) else _show(value)


def _descend(names: Sequence[str]) -> tuple[Keys, list[_Spot]]:
    """Follow ``names`` through every kind of section; return them as spelled there, and what they lead to.

    No spots: there is no such key.
    """
    spots, keys = [_ROOT], list[str]()
    for name in names:
        found: list[_Spot] = []
        for spot in spots:
            if spot.values is not None and name:
                found.append(spot.values)
            for section in spot.sections.values():
                inner = _spots(section)
                name = name if name in inner else _spelled(name)
                found += [inner[name]] if name in inner else []
        spots = found
        keys.append(name)
    return tuple(keys), spots


# --- reading YAML -------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars people mean: 5e-4 is a number, while 1:30, 010 and 2026-01-01 stay text."""


class _Dumper(yaml.SafeDumper):
    """Quotes whatever any reader of YAML could take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Spell everything out."""
        return True


_FLOAT: Final = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_SCALARS: Final = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:yes|no|true|false|on|off)$", re.IGNORECASE), list("yYnNtTfFoO")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
    ("merge", re.compile(r"<<$"), ["<"]),
)
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
# Unquoted, the line ends of Unicode would come back as spaces.
_Dumper.add_representer(
    str,
    lambda dumper, data: dumper.represent_scalar(
        "tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"'
    ),
)
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(item, dict | list) for item in data)
    ),
)


def _read(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    """Return what recipe ``path`` says, bases merged in and kinds named, and where each key stands."""
    if path.resolve() in [known.resolve() for known in chain]:
        circle = " -> ".join(str(known) for known in (*chain, path))
        raise ConfigError(f"recipe {chain[0]}: the chain of bases runs in a circle ({circle}); remove one of them")
    data, origins = _parse(read_text(path, "recipe"), f"recipe {path}", str(path))
    if data is None:
        raise ConfigError(f"recipe {path} is empty; write at least one key, like `name: my-run`")
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} is {_show(data)}, not keys with values; write lines like `name: my-run`")
    data = dict(data)
    base = data.pop(_BASE, None)
    if base is None:
        return _settle(data, _ROOT), origins
    where = origins[(_BASE,)]
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{where}: base is {_show(base)}; expected the path of another recipe")
    other = path.parent / base
    if not other.exists():
        raise ConfigError(f"{where}: base {_show(base)} does not exist (looked for {other}, relative to this recipe)")
    inherited, inherited_origins = _read(other, (*chain, path))
    return _settle(_merge(inherited, data), _ROOT), {**inherited_origins, **origins}


def _parse(text: str, what: str, file: str) -> tuple[Any, Origins]:
    """Return the plain value that YAML ``text`` holds and where each of its keys stands."""
    origins: Origins = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, origins
            _index(node, (), file, origins, [])
            data = loader.construct_document(node)
        finally:
            loader.dispose()
        json.dumps(data)  # a date or a set, given by a tag
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        reason = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{what}{line} is not YAML: {reason}") from None
    except yaml.reader.ReaderError as error:
        line = f" line {text.count(chr(10), 0, error.position) + 1}"
        raise ConfigError(f"{what}{line} is not YAML: {error.reason}") from None
    except (RecursionError, TypeError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _cut(str(error))
        raise ConfigError(f"{what} holds a value that no key takes: {reason}") from None
    return data, origins


def _index(node: yaml.Node, keys: Keys, file: str, origins: Origins, above: list[yaml.Node]) -> None:
    """Note the line of every key below ``node``; ConfigError for a key that is given twice or is no text."""
    here = f"{file} line {node.start_mark.line + 1}"
    if node in above or len(origins) > _MAX_NODES:
        raise ConfigError(f"{here}: {'.'.join(keys)} refers to itself or to too much; spell it out")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _index(item, (*keys, str(index)), file, origins, [*above, node])
            origins.setdefault((*keys, str(index)), f"{file} line {item.start_mark.line + 1}")
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        inner = (*keys, str(key.value))
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise ConfigError(f"{file} line {line}: key {_cut(str(key.value))} is no text; put it in quotes")
        if key.value in seen:
            first = seen[key.value]
            raise ConfigError(f"{file} line {line}: {'.'.join(inner)} is given twice, first on line {first}; keep one")
        seen[key.value] = line
        merged = key.tag.endswith("merge")
        origins.setdefault(keys if merged else inner, f"{file} line {line}")
        _index(value, keys if merged else inner, file, origins, [*above, node])


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` on top of ``base``; see the module's text for sections that change kind or are empty."""
    if _KIND in own and own[_KIND] != base.get(_KIND, own[_KIND]):
        return dict(own)
    merged = dict(base)
    for name, value in own.items():
        inherited = merged.get(name)
        if isinstance(inherited, Mapping) and value in (None, {}):
            del merged[name]
        elif isinstance(inherited, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge(inherited, value)
        else:
            merged[name] = value
    return merged


def _settle(value: Any, spot: _Spot) -> Any:
    """Return ``value`` with empty sections dropped, and with the default kind named where none is."""
    if not isinstance(value, dict):
        return value
    if (values := spot.values) is not None:
        return {name: _settle(item, values) for name, item in value.items()}
    default = getattr(spot.default, _KIND, None)
    if len(spot.sections) > 1 and _KIND not in value and default is not None:
        value = {_KIND: default, **value}
    section = spot.section(value)
    if section is None:
        return value
    spots, settled = _spots(section), dict[str, Any]()
    for name, item in value.items():
        inner = spots.get(name)
        branch = inner is not None and not inner.optional and (inner.sections or inner.values)
        if not (item is None and branch):
            settled[name] = item if inner is None else _settle(item, inner)
    return settled


# --- overrides ----------------------------------------------------------------------------------------------


def _override_value(keys: Keys, spots: Sequence[_Spot], text: str) -> Any:
    """Return the value that ``text`` on the command line means for the field ``keys``, one of ``spots``."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{_COMMAND_LINE}: the value of {'.'.join(keys)} is not UTF-8 text") from None
    for_text = any(option in (str, Path) for spot in spots for option in spot.options)
    if for_text and not text.startswith(("'", '"')):
        # Nobody quotes twice, once for the shell and once for YAML: 2024, no and a #1 are text here.
        return None if text in ("null", "~") and any(spot.optional for spot in spots) else text
    return _parse(text, f"{_COMMAND_LINE}: {'.'.join(keys)} = {_show(text)}", _COMMAND_LINE)[0]


def _override(data: dict[str, Any], keys: Keys, value: Any) -> None:
    """Set ``value`` in ``data``, making sections on the way; a new kind empties its section."""
    *above, last = keys
    for name in above:
        inner = data.get(name)
        if inner is not None and not isinstance(inner, dict):
            return  # the recipe is wrong here, and that is what the user should hear about
        data[name] = dict(inner or {})
        data = data[name]
    if last == _KIND and data.get(_KIND) != value:
        data.clear()
    data[last] = value


# --- saying what is wrong -----------------------------------------------------------------------------------


def _problem(error: Any, origins: Origins, path: str | Path) -> str:
    """Return one line about ``error``, one of pydantic's."""
    keys, spot, section = _locate(error["loc"])
    kind, value = error["type"], error["input"]
    key, where = ".".join(keys), _where(keys, origins, path)
    if kind == "extra_forbidden":
        return f"{where}: unknown key {key} (value {_show(value)}){_unknown_hint(keys, section)}"
    if kind == "missing" and spot is not None:
        about = f" ({spot.help.rstrip('.')})" if spot.help else ""
        return f"{where}: {key} is missing; expected {_type_text(spot)}{about}"
    if kind.startswith("union_tag") and spot is not None:
        kinds = list(spot.sections)
        given = value.get(_KIND) if isinstance(value, Mapping) else None
        said = f"is {_show(given)}" if given is not None else "is missing"
        where = _where((*keys, _KIND), origins, path)
        return f"{where}: {key}.{_KIND} {said}; expected one of {', '.join(kinds)}{_did_you_mean(given, kinds)}"
    if kind in ("value_error", "assertion_error") or spot is None:
        reason = " ".join(str(error["msg"]).split())
        for prefix in ("Value error, ", "Assertion failed, "):
            reason = reason.removeprefix(prefix)
        # What a validator of a whole section says names the fields; its value would be the section.
        said = "" if isinstance(value, Mapping) else f" is {_show(value)}"
        return f"{where}: {key}{said}{'; ' if said else ': ' if key else ''}{reason}"
    choices = [name for option in spot.options if get_origin(option) is Literal for name in get_args(option)]
    return f"{where}: {key} is {_show(value)}; expected {_type_text(spot)}{_did_you_mean(value, choices)}"


def _locate(loc: Sequence[int | str]) -> tuple[Keys, _Spot | None, type[BaseModel] | None]:
    """Return the keys of pydantic's location, what may stand there, and the section it lies in."""
    spot: _Spot | None = _ROOT
    section: type[BaseModel] | None = None
    keys: list[str] = []
    parts = list(loc)
    while parts and spot is not None:
        sections, values = spot.sections, spot.values
        if len(sections) > 1:  # pydantic puts the kind into the location
            section = sections.get(str(parts.pop(0)))
        elif sections:
            section = next(iter(sections.values()))
        elif values is not None:
            keys.append(str(parts.pop(0)))
            spot = values
            continue
        else:  # inside a field: an item of a list, or one type of several
            item = next((get_args(option)[0] for option in spot.options if get_origin(option) in (tuple, list)), None)
            if isinstance(parts[0], int) and item is not None:
                return (*keys, str(parts[0])), _spot(item), section
            break
        if not parts or section is None:
            break
        keys.append(str(parts.pop(0)))
        spot = _spots(section).get(keys[-1])
    return tuple(keys), spot, section


def _where(keys: Keys, origins: Origins, path: str | Path) -> str:
    """Return the file and line (or the command line) that said ``keys``, or the nearest section above."""
    for length in range(len(keys), 0, -1):
        if keys[:length] in origins:
            return origins[keys[:length]]
    return str(path)


def _unknown_hint(keys: Keys, section: type[BaseModel] | None) -> str:
    """Say which key was meant instead of ``keys``, the last of which ``section`` does not have."""
    *above, name = keys
    prefix = "".join(f"{part}." for part in above)
    known = [key for key in (section.model_fields if section else {}) if key != _KIND]
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {prefix}{near[0]}?"
    for spot in _descend(above)[1]:
        for kind, model in spot.sections.items():
            if kind and name in model.model_fields:
                return f"; only kind {kind} has it: set {prefix}{_KIND} to {kind}, or remove it"
    if elsewhere := near_key(name):
        return f"; did you mean {elsewhere}?"
    place = f"{prefix[:-1]} has" if prefix else "there are"
    return f"; {place} the keys {', '.join(known)}"


def _did_you_mean(value: object, choices: Sequence[object]) -> str:
    """Return a suggestion out of ``choices`` when the text ``value`` looks like one."""
    near = difflib.get_close_matches(value.lower(), map(str, choices), n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _show(value: object) -> str:
    """Return ``value`` on one short line, texts in quotes."""
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
