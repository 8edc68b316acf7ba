"""The command line: reads it into one of the verbs of ``commands``, does that, and says what went wrong.

Exit status: 0 done, 1 an error (one ``error:`` line for each problem), 2 wrong usage, 3 a teacher takes no further jobs, 4 a
collection has ended and jobs failed, are left or unsure, 128 + n stopped by signal n (130 for Ctrl-C), 141 nobody reads the
output any more. ``UNDERSTUDY_TRACEBACK=1`` shows tracebacks.
"""

import difflib
import errno
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import fields
from typing import Annotated, Any, Final, Union

import tyro
from tyro.conf import subcommand

from understudy import __version__
from understudy.commands import VERBS
from understudy.commands.base import RecipeVerb, UsageError
from understudy.errors import UnderstudyError, shown
from understudy.run.stopping import terminable

_PROGRAM: Final = "understudy"
_ABOUT: Final = """Distil any video generator that you can only watch into a causal video model that you own.

A run is described by a recipe (YAML). The usual way: doctor, train, generate.

  understudy VERB --help    help on one verb, with examples
  understudy --version      the version
  UNDERSTUDY_TRACEBACK=1    in the environment: show where in the code an error arose"""
_ON_FIELDS: Final = """Every field of the recipe can be set here as well, as --train.steps 10 or --train.steps=10; what
is given here wins over the recipe. `understudy config` lists all fields."""

# What tyro says about its own types and help texts, and what matters of it to a user.
_PLAINER: Final = (
    (r"^error parsing (\S+): .*?'([^']*)'\]?\.?$", r"\1 cannot be '\2'"),
    (r"^missing from .*?: (\S+) .*$", r"\1 is missing"),
    (r" Perhaps you meant: (--\S+).*$", r"; did you mean \1?"),
)

_NO_MEMORY: Final = ("can't allocate memory", "out of memory", "alloc_cpu.cpp")  # what torch says of it

Overrides = Sequence[tuple[str, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (None: that of the process) and return the exit status."""
    warnings.formatwarning = lambda message, *_: (
        f"note: {shown(message)}\n"
    )  # for a user, not with a line of our source
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that is not of this encoding is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with terminable() as signals:
        try:
            status = _dispatch(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told apart and handled
        except SystemExit as stop:  # tyro's, after --help
            status = stop.code if isinstance(stop.code, int) else 0
        except BrokenPipeError:
            _forget_stdout()
            return 128 + 13
        except BaseException as error:
            status = _tell(error, signals)
    return status


def _dispatch(args: list[str]) -> int:
    """Do what ``args`` say."""
    if args and args[0] in ("--version", "-V"):
        print(f"{_PROGRAM} {__version__}")
        return 0
    if not args or args[0] in ("--help", "-h", "help"):
        choices = tuple(
            Annotated[verb, subcommand(name, description=_first_line(verb))] for name, verb in VERBS.items()
        )
        tyro.cli(Union[choices], prog=_PROGRAM, description=_ABOUT, args=["--help"])  # type: ignore[call-overload] # noqa: UP007
    name, rest = _verb_name(args)
    overrides: Overrides = ()
    if issubclass(VERBS[name], RecipeVerb):
        rest, overrides = _split(name, rest)
    verb = _parse(name, rest)
    if isinstance(verb, RecipeVerb):
        from understudy.plugins import named
        from understudy.recipes.files import load_recipe
        from understudy.recipes.own import own_parts

        config = load_recipe(verb.recipe, overrides)
        with named(own_parts(config)):
            return verb.do_with(config)
    status: int = verb.do()
    return status


# --- reading the command line -----------------------------------------------------------------------------------


def _verb_name(args: Sequence[str]) -> tuple[str, list[str]]:
    """Split ``args`` into the name of a verb, of one word or two (``store list``), and the rest."""
    pair = " ".join(args[:2])
    if pair in VERBS:
        return pair, list(args[2:])
    if args[0] in VERBS:
        return args[0], list(args[1:])
    seconds = [name.split()[1] for name in VERBS if name.split()[0] == args[0]]
    if seconds:
        raise UsageError(f"`{args[0]}` needs one of {', '.join(seconds)} after it")
    near = difflib.get_close_matches(args[0], VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
    raise UsageError(f"there is no verb {args[0]!r}; {hint}")


def _first_line(verb: type) -> str:
    return (verb.__doc__ or "").splitlines()[0]


def _parse(name: str, args: Sequence[str]) -> Any:
    """Return the verb that ``args`` describe; --help prints and exits."""
    verb = VERBS[name]
    parts = [_first_line(verb)]
    if issubclass(verb, RecipeVerb):
        parts.append(_ON_FIELDS)
    parts.append("\n".join(["Examples:", *(f"  {line}" for line in verb.examples)]))
    caught = io.StringIO()
    try:
        with redirect_stderr(caught):
            return tyro.cli(
                verb,
                prog=f"{_PROGRAM} {name}",
                description="\n\n".join(parts),
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_flat(caught.getvalue())}; see `{_PROGRAM} {name} --help`") from None


def _flat(box: str) -> str:
    """Return what tyro put into a box, as one line without the help texts below it."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]:  # the first is the title
        text = line.strip().strip("│|╭╮╰╯+").strip()
        if text.startswith(("For full helptext", "Argument helptext", "Got errors")):
            break
        if text.strip("─-"):  # no rule
            lines.append(text)
    text = " ".join(" ".join(lines).split()) or "the command line is not understood"
    text = text[0].lower() + text[1:]
    for pattern, plain in _PLAINER:
        text = re.sub(pattern, plain, text)
    return text


def _split(name: str, args: Sequence[str]) -> tuple[list[str], Overrides]:
    """Take the config fields (``--section.field VALUE``) out of ``args``; return the rest and them."""
    from understudy.recipes.tree import canonical_key, near_key

    flags = [field.name.replace("_", "-") for field in fields(VERBS[name]) if field.name != "recipe"]
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    left = list(args)
    while left:
        token = left.pop(0)
        if not token.startswith("--") or token == "--":
            rest.append(token)
            continue
        option, equals, value = token[2:].partition("=")
        if option.replace("_", "-") in (*flags, "help"):
            rest.append(token)
            continue
        key = canonical_key(option)
        if key is None:
            near = near_key(option, [*flags, "help"])
            hint = f"did you mean --{near}?" if near else "`understudy config` lists all fields"
            raise UsageError(f"there is no option --{option}; {hint}")
        if not equals:
            if not left or left[0].startswith("--"):
                raise UsageError(f"--{option} needs a value, as in --{option} VALUE or --{option}=VALUE")
            value = left.pop(0)
        overrides.append((key, value))
    return rest, overrides


# --- saying what went wrong -------------------------------------------------------------------------------------


def _tell(error: BaseException, signals: Sequence[int] = ()) -> int:
    """Print ``error`` as one line for each problem and return the exit status; ``signals`` came before it."""
    if os.environ.get("UNDERSTUDY_TRACEBACK") == "1":
        traceback.print_exception(error)
    signal = getattr(error, "signal", None)
    if isinstance(error, KeyboardInterrupt):
        word, text = "stopped", str(error) or "run the same command again to go on"
        status = 128 + (signal if isinstance(signal, int) else [2, *signals][-1])
    elif isinstance(error, UnderstudyError) and isinstance(signal, int):
        word, text, status = "stopped", str(error), 128 + signal
    else:
        word, text = "error", _reason(error)
        status = 2 if isinstance(error, UsageError) else getattr(error, "exit_status", 1)
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    with suppress(OSError, ValueError):  # nobody may be listening
        for line in lines:
            print(f"{word}: {shown(line.removeprefix(word).lstrip(': '))}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _forget_stdout()
    return status


def _reason(error: BaseException) -> str:
    """Return what to tell a user about ``error``."""
    if isinstance(error, UnderstudyError | UsageError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        advice = {
            errno.ENOSPC: "; free some space and run the same command again",
            errno.EDQUOT: "; free some space and run the same command again",
            errno.EACCES: "; choose a place you may write to and read from",
            errno.EROFS: "; choose a place you may write to",
        }
        return f"{where}{(error.strerror or str(error)).lower()}{advice.get(error.errno or 0, '')}"
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in _NO_MEMORY):
        return "out of memory; use fewer prompts, a smaller group or more train.accumulate"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected {what}; please report it with what UNDERSTUDY_TRACEBACK=1 shows"


def _forget_stdout() -> None:
    """Keep the interpreter from flushing, at its end, what cannot be written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
