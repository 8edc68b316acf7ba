import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.teachers.world.grammar import FAMILIES, Ball, Scene, scenes
from understudy.teachers.world.physics import FLOOR, RADIUS, Law, States, freedom, poor_law, simulate

FPS = 24.0
SMALL, LARGE = Ball("red", "small"), Ball("blue", "large")


def drop(ball: Ball = SMALL, **told: str) -> Scene:
    return Scene("drop", (ball,), **told)


def path(scene: Scene, u: list[float], law: Law | None = None, frames: int = 32, fps: float = FPS) -> NDArray:
    """Centres [T, N, 2] in box units."""
    return simulate(scene, law or Law(), np.array(u), frames, fps).positions


def times(frames: int, fps: float = FPS) -> NDArray[np.float64]:
    return np.arange(frames) / fps


def draws(count: int = 12) -> Iterator[tuple[Scene, States]]:
    """Clips of every kind of scene at random points of their freedom."""
    rng = np.random.default_rng(0)
    for scene in scenes(FAMILIES, ("red", "blue")):
        if scene.balls[0].colour == "red":
            for _ in range(count):
                yield scene, simulate(scene, Law(), rng.uniform(size=freedom(scene)), 32, FPS)


class TestFreeFlight:
    @pytest.mark.parametrize("gravity", [0.5, 2.3, 5.0])
    @pytest.mark.parametrize("fps", [12.0, 24.0, 60.0])
    def test_fall_is_a_parabola(self, gravity: float, fps: float) -> None:
        y = path(drop(), [0.5, 1.0], Law(gravity=gravity), 60, fps)[:, 0, 1]
        contact = math.sqrt(2 * (y[0] - FLOOR - RADIUS["small"]) / gravity)
        before = times(60, fps) < contact
        expected = y[0] - gravity * times(60, fps) ** 2 / 2
        assert before.sum() >= 6
        assert np.abs(y - expected)[before].max() < 1e-3

    @pytest.mark.parametrize("wind", [-0.3, 0.0, 0.3])
    def test_throw_is_a_parabola_with_wind(self, wind: float) -> None:
        scene = Scene("throw", (SMALL,), direction="right")
        u = [0.9, 1.0, 0.3, 0.8, 0.0]
        position = path(scene, u, Law(wind=wind), 14)[:, 0]
        velocity = np.array([0.35 + 0.65 * 0.3, -0.1 + 0.7 * 0.8])
        t = times(14)[:, None]
        expected = position[0] + velocity * t + np.array([wind, -2.3]) * t**2 / 2
        assert (expected[:, 1] > FLOOR + RADIUS["small"]).all()
        assert (expected[:, 0] < 1 - RADIUS["small"]).all()
        assert np.abs(position - expected).max() < 1e-3

    def test_size_does_not_change_the_fall(self) -> None:
        small, large = (path(drop(ball), [0.5, 1.0], frames=10)[:, 0, 1] for ball in (SMALL, LARGE))
        assert np.abs((small - small[0]) - (large - large[0])).max() < 1e-6

    def test_more_frames_a_second_show_the_same_motion(self) -> None:
        slow = path(drop(), [0.3, 0.9], frames=24, fps=24.0)
        fast = path(drop(), [0.3, 0.9], frames=47, fps=48.0)[::2]
        assert np.abs(slow - fast).max() < 5e-3


class TestContact:
    @pytest.mark.parametrize("restitution", [0.3, 0.55, 0.7, 0.85])
    @pytest.mark.parametrize("ball", [SMALL, LARGE], ids=["small", "large"])
    def test_bounce_height_is_restitution_squared(self, restitution: float, ball: Ball) -> None:
        y = path(drop(ball), [0.5, 1.0], Law(restitution=restitution), 500, 240.0)[:, 0, 1]
        floor = FLOOR + RADIUS[ball.size]
        contact = int(np.argmax(np.diff(y) > 0))
        height = (y[contact:].max() - floor) / (y[0] - floor)
        assert height == pytest.approx(restitution**2, rel=0.08, abs=0.01)

    def test_without_restitution_nothing_bounces(self) -> None:
        y = path(drop(), [0.5, 1.0], Law(restitution=0.0), 48)[:, 0, 1]
        assert np.abs(y[-10:] - FLOOR - RADIUS["small"]).max() < 5e-3

    def test_elastic_walls_return_the_ball(self) -> None:
        scene = Scene("throw", (SMALL,), direction="right")
        x = path(scene, [0.0, 0.5, 1.0, 1.0, 0.0], Law(gravity=0.0, restitution=1.0), 48)[:, 0, 0]
        speed = np.diff(x) * FPS
        assert speed[0] == pytest.approx(1.0, abs=1e-6)
        assert speed[-1] == pytest.approx(-1.0, abs=1e-3)
        assert x.max() == pytest.approx(1 - RADIUS["small"], abs=1 / FPS)

    @pytest.mark.parametrize("restitution", [0.4, 1.0])
    def test_walls_obey_the_balls_restitution(self, restitution: float) -> None:
        scene = Scene("throw", (SMALL,), direction="left")
        x = path(scene, [0.0, 0.5, 1.0, 0.5, 0.0], Law(gravity=0.0, restitution=restitution), 24)[:, 0, 0]
        speed = np.diff(x) * FPS
        assert speed[-1] / -speed[0] == pytest.approx(restitution, abs=0.01)

    def test_balls_stay_in_the_room(self) -> None:
        for scene, states in draws():
            low = states.positions - states.radii[:, None]
            high = states.positions + states.radii[:, None]
            assert low[..., 0].min() > -0.01, scene
            assert high[..., 0].max() < 1.01, scene
            assert low[..., 1].min() > FLOOR - 0.01, scene
            assert high[..., 1].max() < 1.01, scene

    def test_nothing_jumps(self) -> None:
        for scene, states in draws(6):
            step = np.linalg.norm(np.diff(states.positions, axis=0), axis=-1)
            assert step.max() < 3.0 / FPS, scene  # a fall from the ceiling ends below 2 boxes a second


class TestCollision:
    def speeds(self, sizes: tuple[str, str], u: list[float], law: Law) -> tuple[NDArray, NDArray]:
        """Horizontal velocities [2] before and after the impact of two balls, and none at a wall yet."""
        balls = (Ball("red", sizes[0]), Ball("blue", sizes[1]))
        states = simulate(Scene("collision", balls), law, np.array(u), 200, 120.0)
        speed = np.diff(states.positions[..., 0], axis=0) * 120
        gap = np.diff(states.positions[..., 0], axis=1)[:, 0] - states.radii.sum()
        impact = int(np.argmin(gap[:150]))
        return speed[impact - 5], speed[impact + 5]

    @pytest.mark.parametrize("sizes", [("small", "small"), ("large", "large"), ("small", "large")])
    @pytest.mark.parametrize("restitution", [0.0, 0.5, 0.7, 1.0])
    def test_momentum_is_kept(self, sizes: tuple[str, str], restitution: float) -> None:
        mass = np.array([RADIUS[size] ** 2 for size in sizes])
        before, after = self.speeds(sizes, [0.5, 0.5, 0.9, 0.4], Law(restitution=restitution))
        assert (mass * after).sum() == pytest.approx((mass * before).sum(), abs=0.01 * mass.sum())
        assert np.abs(after - before).max() > 0.1
        assert (mass * after**2).sum() < (mass * before**2).sum() * 1.01

    def test_elastic_twins_swap_their_speeds(self) -> None:
        before, after = self.speeds(("small", "small"), [0.5, 0.5, 0.9, 0.4], Law(restitution=1.0))
        assert after == pytest.approx(before[::-1], abs=0.01)

    @pytest.mark.parametrize("other", [Ball("blue", "small"), LARGE], ids=["small", "large"])
    def test_balls_roll_on_the_floor_and_meet(self, other: Ball) -> None:
        for u in np.random.default_rng(0).uniform(size=(20, 4)):
            states = simulate(Scene("collision", (SMALL, other)), Law(), u, 48, FPS)
            distance = np.linalg.norm(np.diff(states.positions, axis=1)[:, 0], axis=-1)
            assert distance.min() < states.radii.sum() + 0.05
            assert np.abs(states.positions[0, :, 1] - FLOOR - states.radii).max() < 1e-9
            assert distance[0] > states.radii.sum()


class TestPendulum:
    @pytest.mark.parametrize("ball", [SMALL, LARGE], ids=["small", "large"])
    def test_rope_keeps_its_length(self, ball: Ball) -> None:
        scene = Scene("pendulum", (ball,))
        for u in np.random.default_rng(0).uniform(size=(20, 3)):
            states = simulate(scene, Law(), u, 48, FPS)
            assert states.pivot is not None
            length = np.linalg.norm(states.positions[:, 0] - states.pivot, axis=-1)
            assert 0.3 < length[0] < 0.7
            assert np.abs(length - length[0]).max() < 0.01 * length[0]

    @pytest.mark.parametrize("gravity", [0.5, 2.3])
    def test_small_swings_keep_time(self, gravity: float) -> None:
        # u = 0.45 is a tenth of the way to the side.
        states = simulate(Scene("pendulum", (SMALL,)), Law(gravity=gravity), np.array([0.5, 0.45, 0.5]), 500, 60.0)
        assert states.pivot is not None
        arm = states.positions[:, 0] - states.pivot
        crossings = np.flatnonzero(np.diff(np.sign(arm[:, 0])))
        period = 2 * np.diff(crossings).mean() / 60
        assert period == pytest.approx(2 * math.pi * math.sqrt(np.linalg.norm(arm[0]) / gravity), rel=0.03)

    def test_energy_is_kept(self) -> None:
        states = simulate(Scene("pendulum", (SMALL,)), Law(), np.array([0.5, 0.2, 0.5]), 96, FPS)
        y = states.positions[:, 0, 1]
        assert y.max() <= y[0] + 0.01
        assert y[48:].max() > y[0] - 0.02  # it comes back up


class TestRamp:
    @pytest.mark.parametrize("direction", [None, "left", "right"])
    def test_ball_speeds_up_down_the_slope(self, direction: str | None) -> None:
        scene = Scene("ramp", (SMALL,), direction=direction)
        states = simulate(scene, Law(), np.array([0.8, 0.2, 0.1]), 24, FPS)
        assert states.ramp is not None
        sign = -1 if direction == "left" else 1
        end = states.ramp[1]
        on_slope = np.abs(states.positions[:, 0, 0] - end[0]) > RADIUS["small"] * 1.5
        moved = np.diff(states.positions[:, 0], axis=0)[: int(np.argmin(on_slope)) - 1]
        assert len(moved) > 6
        speed = np.linalg.norm(moved, axis=1)
        assert (np.sign(moved[:, 0]) == sign).all()
        assert (moved[:, 1] < 0).all()
        assert (np.diff(speed) > 0).all()

    def test_a_rolling_disc_takes_two_thirds_of_the_slopes_pull(self) -> None:
        law = Law(restitution=0.0)  # hopping balls slip
        states = simulate(Scene("ramp", (SMALL,)), law, np.array([0.2, 0.1, 0.0]), 120, 240.0)
        assert states.ramp is not None
        along = states.ramp[1] - states.ramp[0]
        slope = -along[1] / np.linalg.norm(along)
        way = np.linalg.norm(states.positions[:, 0] - states.positions[0, 0], axis=1)
        acceleration = np.polyfit(times(120, 240.0), way, 2)[0] * 2
        assert acceleration == pytest.approx(2 / 3 * 2.3 * slope, rel=0.02)


class TestLaw:
    def test_prompt_puts_in_material_and_place(self) -> None:
        law = Law(wind=0.1)
        assert law.told(drop()) == law
        assert law.told(drop(material="clay")) == Law(restitution=0.1, wind=0.1)
        assert law.told(drop(place="moon")) == Law(gravity=0.5, wind=0.1)
        assert law.told(drop(material="rubber", place="jupiter")) == Law(5.0, 0.85, 0.1)
        assert law.told(drop(material="steel", place="earth")) == Law(2.3, 0.55, 0.1)

    def test_simulation_does_as_it_is_told(self) -> None:
        plain = path(drop(), [0.5, 0.8], Law(gravity=0.5, restitution=0.85))
        assert np.array_equal(path(drop(material="rubber", place="moon"), [0.5, 0.8]), plain)
        assert not np.array_equal(path(drop(), [0.5, 0.8]), plain)

    def test_poor_laws_differ_and_are_broad(self) -> None:
        rng = np.random.default_rng(0)
        laws = [poor_law(rng) for _ in range(400)]
        assert len(set(laws)) == 400
        assert poor_law(np.random.default_rng(0)) == laws[0]
        gravity, restitution, wind = (
            np.array([getattr(law, name) for law in laws]) for name in ("gravity", "restitution", "wind")
        )
        assert gravity.min() < 0 < Law().gravity < gravity.max()
        assert 0 <= restitution.min() < 0.1
        assert 0.9 < restitution.max() <= 1
        assert wind.min() < -0.2
        assert wind.max() > 0.2
        # Nothing in it knows another of its numbers.
        assert abs(np.corrcoef(gravity, restitution)[0, 1]) < 0.15


class TestSimulate:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_same_point_gives_the_same_motion(self, family: str) -> None:
        scene = next(scenes([family], ("red", "blue")))
        u = np.random.default_rng(1).uniform(size=freedom(scene))
        first, again = simulate(scene, Law(), u, 24, FPS), simulate(scene, Law(), u, 24, FPS)
        assert np.array_equal(first.positions, again.positions)
        assert first.positions.shape == (24, len(scene.balls), 2)
        assert first.radii.tolist() == [RADIUS[ball.size] for ball in scene.balls]
        assert (first.ramp is not None) == (family == "ramp")
        assert (first.pivot is not None) == (family == "pendulum")

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_coordinate_of_the_freedom_matters(self, family: str) -> None:
        scene = next(scenes([family], ("red", "blue"), directions=(None,)))
        middle = np.full(freedom(scene), 0.4)
        before = simulate(scene, Law(), middle, 24, FPS).positions
        for k in range(freedom(scene)):
            moved = middle.copy()
            moved[k] = 0.9
            assert np.abs(simulate(scene, Law(), moved, 24, FPS).positions - before).max() > 1e-3, k

    def test_shorter_clips_are_beginnings(self) -> None:
        whole = path(drop(), [0.5, 0.5], frames=30)
        assert np.array_equal(path(drop(), [0.5, 0.5], frames=7), whole[:7])

    @pytest.mark.parametrize(("direction", "sign"), [("left", -1), ("right", 1)])
    def test_throw_goes_where_it_was_told(self, direction: str, sign: int) -> None:
        scene = Scene("throw", (SMALL,), direction=direction)
        for u in np.random.default_rng(0).uniform(size=(10, 5)):
            position = simulate(scene, Law(), u, 4, FPS).positions[:, 0, 0]
            assert (np.diff(position) * sign > 0).all()

    def test_open_throw_goes_either_way(self) -> None:
        scene = Scene("throw", (SMALL,))
        right = [path(scene, [0.5, 0.5, 0.5, 0.5, u], frames=2)[:, 0, 0] for u in (0.2, 0.8)]
        assert right[0][1] < right[0][0]
        assert right[1][1] > right[1][0]

    def test_told_speed_is_kept(self) -> None:
        slow, fast = (
            max(
                abs(np.diff(path(Scene("throw", (SMALL,), speed=speed), [0.5, 0.5, u, 0.5, 0.5], frames=2)[:, 0, 0])[0])
                for u in (0.0, 1.0)
            )
            * FPS
            for speed in ("slow", "fast")
        )
        assert slow == pytest.approx(0.6, abs=1e-6)
        assert fast == pytest.approx(1.1, abs=1e-6)

    def test_bounce_is_thrown_down(self) -> None:
        position = path(Scene("bounce", (SMALL,)), [0.5, 0.5, 0.5, 0.5], frames=48)[:, 0, 1]
        assert position[1] < position[0]
        assert position.max() > position[0] * 0.7  # and comes back up
