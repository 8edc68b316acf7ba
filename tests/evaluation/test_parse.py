"""The parser against clips whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.evaluation.parse import Track, track
from understudy.teachers.world.grammar import COLOURS, FAMILIES, SIZES, Ball, Scene
from understudy.teachers.world.looks import HOUSE, LOOKS, render
from understudy.teachers.world.physics import RADIUS, Law, States, freedom, simulate
from understudy.video.clips import Clip, decode_mp4, encode_mp4, resample

SIZE = (48, 48)


def scene_of(family: str, colour: int = 0, size: str = "small") -> Scene:
    count = 2 if family == "collision" else 1
    return Scene(family, tuple(Ball(COLOURS[(colour + 2 * n) % 6], size) for n in range(count)))


def lawful(scene: Scene, rng: np.random.Generator, frames: int = 16, fps: float = 12.0) -> States:
    u = rng.uniform(0.1, 0.9, size=freedom(scene))
    if scene.family == "pendulum":
        u[1] = 0.3 + 0.4 * u[1]  # well away from the walls
    return simulate(scene, Law(), u, frames, fps)


def still(places: list[tuple[float, float]], size: str = "small") -> States:
    return States(np.array([places]), np.full(len(places), RADIUS[size]))


def distances(seen: Track, positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm((seen.centres - positions) * 48, axis=-1)


def blurred(frames: np.ndarray, times: int) -> np.ndarray:
    image = frames.astype(float)
    for _ in range(times):
        for axis in (1, 2):
            image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("colour", [0, 1, 4])
def test_house_clips_are_read_to_a_fraction_of_a_pixel(family: str, colour: int) -> None:
    rng = np.random.default_rng(colour)
    scene = scene_of(family, colour, SIZES[colour % 2])
    states = lawful(scene, rng)
    seen = track(render(states, scene, HOUSE, SIZE), scene)
    assert seen.visible.all()
    assert distances(seen, states.positions).max() < 0.15
    assert np.abs(seen.mass - 1).max() < 0.1
    assert (seen.objects == len(scene.balls)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_film_clips_are_read_through_mp4_and_resampling(family: str) -> None:
    rng = np.random.default_rng(7)
    scene = scene_of(family, colour=3)
    states = lawful(scene, rng, frames=32, fps=24)
    raw = Clip(render(states, scene, LOOKS["film"], (64, 64), rng), 24)
    clip = resample(decode_mp4(encode_mp4(raw)), 12, 16, SIZE)
    seen = track(clip.frames, scene)
    assert seen.visible.all()
    assert distances(seen, states.positions[::2]).max() < 0.3
    assert (seen.objects == len(scene.balls)).all()


@settings(max_examples=30, deadline=None)
@given(
    x=st.floats(0.14, 0.86),
    y=st.floats(0.24, 0.86),
    colour=st.sampled_from(COLOURS),
    size=st.sampled_from(SIZES),
    look=st.sampled_from(["house", "film"]),
)
def test_any_ball_anywhere(x: float, y: float, colour: str, size: str, look: str) -> None:
    scene = Scene("drop", (Ball(colour, size),))
    frames = render(still([(x, y)], size), scene, LOOKS[look], SIZE, np.random.default_rng(0))
    limit = 1.0 if look == "film" and min(x, y) > 0.7 else 0.3  # the watermark may hide a part
    assert distances(track(frames, scene), np.array([[[x, y]]])).max() < limit


@pytest.mark.parametrize("place", [(0.02, 0.5), (0.99, 0.6), (0.5, 0.97), (0.01, 0.98)])
def test_a_ball_cut_by_the_edge_keeps_its_centre(place: tuple[float, float]) -> None:
    scene = scene_of("drop", size="large")
    seen = track(render(still([place], "large"), scene, HOUSE, SIZE), scene)
    assert distances(seen, np.array([[place]])).max() < 0.5
    assert seen.mass[0, 0] < 0.8


def test_a_half_hidden_ball_keeps_its_centre() -> None:
    scene = scene_of("collision", size="large")
    places = [(0.4, 0.5), (0.5, 0.55)]  # the second is drawn over the first
    seen = track(render(still(places, "large"), scene, HOUSE, SIZE), scene)
    assert distances(seen, np.array([places])).max() < 0.5
    assert seen.mass[0, 0] < 0.8 < seen.mass[0, 1]


def test_an_empty_room_has_no_ball() -> None:
    scene = scene_of("collision")
    seen = track(render(still([(9.0, 9.0), (9.0, 9.0)]), scene, HOUSE, SIZE), scene)
    assert not seen.visible.any()
    assert np.isnan(seen.centres).all()
    assert (seen.mass == 0).all()
    assert (seen.objects == 0).all()


def test_a_ball_seen_twice_is_counted_twice() -> None:
    one, two = scene_of("drop"), Scene("collision", (Ball("red", "small"), Ball("red", "small")))
    frames = render(still([(0.3, 0.5), (0.7, 0.5)]), two, HOUSE, SIZE)
    assert track(frames, one).objects.tolist() == [2]


def test_a_ball_of_another_colour_is_an_object_but_not_the_ball() -> None:
    scene = scene_of("drop")
    other = replace(scene, balls=(Ball("green", "small"),))
    seen = track(render(still([(0.5, 0.5)]), other, HOUSE, SIZE), scene)
    assert not seen.visible.any()
    assert seen.objects.tolist() == [1]


def test_blur_and_fading_cost_little() -> None:
    rng = np.random.default_rng(3)
    scene = scene_of("throw", colour=4)
    states = lawful(scene, rng)
    frames = render(states, scene, HOUSE, SIZE)
    room = render(States(states.positions + 9, states.radii), scene, HOUSE, SIZE)
    faded = (0.5 * frames + 0.5 * room).astype(np.uint8)
    for damaged in (blurred(frames, 6), faded):
        seen = track(damaged, scene)
        assert seen.visible.all()
        assert distances(seen, states.positions).max() < 0.6


def test_a_ball_that_fades_away_loses_mass_and_then_counts_as_gone() -> None:
    scene = scene_of("drop")
    states = States(np.full((8, 1, 2), 0.5), np.array([RADIUS["small"]]))
    frames = render(states, scene, HOUSE, SIZE).astype(float)
    room = render(States(states.positions + 9, states.radii), scene, HOUSE, SIZE)
    strength = np.linspace(1, 0, 8)[:, None, None, None]
    seen = track((strength * frames + (1 - strength) * room).astype(np.uint8), scene)
    assert seen.visible[0, 0]
    assert not seen.visible[-1, 0]
    assert (np.diff(seen.mass[:, 0]) < 0.02).all()
    assert seen.objects[-1] == 0
