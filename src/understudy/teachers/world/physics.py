"""Motion in the embedded world: a scene, a law and a point of the scene's freedom give one trajectory (pymunk).

Units: the room is the box [0, 1] x [0, 1], y up, its floor at y = ``FLOOR``; time in seconds.
Everything a prompt leaves open is one vector ``u`` in [0, 1]^k, so a prompt is the image of a uniform draw, and
evaluation can search the same ``u`` for the nearest trajectory that the law allows.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pymunk
from numpy.typing import NDArray

from understudy.teachers.world.grammar import Scene

FLOOR: Final = 0.1
RADIUS: Final = {"small": 0.085, "large": 0.125}
FREEDOM: Final = {"drop": 2, "throw": 5, "bounce": 4, "collision": 4, "ramp": 3, "pendulum": 3}
_RESTITUTION: Final = {"rubber": 0.85, "steel": 0.55, "clay": 0.1}
_GRAVITY: Final = {"moon": 0.5, "earth": 2.3, "jupiter": 5.0}
_SCALE: Final = 100.0  # Chipmunk's contact tolerances suit bodies of tens of units
_SUBSTEP: Final = 1 / 480


@dataclass(frozen=True)
class Law:
    """The constants of motion: gravity and side wind in box/s^2, restitution in [0, 1]."""

    gravity: float = 2.3
    restitution: float = 0.7
    wind: float = 0.0

    def told(self, scene: Scene) -> "Law":
        """Return the law with what the prompt says about material and place put in."""
        return Law(
            gravity=_GRAVITY.get(scene.place or "", self.gravity),
            restitution=_RESTITUTION.get(scene.material or "", self.restitution),
            wind=self.wind,
        )


def poor_law(rng: np.random.Generator) -> Law:
    """Draw a law unrelated to any prompt: the physics-poor world. Broad, since AFD can only re-weight what is there."""
    return Law(
        gravity=float(rng.uniform(-0.6, 3.5)),
        restitution=float(rng.uniform(0.0, 1.0)),
        wind=float(rng.normal(0.0, 0.1)),
    )


@dataclass(frozen=True)
class States:
    """The true states of one clip.

    Attributes:
        positions: [T, N, 2] ball centres in box units.
        radii: [N] in box units.
        ramp: its two ends [2, 2], or None.
        pivot: [2] of the pendulum, or None.
    """

    positions: NDArray[np.float64]
    radii: NDArray[np.float64]
    ramp: NDArray[np.float64] | None = None
    pivot: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Start:
    """Initial positions and velocities [N, 2] and the furniture."""

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    ramp: NDArray[np.float64] | None = None
    pivot: NDArray[np.float64] | None = None


def freedom(scene: Scene) -> int:
    """Return k, the number of coordinates the scene leaves open."""
    return FREEDOM[scene.family]


def simulate(scene: Scene, law: Law, u: NDArray[np.float64], frames: int, fps: float) -> States:
    """Return the trajectory of ``frames`` frames at ``fps`` that starts where ``u`` in [0, 1]^k says."""
    law = law.told(scene)
    radii = np.array([RADIUS[ball.size] for ball in scene.balls])
    start = _start(scene, radii, np.asarray(u, dtype=np.float64))
    space, bodies = _space(start, radii, law)
    substeps = max(1, round(1 / (fps * _SUBSTEP)))
    dt = 1 / (fps * substeps)
    for body in bodies:  # half a step of gravity cancels symplectic Euler's constant offset
        body.velocity = (
            body.velocity[0] + space.gravity[0] * dt / 2,
            body.velocity[1] + space.gravity[1] * dt / 2,
        )
    positions = np.empty((frames, len(bodies), 2))
    for frame in range(frames):
        if frame:
            for _ in range(substeps):
                space.step(dt)
        positions[frame] = [(body.position.x, body.position.y) for body in bodies]
    return States(positions / _SCALE, radii, start.ramp, start.pivot)


def _between(u: float, low: float, high: float) -> float:
    return low + (high - low) * float(u)


def _start(scene: Scene, radii: NDArray[np.float64], u: NDArray[np.float64]) -> _Start:
    r = float(radii[0])
    floor = FLOOR + r
    if scene.family == "drop":
        place = (_between(u[0], 0.05 + r, 0.95 - r), _between(u[1], 0.5, 0.97 - r))
        return _Start(np.array([place]), np.zeros((1, 2)))
    if scene.family == "throw":
        sign = {"left": -1.0, "right": 1.0}.get(scene.direction or "", -1.0 if u[4] < 0.5 else 1.0)
        low, high = {"slow": (0.3, 0.6), "fast": (0.7, 1.1)}.get(scene.speed or "", (0.35, 1.0))
        place = (0.5 - sign * _between(u[0], -0.2, 0.45 - r), _between(u[1], 0.4, 0.75))
        return _Start(np.array([place]), np.array([(sign * _between(u[2], low, high), _between(u[3], -0.1, 0.6))]))
    if scene.family == "bounce":
        place = (_between(u[0], 0.05 + r, 0.95 - r), _between(u[1], 0.4, 0.75))
        return _Start(np.array([place]), np.array([(_between(u[2], -0.15, 0.15), _between(u[3], -1.4, -0.7))]))
    if scene.family == "collision":
        second = float(radii[1])
        places = [(_between(u[0], 0.02 + r, 0.3), floor), (_between(u[1], 0.7, 0.98 - second), FLOOR + second)]
        return _Start(np.array(places), np.array([(_between(u[2], 0.3, 0.8), 0.0), (_between(u[3], -0.8, -0.0), 0.0)]))
    if scene.family == "ramp":
        sign = {"left": -1.0, "right": 1.0}.get(scene.direction or "", 1.0)
        ends = np.array([(0.5 - sign * 0.48, _between(u[0], 0.45, 0.7)), (0.5 + sign * 0.2, FLOOR)])
        along = ends[1] - ends[0]
        normal = np.array([-along[1], along[0]]) / np.linalg.norm(along) * sign
        spot = ends[0] + along * _between(u[1], 0.12, 0.4) + normal * (r + 0.002)
        return _Start(spot[None], (along / np.linalg.norm(along) * _between(u[2], 0.0, 0.3))[None], ramp=ends)
    pivot = np.array([_between(u[0], 0.45, 0.55), 0.98])  # the widest swing of the longest rope stays off the walls
    angle, length = _between(u[1], -0.7, 0.7), _between(u[2], 0.35, 0.5)
    spot = pivot + length * np.array([np.sin(angle), -np.cos(angle)])
    return _Start(spot[None], np.zeros((1, 2)), pivot=pivot)


def _space(start: _Start, radii: NDArray[np.float64], law: Law) -> tuple[pymunk.Space, list[pymunk.Body]]:
    space = pymunk.Space()
    space.gravity = (law.wind * _SCALE, -law.gravity * _SCALE)
    space.collision_slop = 0.01
    lines = [((-2, FLOOR), (3, FLOOR), 0.0), ((0, -2), (0, 4), 0.0), ((1, -2), (1, 4), 0.0)]
    if start.ramp is not None:
        lines.append((tuple(start.ramp[0]), tuple(start.ramp[1]), 0.9))
    for a, b, friction in lines:
        segment = pymunk.Segment(space.static_body, (a[0] * _SCALE, a[1] * _SCALE), (b[0] * _SCALE, b[1] * _SCALE), 0)
        segment.elasticity, segment.friction = 1.0, friction
        space.add(segment)
    bodies = []
    for position, velocity, radius in zip(start.position, start.velocity, radii, strict=True):
        mass = float(radius / RADIUS["small"]) ** 2
        body = pymunk.Body(mass, pymunk.moment_for_circle(mass, 0, radius * _SCALE))
        body.position = tuple(position * _SCALE)
        body.velocity = tuple(velocity * _SCALE)
        shape = pymunk.Circle(body, radius * _SCALE)
        shape.elasticity, shape.friction = law.restitution, 0.9
        space.add(body, shape)
        bodies.append(body)
    if start.pivot is not None:
        anchor = tuple(start.pivot * _SCALE)
        space.add(pymunk.PinJoint(space.static_body, bodies[0], anchor, (0, 0)))
    return space, bodies
