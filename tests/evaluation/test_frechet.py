"""RFD: exact on Gaussians, zero on itself, and orders damage."""

import numpy as np
import pytest

from understudy.errors import ClipError
from understudy.evaluation import frechet as module
from understudy.evaluation.frechet import FEATURES, features, frechet
from understudy.teachers.world.grammar import COLOURS, FAMILIES, scenes
from understudy.teachers.world.looks import HOUSE, render
from understudy.teachers.world.physics import Law, freedom, simulate


def world(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    choices = list(scenes(FAMILIES[:3], COLOURS[:2]))
    clips = []
    for _ in range(count):
        scene = choices[rng.integers(len(choices))]
        states = simulate(scene, Law(), rng.uniform(size=freedom(scene)), 16, 12)
        clips.append(render(states, scene, HOUSE, (48, 48)))
    return clips


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return features(world(64, seed=1))


@pytest.fixture(scope="module")
def fresh() -> list[np.ndarray]:
    return world(64, seed=2)


def test_a_set_is_at_distance_zero_from_itself(reference: np.ndarray) -> None:
    assert reference.shape == (64, FEATURES)
    assert np.isfinite(reference).all()
    assert frechet(reference, reference) == pytest.approx(0, abs=1e-6)


def test_gaussians_have_the_known_distance() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 5.0, 0.2])
    reference = rng.normal(size=(40_000, 3)) * scale
    generated = (0.5 * rng.normal(size=(40_000, 3)) + np.array([1.0, 0, 0])) * scale
    # In units of the reference: shift 1 in one coordinate, spread halved in three.
    assert frechet(generated, reference) == pytest.approx(1 + 3 * 0.25, abs=0.05)


def test_damage_is_ordered(reference: np.ndarray, fresh: list[np.ndarray]) -> None:
    rng = np.random.default_rng(3)

    def distance(damaged: list[np.ndarray]) -> float:
        return frechet(features(damaged), reference)

    def noisy(clip: np.ndarray, sigma: float) -> np.ndarray:
        return np.clip(clip + sigma * rng.normal(size=clip.shape), 0, 255).astype(np.uint8)

    floor = distance(fresh)
    noise = [distance([noisy(clip, sigma) for clip in fresh]) for sigma in (2, 8)]
    assert floor < noise[0] < noise[1]
    assert distance([clip[::-1] for clip in fresh]) > 2 * floor  # time's arrow is seen
    shuffled = distance([clip[rng.permutation(16)] for clip in fresh])
    frozen = distance([np.repeat(clip[:1], 16, axis=0) for clip in fresh])
    assert 4 * floor < shuffled < frozen


def test_features_never_change(fresh: list[np.ndarray]) -> None:
    before = features(fresh[:2])
    module._filters.cache_clear()
    assert np.array_equal(before, features(fresh[:2]))


def test_too_small_clips_are_refused() -> None:
    for shape in ((3, 48, 48, 3), (16, 48, 15, 3)):
        with pytest.raises(ClipError, match="RFD needs"):
            features([np.zeros(shape, dtype=np.uint8)])
