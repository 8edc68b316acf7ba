"""The objective that a recipe describes."""

from understudy.objectives.config import ObjectiveSection
from understudy.objectives.inputs import Inputs
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.recipes.kinds import OBJECTIVES
from understudy.students.bundle import Bundle
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective


def build_objective(
    section: ObjectiveSection, train: TrainConfig, config: RunConfig, data: TeacherClips, bundle: Bundle
) -> Objective:
    """Return the objective that ``section`` describes, on the run's clips, start student and seed.

    Raises:
        ConfigError: its settings do not fit the run.
    """
    objective: Objective = OBJECTIVES.build(section, Inputs(config, train, data, bundle))
    return objective
