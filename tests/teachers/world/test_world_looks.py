import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.teachers.world.grammar import COLOURS, Ball, Scene
from understudy.teachers.world.looks import FILM, HOUSE, LOOKS, PALETTE, Look, render
from understudy.teachers.world.physics import FLOOR, RADIUS, Law, States, simulate

SIZE = (48, 48)


def still(*places: tuple[float, float], size: str = "small") -> States:
    """One frame with balls at the given places."""
    return States(np.array([places], dtype=np.float64), np.full(len(places), RADIUS[size]))


def scene(*colours: str, family: str = "drop", size: str = "small") -> Scene:
    return Scene(family, tuple(Ball(colour, size) for colour in colours))


def picture(states: States, described: Scene, look: Look = HOUSE, size: tuple[int, int] = SIZE) -> NDArray:
    return render(states, described, look, size)[0].astype(int)


def pixel(x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """Row and column of a place in box units."""
    return int((1 - y) * size[0]), int(x * size[1])


def hue(colour: NDArray) -> float:
    return colorsys.rgb_to_hsv(*(float(c) / 255 for c in colour))[0]


EMPTY = still((5.0, 5.0))  # the ball is far outside


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (24, 40), (41, 23)])
@pytest.mark.parametrize("family", ["drop", "collision", "ramp", "pendulum"])
def test_frames_are_as_asked(look: str, size: tuple[int, int], family: str) -> None:
    described = scene("red", "blue", family=family) if family == "collision" else scene("red", family=family)
    states = simulate(described, Law(), np.full(4, 0.4), 5, 24.0)
    frames = render(states, described, LOOKS[look], size, np.random.default_rng(0))
    assert frames.dtype == np.uint8
    assert frames.shape == (5, *size, 3)
    assert frames.std() > 5
    assert (frames[0] != frames[-1]).any()


class TestBalls:
    @pytest.mark.parametrize("colour", COLOURS)
    @pytest.mark.parametrize("look", LOOKS)
    def test_colour_shows_at_the_centre(self, colour: str, look: str) -> None:
        at = picture(still((0.5, 0.5)), scene(colour), LOOKS[look])[pixel(0.5, 0.5)]
        named = min(PALETTE, key=lambda name: abs((hue(at) - hue(np.array(PALETTE[name]) * 255) + 0.5) % 1 - 0.5))
        assert named == colour
        assert at.max() - at.min() > 60

    @pytest.mark.parametrize("size", [(48, 48), (64, 64), (32, 64)])
    def test_centre_and_size_are_the_states(self, size: tuple[int, int]) -> None:
        frame = picture(still((0.3, 0.7)), scene("red"), size=size)
        red = frame[..., 0] - frame[..., 1] > 60
        rows, columns = np.nonzero(red)
        assert (columns.mean() + 0.5) / size[1] == pytest.approx(0.3, abs=0.01)
        assert 1 - (rows.mean() + 0.5) / size[0] == pytest.approx(0.7, abs=0.01)
        assert red.mean() == pytest.approx(np.pi * RADIUS["small"] ** 2, rel=0.12)

    def test_large_is_larger(self) -> None:
        small, large = (
            (np.ptp(picture(still((0.5, 0.5), size=size), scene("red", size=size)), axis=-1) > 60).sum()
            for size in ("small", "large")
        )
        assert large / small == pytest.approx((RADIUS["large"] / RADIUS["small"]) ** 2, rel=0.15)

    def test_balls_keep_their_own_colours(self) -> None:
        frame = picture(still((0.25, 0.5), (0.75, 0.5)), scene("green", "purple", family="collision"))
        left, right = frame[pixel(0.25, 0.5)], frame[pixel(0.75, 0.5)]
        assert left.argmax() == 1
        assert right.argmin() == 1

    def test_edges_are_smooth(self) -> None:
        frames = [picture(still((0.5 + shift / 48, 0.5)), scene("blue")) for shift in (0.0, 0.1, 0.2)]
        assert 0 < np.abs(frames[1] - frames[0]).max() < 60  # a tenth of a pixel moves no pixel all the way
        assert np.abs(frames[2] - frames[0]).sum() > np.abs(frames[1] - frames[0]).sum()


class TestRoom:
    def test_floor_is_below_and_darker(self) -> None:
        for look in LOOKS.values():
            frame = picture(EMPTY, scene("red"), look)
            wall, floor = frame[pixel(0.5, FLOOR + 0.05)], frame[pixel(0.5, FLOOR - 0.05)]
            assert (wall - floor).min() > 20

    def test_house_room_is_grey(self) -> None:
        assert np.ptp(picture(EMPTY, scene("red")), axis=-1).max() == 0

    def test_shadow_darkens_as_the_ball_comes_down(self) -> None:
        below = pixel(0.5, FLOOR - 0.03)
        empty = picture(EMPTY, scene("red"))[below].mean()
        high, low = (picture(still((0.5, y)), scene("red"))[below].mean() for y in (0.8, FLOOR + 0.09))
        assert low < high - 10 < empty - 10

    def test_ramp_and_rope_are_drawn(self) -> None:
        for family in ("ramp", "pendulum"):
            described = scene("red", family=family)
            states = simulate(described, Law(), np.full(3, 0.6), 1, 24.0)
            bare = States(states.positions, states.radii)
            assert np.abs(picture(states, described) - picture(bare, described)).max() > 40

    def test_rope_runs_from_the_pivot_to_the_ball(self) -> None:
        states = States(np.array([[[0.7, 0.4]]]), np.array([RADIUS["small"]]), pivot=np.array([0.3, 0.9]))
        frame = picture(states, scene("red", family="pendulum"), size=(96, 96))
        for share in (0.1, 0.4, 0.7):
            assert frame[pixel(0.3 + 0.4 * share, 0.9 - 0.5 * share, (96, 96))].max() < 120
        assert frame[pixel(0.3, 0.4, (96, 96))].min() > 120


class TestFilm:
    def test_is_another_grade(self) -> None:
        house, film = (picture(EMPTY, scene("red"), look) for look in (HOUSE, FILM))
        assert film.mean() < house.mean() - 15
        wall = film[pixel(0.5, 0.5)]
        assert wall[0] > wall[1] > wall[2]  # warm

    def test_corners_are_darker(self) -> None:
        wide = Look(vignette=FILM.vignette)
        ratio = picture(EMPTY, scene("red"), wide) / picture(EMPTY, scene("red"))
        assert ratio[:, 24].mean() > ratio[:, 0].mean() + 0.05
        assert ratio[10, 0].mean() == pytest.approx(ratio[10, -1].mean(), abs=0.01)

    def test_watermark_is_in_its_corner_only(self) -> None:
        bare = Look(**{**vars(FILM), "watermark": 0.0})
        change = np.abs(picture(EMPTY, scene("red"), FILM) - picture(EMPTY, scene("red"), bare)).max(-1)
        rows, columns = np.nonzero(change)
        assert len(rows) > 10
        assert change.max() > 20
        assert rows.max() < 0.2 * 48  # top
        assert columns.min() > 0.8 * 48  # right

    def test_grain_needs_a_generator_and_follows_it(self) -> None:
        def film(seed: int | None) -> NDArray:
            rng = None if seed is None else np.random.default_rng(seed)
            states = States(np.repeat(EMPTY.positions, 8, axis=0), EMPTY.radii)
            return render(states, scene("red"), FILM, SIZE, rng).astype(int)

        clean = film(None)
        assert (clean == clean[0]).all()  # nothing moves, nothing flickers
        grainy = film(0)
        assert np.array_equal(grainy, film(0))
        assert not np.array_equal(grainy, film(1))
        noise = (grainy - clean)[:, 12:40]
        assert noise.std() == pytest.approx(255 * FILM.grain, rel=0.1)
        assert abs(noise.mean()) < 0.3
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1  # new in every frame
        assert np.ptp(noise, axis=-1).max() <= 1  # grey

    def test_house_has_no_grain(self) -> None:
        with_generator = render(EMPTY, scene("red"), HOUSE, SIZE, np.random.default_rng(0))
        assert np.array_equal(with_generator, render(EMPTY, scene("red"), HOUSE, SIZE))


def test_rendering_leaves_the_states_alone() -> None:
    states = simulate(scene("red"), Law(), np.full(2, 0.5), 4, 24.0)
    before = states.positions.copy()
    render(states, scene("red"), FILM, SIZE, np.random.default_rng(0))
    assert np.array_equal(states.positions, before)
