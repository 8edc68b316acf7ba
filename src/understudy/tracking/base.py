"""What a tracker is, and the feed from a run to its trackers.

A run's ``metrics.jsonl`` is the record; a tracker shows it. The feed reads that file, from its beginning in every sitting,
so that a tracker misses nothing that a kill kept from it. A tracker that fails is dropped and said: it never ends a run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from understudy.reading import line_object, read_json


class Tracker(Protocol):
    """Somewhere to show figures and clips. A curve is named ``arm`` and ``name``; its points come in order of ``step``."""

    def begin(self, arm: str) -> None:
        """Take all of ``arm`` anew: points follow that may have been given before."""
        ...

    def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
        """Take one point of several curves; every value is finite."""
        ...

    def clip(self, arm: str, step: int, name: str, path: Path, caption: str) -> None:
        """Take a clip, an mp4 file of the run folder."""
        ...

    def close(self) -> None:
        """Write out what is still held."""
        ...


class Tracking:
    """The feed from one run to its trackers.

    Args:
        out: the run folder.
        trackers: by name.
        say: is told in a line that a tracker failed.
    """

    def __init__(self, out: Path, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._out, self._trackers, self._say = out, dict(trackers), say
        self._read: dict[str, int] = {}  # bytes of metrics.jsonl that were looked through, by arm
        self._steps: dict[str, int] = {}

    def add(self, name: str, tracker: Tracker) -> None:
        """Take another tracker, before the first step."""
        self._trackers[name] = tracker

    def step(self, arm: str) -> None:
        """Feed the steps of ``arm`` that were recorded since the last call; the first call of a sitting feeds them all."""
        if not self._trackers:
            return
        if arm not in self._read:
            self._read[arm] = 0
            self._each(lambda tracker: tracker.begin(arm))
        for row in self._rows(arm):
            step = self._steps[arm] = row.pop("step")
            self._give(arm, step, row)

    def evaluation(self, arm: str, metrics: Mapping[str, Any]) -> None:
        """Feed a finished evaluation, the mean of each metric, and the clips that the report plays."""
        if not self._trackers:
            return
        self.step(arm)
        step = self._steps.get(arm, 0)
        self._give(arm, step, {f"evaluation/{name}": _mean(metric) for name, metric in metrics.items()})
        for path, prompt in self._clips(arm):
            self._each(partial(_clip, arm, step, path, prompt))

    def close(self) -> None:
        """Close all trackers."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _give(self, arm: str, step: int, values: Mapping[str, Any]) -> None:
        figures = finite(values)
        self._each(lambda tracker: tracker.figures(arm, step, figures))

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        """Tell every tracker; one that cannot take it is dropped."""
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # somebody else's code: whatever it throws, the run goes on
                del self._trackers[name]
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                self._say(
                    f"tracker {name} failed and is left out from here on ({why}); the run's own files have it all"
                )

    def _rows(self, arm: str) -> list[dict[str, Any]]:
        """Return the steps of ``arm`` that metrics.jsonl has gained since the last call."""
        path = self._out / "metrics.jsonl"
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(self._read[arm])
            whole = file.read().rpartition(b"\n")[0]
        self._read[arm] += len(whole)
        rows = []
        for line in whole.split(b"\n"):
            row = line_object(line)  # none: torn by a kill, or empty
            if row is not None and row.get("arm") == arm and "phase" in row and isinstance(row.get("step"), int):
                rows.append(row)
        return rows

    def _clips(self, arm: str) -> Sequence[tuple[Path, str]]:
        """Return (file, prompt) of the clips of ``arm`` that the report plays."""
        folder = self._out / "clips"
        try:
            prompts = read_json(folder / "prompts.json")
        except (OSError, ValueError):
            prompts = {}
        files = sorted((folder / arm).glob("*.mp4"))
        return [(file, str(prompts.get(file.stem.rpartition("-")[0], file.stem))) for file in files]


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures among ``values``: finite numbers, no truth values."""
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name: float(v) for name, v in numbers.items() if not isinstance(v, bool) and math.isfinite(v)}


def _clip(arm: str, step: int, path: Path, prompt: str, tracker: Tracker) -> None:
    tracker.clip(arm, step, path.stem, path, prompt)


def _mean(metric: Any) -> Any:
    return metric.get("mean") if isinstance(metric, Mapping) else metric
