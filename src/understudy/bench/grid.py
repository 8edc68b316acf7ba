"""A grid of cells in a few processes: finished ones are kept, a killed grid goes on, a failed cell is a row."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from understudy.bench import results
from understudy.bench.cell import finished, work
from understudy.bench.plots import draw
from understudy.bench.suite import Cell, SuiteConfig
from understudy.errors import ConfigError
from understudy.reading import read_json
from understudy.run.clips import collect, collect_held_out
from understudy.training.loop import Interrupted, stop_signals

_POLL = 0.5  # seconds
_PATIENCE = 120.0  # seconds a cell gets to save and end


@dataclass(frozen=True)
class Grid:
    """A suite with its cells, and how to name the command that goes on."""

    suite: SuiteConfig
    cells: Sequence[Cell]
    left_out: Sequence[str]
    command: str

    def done(self, cell: Cell) -> bool:
        """Return whether ``cell`` has its result.

        Raises:
            ConfigError: its folder holds the result of another configuration.
        """
        path = finished(cell)
        if not path.is_file():
            return False
        try:
            result = read_json(path)
        except ValueError:
            return False
        if not isinstance(result, dict):
            return False
        if result.get("digest") != cell.digest:
            raise ConfigError(
                f"{cell.folder} holds a result of other settings: give another --out, or remove that folder"
            )
        return True

    def collect(self) -> None:
        """Ask the teachers for all clips, once and in this process, so that cells only read them."""
        seen: set[str] = set()
        for cell in self.cells:
            config = cell.config
            parts = (config.teacher, config.prompts, config.clips.store, config.clips.per_prompt, config.evaluation)
            if repr(parts) not in seen:
                seen.add(repr(parts))
                collect(config)
                collect_held_out(config)

    def run(self, workers: int, say: Callable[[str], None], expected: Callable[[Cell], float]) -> Path:
        """Do the cells that have no result, write the tables after each, and return results.md.

        Raises:
            Interrupted: SIGTERM or Ctrl-C; running cells save first, and the same command goes on.
        """
        waiting = [cell for cell in self.cells if not self.done(cell)]
        if waiting:
            say("collecting teacher clips")
            self.collect()
        running: dict[BaseProcess, tuple[Cell, float]] = {}
        factor, observed, predicted = 1.0, 0.0, 0.0
        context = multiprocessing.get_context("spawn")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with stop_signals() as stopped:
            while (waiting or running) and not stopped:
                while len(running) < workers and (cell := self._next(waiting, running)) is not None:
                    waiting.remove(cell)
                    process: BaseProcess = context.Process(target=work, args=(cell,), name=cell.name)
                    process.start()
                    running[process] = (cell, time.monotonic())
                if not running:
                    break  # what is left waits for a row that has failed
                time.sleep(_POLL)
                for ended in [p for p in running if not p.is_alive()]:
                    cell, began = running.pop(ended)
                    spent = time.monotonic() - began
                    observed, predicted = observed + spent, predicted + expected(cell)
                    factor = observed / predicted if predicted else 1.0
                    rest = sum(map(expected, waiting)) + sum(expected(c) for c, _ in running.values()) / 2
                    left = rest * factor / workers
                    say(f"{_outcome(cell, ended)} in {spent:.0f} s; {len(waiting) + len(running)} cells to go, about "
                        f"{left / 60:.0f} min")  # fmt: skip
                    self.write()
            for unfinished in running:
                unfinished.terminate()
            for unfinished in running:
                unfinished.join(_PATIENCE)
        if stopped:
            raise Interrupted(f"stopped: finished cells are kept; go on with: {self.command}", stopped[0])
        for cell in waiting:
            say(f"{cell.name}: not done, since {cell.spec.after} has no student")
        return self.write()

    def _next(self, waiting: Sequence[Cell], running: dict[BaseProcess, tuple[Cell, float]]) -> Cell | None:
        """Return the first waiting cell whose row before it, if any, is done."""
        for cell in waiting:
            ready = cell.before is None or (cell.before / "student" / "config.json").is_file()
            if ready and (cell.before is None or (cell.before / "result.json").is_file()):
                return cell
        return None

    def write(self) -> Path:
        """Write tables and plots of all results there are."""
        kept = results.read(sorted(self.suite.out.glob("*/*/seed-*/result.json")))
        found = [result for result in kept if result["row"] in self.suite.rows]  # also those of earlier calls
        head: dict[str, Any] = {
            "command": self.command,
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        }
        path = results.write(self.suite, found, self.left_out, head)
        draw(self.suite.out)
        return path


def _outcome(cell: Cell, process: BaseProcess) -> str:
    path = finished(cell)
    if not path.is_file():
        return f"{cell.name}: ended with exit status {process.exitcode} and no result (see {cell.folder / 'log.txt'})"
    error = read_json(path).get("error")
    return f"{cell.name}: {'failed: ' + error if error else 'done'}"
