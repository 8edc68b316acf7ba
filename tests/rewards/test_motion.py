"""The reward for motion, as a recipe names it."""

import numpy as np
import pytest

from understudy.recipes.files import load_recipe
from understudy.rewards.build import build_reward
from understudy.video.clips import Clip


def scored(clips: list[Clip], **fields: str) -> list[float]:
    changes = [("rewards.move.kind", "motion"), *((f"rewards.move.{key}", value) for key, value in fields.items())]
    return list(build_reward(load_recipe(None, changes).rewards["move"])(clips, [""] * len(clips)))


def test_motion_is_the_mean_change_from_frame_to_frame() -> None:
    still = Clip(np.full((3, 4, 4, 3), 90, np.uint8), 12.0)
    one = Clip(still.frames[:1], 12.0)
    moving = Clip(np.array([0, 10, 4], np.uint8)[:, None, None, None] + np.zeros((3, 4, 4, 3), np.uint8), 12.0)
    assert scored([still, one, moving]) == [0.0, 0.0, 8.0]
    assert scored([still, moving], wanted="5") == [-5.0, -3.0]
    wild = Clip(np.array([0, 255], np.uint8)[:, None, None, None] + np.zeros((2, 4, 4, 3), np.uint8), 12.0)
    assert scored([wild]) == [pytest.approx(255.0)]
