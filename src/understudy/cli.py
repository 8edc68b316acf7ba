"""The command line: one dataclass per verb, parsed by tyro; the work itself is done elsewhere.

Whatever can take long to import is imported by the verb that needs it, so that help and usage errors come at once.

Exit status: 0 done, 1 an error (one ``error:`` line for each problem), 2 wrong usage, 128 + n stopped by signal n (130
for Ctrl-C), 141 nobody reads the output any more. ``UNDERSTUDY_TRACEBACK=1`` shows tracebacks.
"""

import difflib
import errno
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from understudy import __version__
from understudy.errors import ConfigError, UnderstudyError

if TYPE_CHECKING:
    from understudy.config import RunConfig

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

Overrides = Sequence[tuple[str, str]]


class _UsageError(Exception):
    """The command line itself is wrong (exit status 2)."""


@dataclass(frozen=True)
class _RecipeVerb:
    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """The recipe, a YAML file."""
    print_config: bool = False
    """Print the whole configuration as YAML, defaults and overrides included, and stop."""
    dry_run: bool = False
    """Say what would be done and stop; nothing is written."""


@dataclass(frozen=True)
class Collect(_RecipeVerb):
    """Ask the teacher for every training clip that is not in the clip store yet."""


@dataclass(frozen=True)
class Train(_RecipeVerb):
    """Do a whole run: collect, train every arm, evaluate, report; run it again to go on after a stop."""


@dataclass(frozen=True)
class Generate:
    """Write clips of your prompts as mp4 files."""

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """The student: a run folder, a bundle folder, or builtin:frame or builtin:block."""
    prompt: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT...", help_behavior_hint="")] = ()
    """What to show; quote each prompt and keep them together."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """More prompts from a file: .txt (one a line), .jsonl or .csv (field prompt)."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("generated")
    """Folder for the clips; made when missing."""
    seconds: Annotated[float | None, arg(metavar="S", help_behavior_hint="(default: as in training)")] = None
    """Length of each clip; longer than in training needs a window."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the first clip of each prompt; the same seed gives the same clip."""
    per_prompt: Annotated[int, arg(metavar="N")] = 1
    """Clips per prompt, with consecutive seeds."""
    window: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the student's own)")] = None
    """Latent frames that are attended to, own block and sink included; 0: all."""
    sink: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the student's own)")] = None
    """First latent frames that stay visible when the window rolls."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """Torch threads; 0 leaves the choice to torch."""


@dataclass(frozen=True)
class Evaluate:
    """Measure the students of a finished run again and rewrite its summary.json."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""


@dataclass(frozen=True)
class Report:
    """Write the report.html of a run again, finished or not."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""


@dataclass(frozen=True)
class Doctor:
    """Check this machine, or one recipe, clip store, bundle or run folder; exit status 1 when something fails."""

    target: Annotated[Positional[str | None], arg(metavar="[TARGET]", help_behavior_hint="")] = None
    """What to check; nothing: the machine and the installation."""


@dataclass(frozen=True)
class Config:
    """List every field of a recipe with what it takes, its default and what it is for."""


VERBS: Final[dict[str, type]] = {
    "collect": Collect,
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
    "report": Report,
    "doctor": Doctor,
    "config": Config,
}

_EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "collect": ("understudy collect recipes/quickstart.yaml", "understudy collect my.yaml --clips.per_prompt 4"),
    "train": (
        "understudy train recipes/quickstart.yaml",
        "understudy train my.yaml --train.steps 200 --out runs/longer",
        "understudy train my.yaml --objective.kind sft --dry-run",
    ),
    "generate": (
        'understudy generate builtin:frame "a small red ball is dropped"',
        'understudy generate runs/quickstart "a large blue ball is thrown to the left" --per-prompt 4 --out clips',
        "understudy generate runs/quickstart --prompts prompts.txt --seconds 10 --window 8 --sink 1",
    ),
    "evaluate": ("understudy evaluate runs/quickstart",),
    "report": ("understudy report runs/quickstart",),
    "doctor": ("understudy doctor", "understudy doctor recipes/quickstart.yaml", "understudy doctor runs/quickstart"),
    "config": ("understudy config", "understudy train my.yaml --print-config > resolved.yaml"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (None: that of the process) and return the exit status."""
    warnings.formatwarning = lambda message, *_: f"note: {message}\n"  # for a user, not with a line of our source
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told apart and handled
    except SystemExit as stop:  # tyro's, after --help
        status = stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        _forget_stdout()
        return 128 + 13
    except BaseException as error:
        status = _tell(error)
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
    name, rest = args[0], args[1:]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}"
        raise _UsageError(f"there is no verb {name!r}; {hint}")
    overrides: Overrides = ()
    if issubclass(VERBS[name], _RecipeVerb):
        rest, overrides = _split(name, rest)
    verb = _parse(name, rest)
    if isinstance(verb, _RecipeVerb):
        return _with_recipe(verb, overrides)
    handlers: dict[type, Callable[[Any], int]] = {
        Generate: _generate,
        Evaluate: _evaluate,
        Report: _report,
        Doctor: _doctor,
        Config: _config,
    }
    return handlers[type(verb)](verb)


# --- reading the command line -----------------------------------------------------------------------------------


def _first_line(verb: type) -> str:
    return (verb.__doc__ or "").splitlines()[0]


def _parse(name: str, args: Sequence[str]) -> Any:
    """Return the verb that ``args`` describe; --help prints and exits."""
    verb = VERBS[name]
    parts = [_first_line(verb)]
    if issubclass(verb, _RecipeVerb):
        parts.append(_ON_FIELDS)
    parts.append("\n".join(["Examples:", *(f"  {line}" for line in _EXAMPLES[name])]))
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
        raise _UsageError(f"{_flat(caught.getvalue())}; see `{_PROGRAM} {name} --help`") from None


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
    from understudy.recipes import canonical_key, near_key

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
            raise _UsageError(f"there is no option --{option}; {hint}")
        if not equals:
            if not left or left[0].startswith("--"):
                raise _UsageError(f"--{option} needs a value, as in --{option} VALUE or --{option}=VALUE")
            value = left.pop(0)
        overrides.append((key, value))
    return rest, overrides


# --- the verbs --------------------------------------------------------------------------------------------------


def _with_recipe(verb: _RecipeVerb, overrides: Overrides) -> int:
    from understudy.recipes import dump, load_recipe

    config = load_recipe(verb.recipe, overrides)
    if verb.print_config:
        print(dump(config), end="")
        return 0
    return _collect(config, verb.dry_run) if isinstance(verb, Collect) else _train(config, verb.dry_run)


def _collect(config: "RunConfig", dry_run: bool) -> int:
    from understudy import experiment

    if dry_run:
        return _dry_run(config, "ask the teacher for the clips that are missing, and for nothing else")
    report = experiment.collect(config)
    print(
        f"{report.settled} of {report.total} clips settled in {config.clips.store}: {report.done} collected, "
        f"{report.skipped} there already, {report.rejected} refused by the teacher"
    )
    return 0


def _train(config: "RunConfig", dry_run: bool) -> int:
    from understudy import experiment

    if dry_run:
        return _dry_run(config, "collect what is missing, train every arm, evaluate and report")
    folder = experiment.run(config)
    print(f"done: {folder}; look at {folder / 'report.html'}, or: understudy generate {folder} PROMPT")
    return 0


def _dry_run(config: "RunConfig", what: str) -> int:
    from understudy import experiment
    from understudy.doctor import missing_clips

    for line in experiment.describe(config):
        print(line)
    missing, wanted = missing_clips(config)
    print(f"missing clips: {missing} of {wanted}")
    print(f"dry run: nothing was written; without --dry-run this would {what}")
    return 0


def _generate(verb: Generate) -> int:
    from understudy.prompts import normalise, read_prompts

    limits = {"seed": (verb.seed, 0), "per-prompt": (verb.per_prompt, 1), "threads": (verb.threads, 0)}
    optional = {"window": (verb.window, 0), "sink": (verb.sink, 0)}
    for name, (value, least) in {**limits, **optional}.items():
        if value is not None and not least <= value < 2**31:
            raise _UsageError(f"--{name} is {value}; give a whole number of at least {least} and below 2^31")
    if verb.seconds is not None and not 0 < verb.seconds < float("inf"):
        raise _UsageError(f"--seconds is {verb.seconds}; give a number above 0")
    prompts = [normalise(text) for text in verb.prompt]
    if "" in prompts:
        raise _UsageError("a prompt is empty; say what to show, in quotes")
    prompts += read_prompts(verb.prompts) if verb.prompts is not None else []
    if not prompts:
        raise _UsageError('there are no prompts; give them after the bundle, in quotes, or with "--prompts FILE"')
    from understudy import experiment

    paths = experiment.generate(
        bundle=verb.bundle,
        prompts=list(dict.fromkeys(prompts)),
        out=verb.out,
        seconds=verb.seconds,
        seed=verb.seed,
        per_prompt=verb.per_prompt,
        window=verb.window,
        sink=verb.sink,
        threads=verb.threads,
    )
    for path in paths:
        print(path)
    return 0


def _evaluate(verb: Evaluate) -> int:
    _check_folder(verb.run)
    from understudy import experiment

    experiment.evaluate(verb.run)
    print(f"{verb.run / 'summary.json'} is new; `understudy report {verb.run}` puts it into the report")
    return 0


def _report(verb: Report) -> int:
    _check_folder(verb.run)
    from understudy.evaluation.report import write_report

    print(write_report(verb.run))
    return 0


def _check_folder(run: Path) -> None:
    if not run.is_dir():
        what = "is not a folder" if run.exists() else "does not exist"
        raise ConfigError(f"run folder {run} {what}; give the folder that `understudy train` wrote (its `out`)")


def _doctor(verb: Doctor) -> int:
    from understudy.doctor import diagnose

    findings = diagnose(verb.target)
    for finding in findings:
        print(finding)
    return 1 if any(finding.ok is False for finding in findings) else 0


def _config(verb: Config) -> int:
    from understudy.recipes import config_fields

    print("Every field of a recipe. In YAML: keys below keys; on the command line: --train.steps 10")
    section = ""
    for field in config_fields():
        if field.section != section:
            section = field.section
            print(f"\n{section}")
        kind = f"[kind {field.kind}] " if field.kind else ""
        default = f" (default {field.default})" if field.default not in ("", "required") else ""
        required = " (required)" if field.default == "required" else ""
        print(f"  {field.key}: {kind}{field.type}{default}{required}")
        if field.help:
            print(f"      {field.help}")
    return 0


# --- saying what went wrong -------------------------------------------------------------------------------------


def _tell(error: BaseException) -> int:
    """Print ``error`` as one line for each problem and return the exit status."""
    if os.environ.get("UNDERSTUDY_TRACEBACK") == "1":
        traceback.print_exception(error)
    signal = getattr(error, "signal", None)
    if isinstance(error, KeyboardInterrupt):
        word, text, status = "stopped", str(error) or "run the same command again to go on", 130
    elif isinstance(error, UnderstudyError) and isinstance(signal, int):
        word, text, status = "stopped", str(error), 128 + signal
    else:
        word, text, status = "error", _reason(error), 2 if isinstance(error, _UsageError) else 1
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    with suppress(OSError, ValueError):  # nobody may be listening
        for line in lines:
            print(f"{word}: {line.removeprefix(word).lstrip(': ')}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _forget_stdout()
    return status


def _reason(error: BaseException) -> str:
    """Return what to tell a user about ``error``."""
    if isinstance(error, UnderstudyError | _UsageError):
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
    if isinstance(error, MemoryError):
        return "out of memory; use fewer prompts, a smaller group or more train.accumulate"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected {what}; please report it with what UNDERSTUDY_TRACEBACK=1 shows"


def _forget_stdout() -> None:
    """Keep the interpreter from flushing, at its end, what cannot be written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
