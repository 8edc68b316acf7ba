"""What every verb of the command line is: a frozen dataclass whose fields tyro reads and whose ``do`` does it.

A verb lives in a module of this package and is listed in ``understudy.commands.VERBS``. Whatever can take long to import
is imported inside ``do``, so that help and usage errors come at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.errors import ConfigError, UnderstudyError, shown

if TYPE_CHECKING:
    from understudy.recipes.config import RunConfig


class UsageError(Exception):
    """The command line itself is wrong (exit status 2)."""


@dataclass(frozen=True)
class Verb:
    """One verb; the first line of its docstring is its help."""

    examples: ClassVar[tuple[str, ...]] = ()

    def do(self) -> int:
        """Do it and return the exit status."""
        raise NotImplementedError


@dataclass(frozen=True)
class RecipeVerb(Verb):
    """A verb that takes a recipe, and every field of it as an option."""

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """The recipe: a YAML file, a folder that holds a recipe.yaml, or the name of one that ships (`understudy recipes`)."""
    print_config: bool = False
    """Print the whole configuration as YAML, defaults and overrides included, and stop."""
    dry_run: bool = False
    """Say what would be done and stop; nothing is written."""

    would: ClassVar[str] = ""
    """What it would do, for --dry-run."""

    def do_with(self, config: "RunConfig") -> int:
        """Do it with the recipe and the overrides read."""
        if self.print_config:
            from understudy.recipes.files import dump

            print(dump(config), end="")
            return 0
        return self.dry(config) if self.dry_run else self.act(config)

    def act(self, config: "RunConfig") -> int:
        """Do it and return the exit status."""
        raise NotImplementedError

    def dry(self, config: "RunConfig") -> int:
        """Say what would be done."""
        from understudy.doctor import missing_clips
        from understudy.run.describe import describe

        for line in describe(config):
            say(line)
        try:
            missing, wanted = missing_clips(config)
            print(f"missing clips: {missing} of {wanted}")
        except UnderstudyError:
            if config.student.preset is None:
                raise
            print("missing clips: unknown until the teacher and the prompts are ready")
        print(f"dry run: nothing was written; without --dry-run this would {self.would}")
        return 0


def say(text: object) -> None:
    """Print ``text`` line by line; what came from outside in it cannot steer the terminal."""
    for line in str(text).split("\n"):
        print(shown(line), flush=True)


def check_run_folder(run: Path) -> None:
    """Raise ConfigError unless ``run`` is a folder."""
    if not run.is_dir():
        what = "is not a folder" if run.exists() else "does not exist"
        raise ConfigError(f"run folder {run} {what}; give the folder that `understudy train` wrote (its `out`)")
