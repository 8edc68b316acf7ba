"""Events of a run for one's own logging: a function is a tracker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something that a run tells.

    Attributes:
        kind: begin (an arm's points follow from its first step), figures, or clip.
        arm: of the run. step: of that arm.
        values: figures by name; every one is finite.
        clip: name, file and caption of a clip.
    """

    kind: Literal["begin", "figures", "clip"]
    arm: str
    step: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    clip: tuple[str, Path, str] | None = None


class EventTracker:
    """Tells a function of everything that a tracker is told; see ``Tracker``."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell

    def begin(self, arm: str) -> None:
        """See ``Tracker``."""
        self._tell(Event("begin", arm))

    def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._tell(Event("figures", arm, step, values))

    def clip(self, arm: str, step: int, name: str, path: Path, caption: str) -> None:
        """See ``Tracker``."""
        self._tell(Event("clip", arm, step, clip=(name, path, caption)))

    def close(self) -> None:
        """Nothing is held."""
