"""The verb bench: a grid of rows, settings and seeds, and its table."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb, say


@dataclass(frozen=True)
class Bench(Verb):
    """Run a suite of rows, settings and seeds and write one table with intervals; run it again to go on after a stop."""

    suite: Annotated[Positional[Path], arg(metavar="SUITE")]
    """The suite: a YAML file, or the name of one that ships, as `understudy recipes` lists them."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the suite's own)")] = None
    """Folder of the results and of all cells."""
    workers: Annotated[int, arg(metavar="N")] = 2
    """Processes at a time, one thread each."""
    rows: Annotated[str, arg(metavar="ROW,ROW", help_behavior_hint="(default: all)")] = ""
    """Only these rows, with commas between; rows they begin with have to be done or among them."""
    settings: Annotated[str, arg(metavar="NAME,NAME", help_behavior_hint="(default: all)")] = ""
    """Only these settings, with commas between."""
    seeds: Annotated[str, arg(metavar="N,N", help_behavior_hint="(default: the suite's own)")] = ""
    """These seeds instead of the suite's, with commas between."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop; nothing is written."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy bench small",
        "understudy bench main --dry-run",
        "understudy bench main --rows start,sft,afd --seeds 0,1",
    )

    def do(self) -> int:
        """Estimate, run what is missing, and say where the table is."""
        if not 1 <= self.workers <= 64:
            raise UsageError(f"--workers is {self.workers}; give a whole number from 1 to 64")
        from understudy.bench.estimate import calibrate, lines, seconds, wall
        from understudy.bench.grid import Grid
        from understudy.bench.suite import cells, load_suite
        from understudy.run.lock import holding

        suite = load_suite(self.suite)
        if self.out is not None:
            suite = suite.model_copy(update={"out": self.out})
        chosen = tuple(self._number(text) for text in self.seeds.split(",")) if self.seeds else ()
        rows = self._chosen("rows", self.rows, list(suite.rows))
        settings = self._chosen("settings", self.settings, list(suite.settings or {"all": {}}))
        found, left_out = cells(suite, self.suite, chosen)
        found = [cell for cell in found if cell.row in rows and cell.setting in settings]
        if not found:
            raise UsageError(f"no cell of {self.suite} is left; {'; '.join(left_out)}")
        suite = suite.model_copy(update={"seeds": chosen or suite.seeds})  # for the head of the table
        grid = Grid(suite, found, left_out, self._command())
        missing = [cell for cell in found if not grid.done(cell)]
        unit = calibrate(found[0].config)
        minutes = wall(missing, unit, self.workers) / 60
        say(f"{suite.name}: {len(found)} cells, {len(missing)} to do, about {minutes:.0f} min on {self.workers} cores")
        for line in left_out:
            say(f"left out: {line}")
        if self.dry_run:
            for line in lines(missing, unit):
                say(f"  {line}")
            say("dry run: nothing was written")
            return 0
        with holding(suite.out):
            say(grid.run(self.workers, say, lambda cell: seconds(cell, unit)))
        return 0

    def _command(self) -> str:
        """Return this call as one would type it, to go on with and to stand over the table."""
        options = ("out", self.out), ("rows", self.rows), ("settings", self.settings), ("seeds", self.seeds)
        words = ["understudy", "bench", str(self.suite)]
        words += [word for name, value in options if value for word in (f"--{name}", str(value))]
        return shlex.join(words)

    def _chosen(self, option: str, wanted: str, there: list[str]) -> list[str]:
        """Return the names that an option asks for, all if it is empty.

        Raises:
            UsageError: one of them is not there.
        """
        names = wanted.split(",") if wanted else there
        for name in names:
            if name not in there:
                raise UsageError(f"--{option} has {name!r}; {self.suite} has: {', '.join(there)}")
        return names

    def _number(self, text: str) -> int:
        if not text.strip().isdigit():
            raise UsageError(f"--seeds has {text!r}; give whole numbers with commas between, as 0,1,2")
        return int(text)
