"""Verbs on whole runs: collect, train, evaluate, report."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import RecipeVerb, Verb, check_run_folder, say
from understudy.errors import ConfigError

if TYPE_CHECKING:
    from understudy.recipes.config import RunConfig


@dataclass(frozen=True)
class Collect(RecipeVerb):
    """Ask the teacher for every training clip that is not in the clip store yet."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy collect quickstart",
        "understudy collect my.yaml --per-prompt 4 --budget 20",
    )
    would: ClassVar[str] = "ask the teacher for the clips that are missing, and for nothing else"

    per_prompt: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: clips.per_prompt)")] = None
    """Clips per prompt, each with a seed of its own."""
    yes: bool = False
    """Do not ask before the first request to a teacher that may cost money."""
    budget: Annotated[float | None, arg(metavar="MONEY", help_behavior_hint="(default: collection.budget)")] = None
    """Stop before the teacher has cost more than this in this store."""
    budget_clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Stop before the teacher was given more jobs than this in this store."""
    permission: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """What permits you to train on the outputs where the terms forbid it or are unknown; goes into every record."""
    held_out: bool = False
    """Collect the clips for evaluation instead of those to train on."""
    retry_unsure: bool = False
    """Ask again where nobody knows whether the teacher has the job, and where it has but its clip could not be had; it may
    then make, and charge for, two."""
    keep_refusals: bool = False
    """Record every refusal of a prompt, also where several prompts in a row are refused in the same words, which otherwise
    stops the collection with none of them recorded."""
    active: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="(default: all prompts alike)")] = None
    """Spend the budget on the prompts where the discriminator of this finished run finds its student furthest from the
    teacher. Not shown to beat the default (benchmarks/results/active.md)."""

    def act(self, config: "RunConfig") -> int:
        """Collect, and say what came of it."""
        from understudy.run.clips import build_teacher, collect, forewarning, remarks
        from understudy.run.remarks import intake_notes

        given = {"budget": self.budget, "budget_clips": self.budget_clips, "permission": self.permission}
        changed = {name: value for name, value in given.items() if value is not None}
        if changed:
            section = config.collection.model_copy(update=changed)
            config = config.model_copy(update={"collection": section})
        if self.per_prompt is not None:
            clips = type(config.clips).model_validate({**config.clips.model_dump(), "per_prompt": self.per_prompt})
            config = config.model_copy(update={"clips": clips})
        if config.teacher.outside:
            teacher = build_teacher(config)
            say(f"terms of {teacher.name}: {teacher.terms}")
        for line in intake_notes(config):
            say(f"note: {line}")
        first = self._furthest(config)
        for line in forewarning(config):
            say(f"warning: {line}")
        report = collect(config, None, self._approve, self.held_out, self.retry_unsure, first, self.keep_refusals)
        say(
            f"{report.settled} of {report.total} clips settled in {config.clips.store}: {report.done} collected, "
            f"{report.skipped} there already, {report.rejected} refused by the teacher"
        )
        if report.rejected:
            say(f"`understudy store requeue {config.clips.store}` takes refusals back")
        if report.unusable:
            say(f"skipped {report.unusable} of {report.total} files that cannot be read:")
        for note in report.notes:
            say(f"  {note}")
        for remark in remarks(config, self.held_out):
            say(f"{remark.what}: {remark.text}")
        if report.currency:
            say(f"spent in this store: {report.spent:.2f} {report.currency}")
        if report.unfunded:
            say(f"the budget is used up: {report.unfunded} clips were not asked for")
        return 0

    def _furthest(self, config: "RunConfig") -> list[str]:
        """Return the prompts to spend the budget on, or nothing."""
        if self.active is None:
            return []
        if self.held_out or (config.collection.budget is None and config.collection.budget_clips is None):
            raise ConfigError(
                "--active chooses what a budget is spent on: give --budget or --budget-clips, no --held-out"
            )
        from understudy.run.active import ranked_prompts

        ranked = ranked_prompts(config, self.active)
        say(f"{len(ranked)} prompts ranked; furthest from the teacher: {'; '.join(ranked[:3])}")
        return ranked

    def _approve(self, estimate: object) -> None:
        """Show what it may cost and let the user decide."""
        say(estimate)
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise ConfigError("nothing was asked yet: give --yes to go on at this price")
        if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ConfigError("nothing was asked")


@dataclass(frozen=True)
class Train(RecipeVerb):
    """Do a whole run: collect, train every arm, evaluate, report; run it again to go on after a stop."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy train quickstart",
        "understudy train my.yaml --train.steps 200 --out runs/longer",
        "understudy train my.yaml --objective.kind sft --dry-run",
    )
    would: ClassVar[str] = "collect what is missing, train every arm, evaluate and report"

    def act(self, config: "RunConfig") -> int:
        """Run, and say where the result is."""
        from understudy.run.main import run

        folder = run(config)
        say(f"done: {folder}; look at {folder / 'report.html'}, or: understudy generate {folder} PROMPT")
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
        from understudy.run.main import evaluate

        evaluate(self.run)
        say(f"{self.run / 'summary.json'} is new; `understudy report {self.run}` puts it into the report")
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
        from understudy.run.lock import holding

        with holding(self.run, make=False):
            say(write_report(self.run))
        return 0
