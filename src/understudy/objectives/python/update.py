"""An objective of one's own."""

from understudy.errors import PluginError
from understudy.objectives.inputs import Inputs
from understudy.objectives.python.config import PythonObjectiveConfig
from understudy.plugins import guarded
from understudy.training.loop import Objective


def build(config: PythonObjectiveConfig, inputs: Inputs) -> Objective:
    """Return the objective that the class or function makes of the run's inputs and its section.

    ``inputs.on_policy(section, inputs.verdict(section), MyUpdate())`` gives one whose update alone is new; see
    ``examples/own_objective.py``.

    Raises:
        PluginError: it fails, or makes something that is no objective.
    """
    made = guarded(f"objective {config.call}", config.found(), inputs, config, **config.settings)
    absent = [name for name in ("steps", "initial_state", "prepare", "step") if not hasattr(made, name)]
    if absent:
        raise PluginError(f"objective {config.call} made a {type(made).__name__}, which has no {', '.join(absent)}")
    objective: Objective = made
    return objective
