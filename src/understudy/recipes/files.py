"""Recipes: runs described in YAML, with inheritance and command-line overrides, read into one `RunConfig`.

A recipe holds the keys of `RunConfig`. ``base: other.yaml`` (relative to the recipe itself, or the name of one that ships)
inherits another recipe: its keys are merged under the recipe's own, section by section. A section whose ``kind`` changes is
replaced as a whole, and an empty one (``compare: {}``) drops what the base says. Every other relative path in a recipe
counts from the working directory, like a path on the command line.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from understudy.errors import ConfigError
from understudy.recipes.config import RunConfig
from understudy.recipes.shipped import locate
from understudy.recipes.tree import KIND, ROOT, Keys, Spot, cut, descend, near_key, show, spot_of, spots_of, type_text
from understudy.tables import read_text

_BASE: Final = "base"
_COMMAND_LINE: Final = "command line"
_MAX_PROBLEMS: Final = 5
_MAX_BASES: Final = 32
_MAX_BYTES: Final = 256 << 10  # forty times `understudy config`; a parser in Python takes seconds for more
_MAX_NODES: Final = 100_000  # far beyond any recipe; stops aliases of aliases before they fill the memory

Origins = dict[Keys, str]


def load_recipe(
    path: str | Path | None, overrides: Sequence[tuple[str, str]] = (), said_on: str = _COMMAND_LINE
) -> RunConfig:
    """Read recipe ``path`` (None: all defaults), put ``overrides`` (dotted key, value as YAML) on top, and check the whole.

    ``path`` is a file, a folder with a recipe.yaml, or the name of a recipe that ships (see `recipes.shipped`). Relative
    paths inside count from the working directory, only ``base`` counts from the recipe. ``said_on`` says in errors where
    the overrides were given.

    Raises:
        ConfigError: something is wrong; one line for each problem, at most five, with file, key, value and
            what is expected.
    """
    path = path if path is None else locate(path)
    data, origins = ({}, {}) if path is None else _read(path, ())
    # Kinds first: a change of kind empties the section.
    for name, text in sorted(overrides, key=lambda item: not item[0].endswith(f".{KIND}")):
        keys, spots = descend(name.split("."))
        if not spots:
            near = near_key(name)
            hint = f"did you mean {near}?" if near else "`understudy config` lists all keys"
            raise ConfigError(f"{said_on}: unknown key {name} (value {show(text)}); {hint}")
        _override(data, keys, _override_value(keys, spots, text))
        origins[keys] = said_on
    data = _settle(data, ROOT)
    try:
        # JSON with strict types: text is no number and true is not 1, while paths and tuples still work.
        return RunConfig.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = [_problem(item, origins, path or said_on) for item in error.errors(include_url=False)]
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
    return _parse(read_text(path, what, _MAX_BYTES), f"{what} {path}", str(path))[0]


def dump(config: RunConfig) -> str:
    """Return ``config`` as YAML with every field, in the order of the models; it loads back as equal."""
    values = config.model_dump(mode="json")
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


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
    if len(chain) > _MAX_BASES:
        raise ConfigError(f"recipe {chain[0]}: more than {_MAX_BASES} bases follow one another; put some into one file")
    data, origins = _parse(read_text(path, "recipe", _MAX_BYTES), f"recipe {path}", str(path))
    if data is None:
        raise ConfigError(f"recipe {path} is empty; write at least one key, like `name: my-run`")
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} is {show(data)}, not keys with values; write lines like `name: my-run`")
    data = dict(data)
    base = data.pop(_BASE, None)
    if base is None:
        return _settle(data, ROOT), origins
    where = origins[(_BASE,)]
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{where}: base is {show(base)}; expected the path of another recipe")
    other = path.parent / base
    if not other.exists():
        with suppress(ConfigError):
            other = locate(base)
    if not other.exists():
        raise ConfigError(f"{where}: base {show(base)} does not exist (looked for {other}, relative to this recipe)")
    inherited, inherited_origins = _read(other, (*chain, path))
    return _settle(_merge(inherited, data), ROOT), {**inherited_origins, **origins}


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
        reason = "nested too deeply" if isinstance(error, RecursionError) else cut(str(error))
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
            raise ConfigError(f"{file} line {line}: key {cut(str(key.value))} is no text; put it in quotes")
        if key.value in seen:
            first = seen[key.value]
            raise ConfigError(f"{file} line {line}: {'.'.join(inner)} is given twice, first on line {first}; keep one")
        seen[key.value] = line
        merged = key.tag.endswith("merge")
        origins.setdefault(keys if merged else inner, f"{file} line {line}")
        _index(value, keys if merged else inner, file, origins, [*above, node])


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` on top of ``base``; see the module's text for sections that change kind or are empty."""
    if KIND in own and own[KIND] != base.get(KIND, own[KIND]):
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


def _settle(value: Any, spot: Spot) -> Any:
    """Return ``value`` with empty sections dropped, and with the default kind named where none is."""
    if not isinstance(value, dict):
        return value
    if (values := spot.values) is not None:
        return {name: _settle(item, values) for name, item in value.items()}
    default = getattr(spot.default, KIND, None)
    if len(spot.sections) > 1 and KIND not in value and default is not None:
        value = {KIND: default, **value}
    section = spot.section(value)
    if section is None:
        return value
    spots, settled = spots_of(section), dict[str, Any]()
    for name, item in value.items():
        inner = spots.get(name)
        branch = inner is not None and not inner.optional and (inner.sections or inner.values)
        if not (item is None and branch):
            settled[name] = item if inner is None else _settle(item, inner)
    return settled


# --- overrides ----------------------------------------------------------------------------------------------


def _override_value(keys: Keys, spots: Sequence[Spot], text: str) -> Any:
    """Return the value that ``text`` on the command line means for the field ``keys``, one of ``spots``."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{_COMMAND_LINE}: the value of {'.'.join(keys)} is not UTF-8 text") from None
    for_text = any(option in (str, Path) for spot in spots for option in spot.options)
    if for_text and not text.startswith(("'", '"')):
        # Nobody quotes twice, once for the shell and once for YAML: 2024, no and a #1 are text here.
        return None if text in ("null", "~") and any(spot.optional for spot in spots) else text
    return _parse(text, f"{_COMMAND_LINE}: {'.'.join(keys)} = {show(text)}", _COMMAND_LINE)[0]


def _override(data: dict[str, Any], keys: Keys, value: Any) -> None:
    """Set ``value`` in ``data``, making sections on the way; a new kind empties its section."""
    *above, last = keys
    for name in above:
        inner = data.get(name)
        if inner is not None and not isinstance(inner, dict):
            return  # the recipe is wrong here, and that is what the user should hear about
        data[name] = dict(inner or {})
        data = data[name]
    if last == KIND and data.get(KIND) != value:
        data.clear()
    data[last] = value


# --- saying what is wrong -----------------------------------------------------------------------------------


def _problem(error: Any, origins: Origins, path: str | Path) -> str:
    """Return one line about ``error``, one of pydantic's."""
    keys, spot, section = _locate(error["loc"])
    kind, value = error["type"], error["input"]
    key, where = ".".join(keys), _where(keys, origins, path)
    if kind == "json_invalid":
        return f"{path}: a text in it is none that UTF-8 has; write plain characters"
    if kind == "extra_forbidden":
        return f"{where}: unknown key {key} (value {show(value)}){_unknown_hint(keys, section)}"
    if kind == "missing" and spot is not None:
        about = f" ({spot.help.rstrip('.')})" if spot.help else ""
        return f"{where}: {key} is missing; expected {type_text(spot)}{about}"
    if kind.startswith("union_tag") and spot is not None:
        kinds = list(spot.sections)
        given = value.get(KIND) if isinstance(value, Mapping) else None
        said = f"is {show(given)}" if given is not None else "is missing"
        where = _where((*keys, KIND), origins, path)
        return f"{where}: {key}.{KIND} {said}; expected one of {', '.join(kinds)}{_did_you_mean(given, kinds)}"
    if kind in ("value_error", "assertion_error") or spot is None:
        reason = " ".join(str(error["msg"]).split())
        for prefix in ("Value error, ", "Assertion failed, "):
            reason = reason.removeprefix(prefix)
        # What a validator of a whole section says names the fields; its value would be the section.
        said = "" if isinstance(value, Mapping) else f" is {show(value)}"
        return f"{where}: {key}{said}{'; ' if said else ': ' if key else ''}{reason}"
    choices = [name for option in spot.options if get_origin(option) is Literal for name in get_args(option)]
    bound = kind.startswith(("less_than", "greater_than"))
    return f"{where}: {key} is {show(value)}; expected {type_text(spot, bound)}{_did_you_mean(value, choices)}"


def _locate(loc: Sequence[int | str]) -> tuple[Keys, Spot | None, type[BaseModel] | None]:
    """Return the keys of pydantic's location, what may stand there, and the section it lies in."""
    spot: Spot | None = ROOT
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
                return (*keys, str(parts[0])), spot_of(item), section
            break
        if not parts or section is None:
            break
        keys.append(str(parts.pop(0)))
        spot = spots_of(section).get(keys[-1])
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
    known = [key for key in (section.model_fields if section else {}) if key != KIND]
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {prefix}{near[0]}?"
    spots = descend(above)[1]
    kinds = [kind for spot in spots for kind, model in spot.sections.items() if kind and name in model.model_fields]
    if kinds:
        have = f"only kind {kinds[0]} has" if len(kinds) == 1 else f"only kinds {', '.join(kinds)} have"
        return f"; {have} it: set {prefix}{KIND} to {' or '.join(kinds)}, or remove it"
    if elsewhere := near_key(name):
        return f"; did you mean {elsewhere}?"
    place = f"{prefix[:-1]} has" if prefix else "there are"
    return f"; {place} the keys {', '.join(known)}"


def _did_you_mean(value: object, choices: Sequence[object]) -> str:
    """Return a suggestion out of ``choices`` when the text ``value`` looks like one."""
    near = difflib.get_close_matches(value.lower(), map(str, choices), n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""
