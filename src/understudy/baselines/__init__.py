"""Objectives by configuration: the method itself and every baseline, all run by the same loop."""

from typing import Any, Final

from understudy.baselines.gan import GAN
from understudy.baselines.input_gradient import InputGradient
from understudy.baselines.policy_gradient import PolicyGradient
from understudy.baselines.score_matching import ScoreMatching
from understudy.baselines.sft import SFT
from understudy.baselines.tilt import Tilt
from understudy.config import ObjectiveConfig, OnPolicyConfig, RunConfig, SFTConfig, TrainConfig
from understudy.students.bundle import Bundle
from understudy.training.afd import AFD, OnPolicy
from understudy.training.data import TeacherClips
from understudy.training.loop import Objective

_ON_POLICY: Final[dict[str, type[OnPolicy[Any]]]] = {
    "afd": AFD,
    "gan": GAN,
    "grpo": PolicyGradient,
    "dmd": ScoreMatching,
    "input-gradient": InputGradient,
    "tilt": Tilt,
}


def build_objective(
    objective: ObjectiveConfig, train: TrainConfig, config: RunConfig, data: TeacherClips, bundle: Bundle
) -> Objective:
    """Return the objective that ``objective`` describes, on the run's clips, start student and seed."""
    lora = config.student.lora
    if isinstance(objective, SFTConfig):
        group = config.objective.group if isinstance(config.objective, OnPolicyConfig) else objective.group
        batch = train.prompts * group
        return SFT(objective, train, data, bundle.levels, config.discriminator.rerender, batch, config.seed, lora)
    kind = _ON_POLICY[objective.kind]
    return kind(
        objective,
        train,
        config.discriminator,
        data,
        bundle.codec,
        bundle.levels,
        config.seed,
        bundle.form.fps,
        lora,
    )
