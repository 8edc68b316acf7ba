"""The direction of learning: every objective climbs a verdict that is known, and descends when it is turned round."""

from typing import Any

import pytest
from torch import Tensor

from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.config import ObjectiveSection
from understudy.objectives.dmd.config import ScoreMatchingConfig
from understudy.objectives.experimental.input_gradient.config import InputGradientConfig
from understudy.objectives.experimental.tilt.config import TiltConfig
from understudy.objectives.gan.config import GANConfig
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.objectives.sft.config import SFTConfig

GROUP = {"group": 4}
JUDGED: dict[str, ObjectiveSection] = {
    "afd": AFDConfig(**GROUP),
    "afd-positive": AFDConfig(**GROUP, branches="positive"),
    "afd-rectified": AFDConfig(**GROUP, branches="rectified"),
    "afd-by-block": AFDConfig(**GROUP, context="noisy", levels="continuous", by_block=True, space="velocity"),
    "gan": GANConfig(**GROUP),
    "grpo": PolicyGradientConfig(**GROUP),
    "input-gradient": InputGradientConfig(**GROUP),
    "tilt": TiltConfig(**GROUP),
}
TAUGHT: dict[str, ObjectiveSection] = {
    "sft": SFTConfig(**GROUP),
    "sft-rerendered": SFTConfig(**GROUP, rerender=True, levels="continuous"),
    "dmd": ScoreMatchingConfig(**GROUP, rerender=False, score_warmup=6, score_lr=1e-1),
    "dmd-rerendered": ScoreMatchingConfig(**GROUP, score_warmup=6, score_lr=1e-1),
}
TRAIN: dict[str, Any] = {"steps": 10, "prompts": 4, "lr": 5e-2, "decay": 0.0}
STILL = {"warmup": 0, "steps": 0, "redraws": 1}  # a verdict that is known has nothing to learn
LEARNS = {
    "warmup": 12,
    "pool": 16,
    "steps": 1,
    "redraws": 1,
    "size": 8,
    "lr": 3e-3,
    "noise": 0.1,
    "penalty": 0.3,
    "ceiling": 1.0,
}


@pytest.mark.parametrize("kind", JUDGED)
def test_ten_updates_climb_a_known_verdict_and_descend_from_its_opposite(lab, kind) -> None:
    def risen(sign: int) -> tuple[float, float]:
        """Return how far the student and its average, which is shipped, have climbed."""

        def judge(clips: Tensor) -> Tensor:
            return sign * clips.flatten(1).mean(1)

        run = lab(JUDGED[kind], TRAIN, STILL).judged_by(judge)
        run.advance(10)
        return run.risen(), run.risen(policy="ema")

    for up, down in zip(risen(1), risen(-1), strict=True):
        if kind == "afd-positive":  # nothing in it leaves the bad ones: it follows the good ones more than it drifts
            assert up > down + 0.5
        else:
            assert up > 0.4
            assert down < -0.4


@pytest.mark.parametrize("kind", TAUGHT)
def test_ten_updates_go_to_where_the_teacher_s_clips_are(lab, clips, kind) -> None:
    for sign in (1, -1):
        run = lab(TAUGHT[kind], TRAIN, STILL, clips(2.0 * sign))
        run.advance(run.objective.steps)
        assert sign * run.risen() > 2


@pytest.mark.parametrize("loss", ["paired", "unpaired"])
def test_a_discriminator_learns_to_tell_two_sets_apart_and_leads_the_student_from_one_to_the_other(
    lab, clips, loss
) -> None:
    for sign in (1, -1) if loss == "paired" else (1,):
        run = lab(AFDConfig(**GROUP), TRAIN, {**LEARNS, "loss": loss}, clips(2.0 * sign), seed=2)
        before = run.told_apart()
        warm = run.advance(run.objective.warmup)
        assert run.told_apart() > 0.9 > before
        assert warm[-1].values["pair_accuracy"] > 0.9
        assert warm[-1].values["margin"] > 0
        assert warm[-1].values["d_loss"] < warm[0].values["d_loss"]
        run.advance(10)
        assert sign * run.risen() > 0.4


def test_a_discriminator_goes_on_learning_beside_the_student(lab, clips) -> None:
    run = lab(AFDConfig(**GROUP), TRAIN, {**LEARNS, "warmup": 0, "steps": 2}, clips(2.0))
    run.advance(8)
    assert run.told_apart() > 0.9
