"""The section of an objective from Python."""

from typing import ClassVar, Literal

from understudy.objectives.config import ScoredConfig
from understudy.plugins import PythonSection


class PythonObjectiveConfig(PythonSection, ScoredConfig):
    """A class or function that is called with (inputs, section, **settings) and returns an objective."""

    kind: Literal["python"] = "python"

    what: ClassVar[str] = "objective"

    @property
    def arm(self) -> str:
        """Name of a run's own arm: that of the class or function."""
        return self.call.rpartition(":")[2].rpartition(".")[2].lower()
