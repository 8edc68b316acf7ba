"""An objective of one's own."""

from dataclasses import dataclass
from typing import Any

from understudy.errors import PluginError
from understudy.objectives.inputs import Inputs
from understudy.objectives.python.config import PythonObjectiveConfig
from understudy.plugins import guarded
from understudy.students.base import StudentModule
from understudy.training.loop import Objective
from understudy.training.state import StepReport, TrainState


@dataclass(frozen=True)
class OwnObjective:
    """The user's objective, whose answers are looked at."""

    inner: Any
    label: str

    @property
    def steps(self) -> int:
        """See ``Objective``."""
        return int(self.inner.steps)

    def initial_state(self, student: StudentModule) -> TrainState:
        """See ``Objective``."""
        state = self.inner.initial_state(student)
        if not isinstance(state, TrainState):
            raise PluginError(f"{self.label}: initial_state returned {type(state).__name__}, not a TrainState")
        absent = [name for name in ("student", "ema") if name not in state.modules]
        if absent:
            raise PluginError(
                f"{self.label}: its state has no module {' and no '.join(map(repr, absent))}; understudy.new_state makes one"
            )
        return state

    def prepare(self, state: TrainState) -> dict[str, float]:
        """See ``Objective``; nothing counts as no probe."""
        return dict(self.inner.prepare(state) or {})

    def step(self, state: TrainState) -> StepReport:
        """See ``Objective``."""
        report = self.inner.step(state)
        if not isinstance(report, StepReport):
            raise PluginError(f"{self.label}: step returned {type(report).__name__}, not a StepReport")
        return report


def build(config: PythonObjectiveConfig, inputs: Inputs) -> Objective:
    """Return the objective that the class or function makes of the run's inputs and its section.

    ``inputs.on_policy(section, inputs.verdict(section), MyUpdate())`` gives one whose update alone is new; see
    ``examples/own_objective.py``.

    Raises:
        PluginError: it fails, or makes something that is no objective.
    """
    label = f"objective {config.call}"
    made = guarded(label, config.found(), inputs, config, **config.settings)
    absent = [name for name in ("steps", "initial_state", "prepare", "step") if not hasattr(made, name)]
    if absent:
        raise PluginError(f"{label} made a {type(made).__name__}, which has no {', '.join(absent)}")
    return OwnObjective(made, label)
