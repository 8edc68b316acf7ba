"""How far a clip is from the nearest motion that the prompt's law allows.

A prompt leaves things open (place, speed, angle), so there is no single right answer to compare with. Instead
the law's own freedom vector u in [0, 1]^k is searched: a cached bank of simulations gives the starts and, by
regression over neighbours, their slopes; Levenberg steps with Broyden's secant update then cost one
simulation each.

Shape legend: T frames, N balls, k free coordinates, B bank entries, R residuals (2 T N, less the missing).
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.evaluation.parse import Track
from understudy.teachers.world.grammar import COLOURS, Ball, Scene
from understudy.teachers.world.physics import RADIUS, Law, States, freedom, simulate

_Array = NDArray[np.float64]

_BANK: Final = {2: 64, 3: 160, 4: 320}  # simulations per number of free coordinates
_GOOD: Final = 0.12  # px; below it what is left is the parser's and the simulator's step noise
_STARTS: Final = 2
_STEPS: Final = 8


@dataclass(frozen=True)
class LawFit:
    """The nearest lawful trajectory and the distance to it.

    Attributes:
        error: RMSE over frames and balls of the distance in px; a missing position counts as one diameter.
        vertical: the vertical part of ``error`` in px.
        u: [k] the freedom vector found, in [0, 1].
        states: the lawful trajectory, with its furniture.
    """

    error: float
    vertical: float
    u: _Array
    states: States


def law_error(track: Track, scene: Scene, law: Law, fps: float) -> LawFit:
    """Fit the law's nearest trajectory to ``track`` (T frames at ``fps``).

    Missing positions are left out of the fit but charged one diameter each (half of its square to the
    vertical part), so vanishing does not pay: half the frames missing cost 0.7 diameters or more.
    """
    scale = np.array([track.size[1], track.size[0]], dtype=np.float64)
    problems = [_Problem(track, variant, law, fps, scale) for variant in _variants(scene, law)]
    starts = sorted((cost, p, index) for p, one in enumerate(problems) for cost, index in one.starts())
    found: tuple[float, int, _Array, States] | None = None
    for _, p, index in starts[:_STARTS]:
        cost, u, states = problems[p].descend(index)
        if found is None or cost < found[0]:
            found = (cost, p, u, states)
        if cost < _GOOD:
            break
    assert found is not None  # every problem has at least one start
    _, p, u, states = found
    if problems[p].variant.mirrored:
        states = _mirror(states)
    radii = np.array([RADIUS[ball.size] for ball in scene.balls])
    offset = (track.centres - states.positions) * scale
    missing = np.isnan(offset).any(axis=2, keepdims=True)
    square = np.where(missing, 2 * (radii[:, None] * scale[0]) ** 2, offset**2)
    return LawFit(
        error=float(np.sqrt(square.sum(axis=2).mean())),
        vertical=float(np.sqrt(square[..., 1].mean())),
        u=_spelled(u, scene, problems[p].variant),
        states=states,
    )


@dataclass(frozen=True)
class _Variant:
    """A scene to search, and whether the track is looked at in a mirror for it."""

    scene: Scene
    mirrored: bool = False

    @property
    def leftward(self) -> bool:
        return (self.scene.direction == "left") != self.mirrored


def _variants(scene: Scene, law: Law) -> list[_Variant]:
    """Return what to search: the colours never matter, and without wind left is right in a mirror."""
    scene = replace(scene, balls=tuple(Ball(COLOURS[n], ball.size) for n, ball in enumerate(scene.balls)))
    if scene.family not in ("throw", "ramp"):
        return [_Variant(scene)]
    sides = ["right", "left"] if scene.family == "throw" else ["right"]
    if scene.direction is not None:
        sides = [scene.direction]
    if law.wind:
        return [_Variant(replace(scene, direction=side)) for side in sides]
    return [_Variant(replace(scene, direction="right"), mirrored=side == "left") for side in sides]


def _spelled(u: _Array, scene: Scene, variant: _Variant) -> _Array:
    """Return a variant's ``u`` as the scene spells it: the last coordinate of an open throw is its side."""
    if scene.family == "throw":
        u = u.copy()
        u[-1] = 0.25 if variant.leftward else 0.75
    return u


def _mirror(states: States) -> States:
    def flip(points: _Array) -> _Array:
        return np.stack([1 - points[..., 0], points[..., 1]], axis=-1)

    return States(
        flip(states.positions),
        states.radii,
        None if states.ramp is None else flip(states.ramp),
        None if states.pivot is None else flip(states.pivot),
    )


@lru_cache(maxsize=128)
def _bank(scene: Scene, law: Law, frames: int, fps: float) -> tuple[_Array, _Array]:
    """Return evenly spread points [B, k] (an additive recurrence) and their trajectories [B, T, N, 2]."""
    active = freedom(scene) - (scene.family == "throw")  # every variant of a throw is told its side
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (active + 1))
    points = np.full((_BANK[active], freedom(scene)), 0.75)
    number = np.arange(1, len(points) + 1)[:, None]
    points[:, :active] = (0.5 + number / ratio ** np.arange(1, active + 1)) % 1
    return points, np.stack([simulate(scene, law, u, frames, fps).positions for u in points])


def _bounded_step(u: _Array, rest: _Array, slope: _Array, damping: float) -> _Array:
    """Return the damped least-squares step [k] that keeps u in [0, 1]: what meets a bound stays, the rest is solved."""
    step, free = np.zeros_like(u), np.ones(len(u), dtype=bool)
    while free.any():
        part = slope[:, free]
        normal = part.T @ part
        pull = np.diag(damping * np.diag(normal) + 1e-6)
        step[free] = -np.linalg.solve(normal + pull, part.T @ (rest + slope[:, ~free] @ step[~free]))
        outside = free & ((u + step < 0) | (u + step > 1))
        if not outside.any():
            break
        step[outside] = np.where(step[outside] > 0, 1.0, 0.0) - u[outside]
        free &= ~outside
    return step


class _Problem:
    """Least squares over u for one track: the positions that are missing are left out."""

    def __init__(self, track: Track, variant: _Variant, law: Law, fps: float, scale: _Array) -> None:
        self.variant, self.law, self.fps, self.scale = variant, law, fps, scale
        centres = track.centres * scale
        if variant.mirrored:
            centres[..., 0] = scale[0] - centres[..., 0]
        self.frames = len(centres)
        self.seen = np.isfinite(centres)
        self.target = centres[self.seen]
        self.points, bank = _bank(variant.scene, law, self.frames, fps)
        self.rests = (bank * scale)[:, self.seen] - self.target

    def starts(self) -> list[tuple[float, int]]:
        """Return (cost, bank index) of the nearest bank entries that are not neighbours of each other."""
        costs = np.einsum("bn,bn->b", self.rests, self.rests)
        picks: list[int] = []
        for index in np.argsort(costs, kind="stable")[:24].tolist():
            if all(np.abs(self.points[index] - self.points[pick]).max() > 0.15 for pick in picks):
                picks.append(index)
        return [(float(costs[index]), index) for index in picks[:_STARTS]]

    def descend(self, index: int) -> tuple[float, _Array, States]:
        """Return (RMSE in px, u, trajectory) of the descent from one bank entry."""
        u, rest, slope = self.points[index], self.rests[index], self._slope(index)
        cost, damping, states = float(rest @ rest), 1e-3, None
        for _ in range(_STEPS):
            moved = _bounded_step(u, rest, slope, damping)
            trial = u + moved
            if np.abs(moved).max() < 1e-4:
                break
            reached = self._simulate(trial)
            new = (reached.positions * self.scale)[self.seen] - self.target
            slope = slope + np.outer(new - rest - slope @ moved, moved) / (moved @ moved)
            gain = cost - float(new @ new)
            if gain <= 0:
                damping = max(damping, 1e-3) * 10
                continue
            u, rest, cost, states, damping = trial, new, cost - gain, reached, damping / 5
            if gain < 0.01 * cost or self._rmse(cost) < _GOOD / 2:
                break
        return self._rmse(cost), u, self._simulate(u) if states is None else states

    def _rmse(self, cost: float) -> float:
        return math.sqrt(max(cost, 0.0) / max(1, len(self.target) // 2))

    def _simulate(self, u: _Array) -> States:
        return simulate(self.variant.scene, self.law, u, self.frames, self.fps)

    def _slope(self, index: int) -> _Array:
        """Return d rest / d u [R, k] by weighted regression over bank neighbours, without a simulation."""
        offset = self.points - self.points[index]
        reach = np.abs(offset).max(axis=1)
        near = np.argsort(reach, kind="stable")[1 : 1 + 3 * offset.shape[1]]
        weight = 1 / np.maximum(reach[near], 0.05)[:, None]
        rise = self.rests[near] - self.rests[index]
        slope: _Array = np.linalg.lstsq(offset[near] * weight, rise * weight, rcond=None)[0].T
        return slope
