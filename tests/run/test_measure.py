"""What students are measured against: the teacher's clips, and its floor by others of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.evaluation.frechet import features
from understudy.recipes.config import EvaluationConfig, RunConfig
from understudy.run import measure
from understudy.students.bundle import Bundle
from understudy.video.clips import Clip, ClipForm

PROMPTS = ("a cat plays", "rain on a window")  # unknown to the world: clips are kept as they are


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Clip]]:
    rng = np.random.default_rng(0)

    def drawn() -> NDArray[np.uint8]:
        return rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)

    found = [(prompt, Clip(drawn(), 12.0)) for prompt in PROMPTS for _ in range(5)]
    monkeypatch.setattr(measure, "collect_held_out", lambda config, form: found)
    return found


def test_the_floor_is_measured_by_clips_that_are_not_in_the_reference(pairs: list[tuple[str, Clip]]) -> None:
    config = RunConfig(evaluation=EvaluationConfig(prompts=2, rollouts=2, reference=3, floor=2))
    bundle = Bundle(None, None, (1.0,), ClipForm(16, 16, 12.0, 8), "test")  # type: ignore[arg-type]
    made = measure.evaluator(config, bundle)
    for number, prompt in enumerate(PROMPTS):
        floor = features(clip.frames for clip in made.teacher.clips[number])
        reference = made.reference.features[prompt]
        assert (len(floor), len(reference)) == (2, 3)
        every = features(clip.frames for known, clip in pairs if known == prompt)
        both = np.concatenate([floor, reference])
        assert np.abs(both[:, None] - every[None]).max(2).min(0).max() < 1e-9  # together they are all clips
        assert np.abs(floor[:, None] - reference[None]).max(2).min() > 1e-3  # none is on both sides
