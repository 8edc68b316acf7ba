"""Objectives by configuration: the method itself and every baseline, all run by the same loop."""

from understudy.baselines.sft import SFT
from understudy.config import AFDConfig, ObjectiveConfig, RunConfig, TrainConfig
from understudy.students.bundle import Bundle
from understudy.training.afd import AFD
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective


def build_objective(
    objective: ObjectiveConfig, train: TrainConfig, config: RunConfig, data: TeacherClips, bundle: Bundle
) -> Objective:
    """Return the objective that ``objective`` describes, on the run's clips, start student and seed."""
    group = config.objective.group if isinstance(config.objective, AFDConfig) else 8
    if isinstance(objective, AFDConfig):
        return AFD(
            objective, train, config.discriminator, data, bundle.codec, bundle.levels, config.seed, bundle.form.fps
        )
    batch = train.prompts * group
    return SFT(objective, train, data, bundle.levels, config.discriminator.rerender, batch, config.seed)
