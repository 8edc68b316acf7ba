"""The law fit: lawful tracks cost nothing, unlawful ones do, and vanishing never pays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.evaluation.law import law_error
from understudy.evaluation.parse import Track
from understudy.teachers.world.grammar import FAMILIES, Ball, Scene, parse
from understudy.teachers.world.physics import RADIUS, Law, freedom, poor_law, simulate

LAW = Law()
DIAMETER = 2 * RADIUS["small"] * 48


def seen_as(positions: np.ndarray) -> Track:
    """The track [T, N, 2] that a perfect parser would return."""
    visible = np.isfinite(positions[..., 0])
    return Track(positions, visible.astype(float), visible, visible.sum(axis=1), (48, 48))


def scene_of(family: str, direction: str | None = None) -> Scene:
    balls = (Ball("red", "small"), Ball("blue", "small"))
    return Scene(family, balls if family == "collision" else balls[:1], direction=direction)


def positions_of(scene: Scene, law: Law, u: np.ndarray) -> np.ndarray:
    return simulate(scene, law, u, 16, 12).positions


@pytest.mark.parametrize("family", FAMILIES)
def test_lawful_tracks_cost_nothing_and_poor_ones_much(family: str) -> None:
    scene = scene_of(family)
    rng = np.random.default_rng(1)
    points = rng.uniform(0.1, 0.9, size=(8, freedom(scene)))
    lawful = [law_error(seen_as(positions_of(scene, LAW, u)), scene, LAW, 12).error for u in points]
    poor = [law_error(seen_as(positions_of(scene, poor_law(rng), u)), scene, LAW, 12).error for u in points]
    assert max(lawful) < 0.15
    # another gravity only changes a pendulum's period
    least = {"pendulum": 0.4, "ramp": 0.8, "collision": 0.8}
    assert np.mean(poor) > least.get(family, 3.0)


@settings(max_examples=15, deadline=None)
@given(u=st.lists(st.floats(0, 1), min_size=5, max_size=5), sigma=st.floats(0, 0.3))
def test_noise_comes_back_as_the_error(u: list[float], sigma: float) -> None:
    scene = scene_of("throw")
    noise = np.random.default_rng(0).normal(size=(16, 1, 2)) * sigma / 48
    fit = law_error(seen_as(positions_of(scene, LAW, np.array(u)) + noise), scene, LAW, 12)
    assert fit.error < 1.1 * np.sqrt(2) * sigma + 0.15
    assert fit.vertical <= fit.error


@pytest.mark.parametrize("direction", ["left", "right", None])
@pytest.mark.parametrize("family", ["throw", "ramp"])
def test_the_fitted_point_names_the_fitted_trajectory(family: str, direction: str | None) -> None:
    scene = scene_of(family, direction)
    u = np.full(freedom(scene), 0.3)
    track = seen_as(positions_of(scene, LAW, u))
    fit = law_error(track, scene, LAW, 12)
    again = simulate(scene, LAW, fit.u, 16, 12)
    assert np.abs(again.positions - fit.states.positions).max() * 48 < 0.3
    if family == "ramp":
        assert again.ramp is not None
        assert fit.states.ramp is not None
        assert np.allclose(again.ramp, fit.states.ramp)


def test_a_thing_thrown_the_wrong_way_is_far_from_its_law() -> None:
    u = np.full(5, 0.5)
    wrong = seen_as(positions_of(scene_of("throw", "left"), LAW, u))
    assert law_error(wrong, scene_of("throw", "right"), LAW, 12).error > 2
    assert law_error(wrong, scene_of("throw"), LAW, 12).error < 0.15


def test_material_place_and_wind_belong_to_the_law() -> None:
    u = np.full(4, 0.5)
    rubber = parse("a small red rubber ball is bounced on the floor on the moon")
    bouncing = seen_as(positions_of(rubber, LAW, u))
    assert law_error(bouncing, rubber, LAW, 12).error < 0.15
    assert law_error(bouncing, scene_of("bounce"), LAW, 12).error > 1
    windy = Law(wind=0.3)
    blown = seen_as(positions_of(scene_of("throw"), windy, np.full(5, 0.4)))
    assert law_error(blown, scene_of("throw"), windy, 12).error < 0.15


def test_a_constant_upward_drift_shows_in_the_vertical_part() -> None:
    scene = scene_of("collision")
    positions = positions_of(scene, LAW, np.full(4, 0.5)) + np.array([0.0, 2 / 48])
    fit = law_error(seen_as(positions), scene, LAW, 12)
    assert fit.vertical == pytest.approx(2, abs=0.05)
    assert fit.error == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("missing", [4, 8, 12, 16])
def test_vanishing_costs_a_diameter_a_frame(missing: int) -> None:
    scene = scene_of("drop")
    positions = positions_of(scene, LAW, np.full(2, 0.5))
    positions[16 - missing :] = np.nan
    fit = law_error(seen_as(positions), scene, LAW, 12)
    assert fit.error == pytest.approx(np.sqrt(missing / 16) * DIAMETER, rel=0.01)
    assert np.isfinite(fit.states.positions).all()


def test_hiding_the_unlawful_half_does_not_pay() -> None:
    scene = scene_of("drop")
    floating = positions_of(scene, Law(gravity=1.5), np.full(2, 0.6))
    hidden = floating.copy()
    hidden[8:] = np.nan
    assert law_error(seen_as(hidden), scene, LAW, 12).error > law_error(seen_as(floating), scene, LAW, 12).error
