"""How much of a look has leaked."""

import math

import numpy as np
import pytest

from understudy.evaluation.leak import look_leak, mean_picture


def test_leak_is_the_share_of_the_way() -> None:
    start, teacher = np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.5)
    for share in (0.0, 0.25, 1.0):
        assert look_leak(share * teacher, start, teacher) == pytest.approx(share)


def test_what_is_across_the_way_does_not_count() -> None:
    teacher = np.zeros((2, 2, 3))
    teacher[0] = 0.5
    aside = np.zeros((2, 2, 3))
    aside[1] = 0.3
    assert look_leak(aside, np.zeros((2, 2, 3)), teacher) == 0


def test_equal_looks_say_nothing() -> None:
    assert math.isnan(look_leak(np.ones((2, 2, 3)), np.zeros((2, 2, 3)), np.zeros((2, 2, 3))))


def test_the_mean_picture_is_over_all_but_the_picture() -> None:
    clips = np.arange(2 * 3 * 2 * 2 * 3).reshape(2, 3, 2, 2, 3)
    assert np.allclose(mean_picture(clips), clips.mean(axis=(0, 1)))
