"""Verbs on whole runs: collect, train, evaluate, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import RecipeVerb, Verb, check_run_folder

if TYPE_CHECKING:
    from understudy.config import RunConfig


@dataclass(frozen=True)
class Collect(RecipeVerb):
    """Ask the teacher for every training clip that is not in the clip store yet."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy collect recipes/quickstart.yaml",
        "understudy collect my.yaml --clips.per_prompt 4",
    )
    would: ClassVar[str] = "ask the teacher for the clips that are missing, and for nothing else"

    def act(self, config: "RunConfig") -> int:
        """Collect, and say what came of it."""
        from understudy import experiment

        report = experiment.collect(config)
        print(
            f"{report.settled} of {report.total} clips settled in {config.clips.store}: {report.done} collected, "
            f"{report.skipped} there already, {report.rejected} refused by the teacher"
        )
        return 0


@dataclass(frozen=True)
class Train(RecipeVerb):
    """Do a whole run: collect, train every arm, evaluate, report; run it again to go on after a stop."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy train recipes/quickstart.yaml",
        "understudy train my.yaml --train.steps 200 --out runs/longer",
        "understudy train my.yaml --objective.kind sft --dry-run",
    )
    would: ClassVar[str] = "collect what is missing, train every arm, evaluate and report"

    def act(self, config: "RunConfig") -> int:
        """Run, and say where the result is."""
        from understudy import experiment

        folder = experiment.run(config)
        print(f"done: {folder}; look at {folder / 'report.html'}, or: understudy generate {folder} PROMPT")
        return 0


@dataclass(frozen=True)
class Evaluate(Verb):
    """Measure the students of a finished run again and rewrite its summary.json."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""

    examples: ClassVar[tuple[str, ...]] = ("understudy evaluate runs/quickstart",)

    def do(self) -> int:
        """Measure again."""
        check_run_folder(self.run)
        from understudy import experiment

        experiment.evaluate(self.run)
        print(f"{self.run / 'summary.json'} is new; `understudy report {self.run}` puts it into the report")
        return 0


@dataclass(frozen=True)
class Report(Verb):
    """Write the report.html of a run again, finished or not."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""

    examples: ClassVar[tuple[str, ...]] = ("understudy report runs/quickstart",)

    def do(self) -> int:
        """Write it again."""
        check_run_folder(self.run)
        from understudy.evaluation.report import write_report

        print(write_report(self.run))
        return 0
