"""What is measured on the paths of a clip's balls: how they move, and whether they do what the prompt says.

Shape legend: T frames, N balls; positions are centres in pixels.
"""

import itertools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.evaluation.law import LawFit
from understudy.evaluation.parse import Track
from understudy.teachers.world.grammar import Scene
from understudy.teachers.world.physics import FLOOR, Law

_Array = NDArray[np.float64]

_FLYING: Final = ("drop", "throw", "bounce")
_KICK: Final = 1.0  # px/frame^2: free flight never turns upward that fast, a bounce does
_JOLT: Final = 1.5  # px/frame^2 off the clip's usual acceleration: something was hit
_NOISE: Final = 0.3  # px of position error that an energy rise has to exceed


def filled(seen: Track) -> _Array:
    """Return the centres [T, N, 2] in px with gaps filled by the last (at the start: first) seen place.

    A ball that is never seen is put into the lower left corner: far away, as a lost object should be.
    """
    points = seen.pixels.copy()
    for n in range(points.shape[1]):
        places = np.flatnonzero(seen.visible[:, n])
        if not len(places):
            points[:, n] = 0.0
            continue
        last = np.searchsorted(places, np.arange(len(points)), side="right") - 1
        points[:, n] = points[places[np.maximum(last, 0)], n]
    return points


def velocities(points: _Array) -> _Array:
    """Return the slopes [T-2, ...] of lines fitted over three frames of points [T, ...]."""
    return (points[2:] - points[:-2]) / 2


def accelerations(points: _Array) -> _Array:
    """Return the second differences [T-2, ...] of points [T, ...]."""
    return points[2:] - 2 * points[1:-1] + points[:-2]


def energy_distance(first: _Array, second: _Array) -> float:
    """Return 2 E|x-y| - E|x-x'| - E|y-y'| of tracks [K, T, N, 2] and [M, T, N, 2] in their unit.

    Of a track only the motion counts: its displacement from where it begins. Where a clip begins is what prompts leave
    most open, and its spread would drown the rest. |.| is the RMS over frames and balls. Means within a side leave
    out a track's distance to itself, so the estimate is unbiased (and may be negative); NaN when a side has one track.
    """

    def distances(a: _Array, b: _Array) -> _Array:
        square = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
        root: _Array = np.sqrt(square.mean(axis=(2, 3)))
        return root

    def within(a: _Array) -> float:
        return float(distances(a, a).sum() / (len(a) * (len(a) - 1))) if len(a) > 1 else math.nan

    first, second = first - first[:, :1], second - second[:, :1]
    return float(2 * distances(first, second).mean() - within(first) - within(second))


def flights(height: _Array) -> list[tuple[int, int]]:
    """Return the frame ranges [start, stop) of free flight of a ball at ``height`` [T] px above its rest."""
    free = np.nan_to_num(height, nan=-1.0) > 0.5
    free[1:-1] &= ~(accelerations(height) > _KICK)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def gravity_estimate(height: _Array) -> float:
    """Return the downward acceleration in px/frame^2, fitted jointly to all flights of 4 frames or more."""
    top, bottom = 0.0, 0.0
    for start, stop in flights(height):
        if stop - start >= 4:
            time = np.arange(stop - start) - (stop - start - 1) / 2
            shape = time**2 - (time**2).mean()
            top, bottom = top + float(shape @ height[start:stop]), bottom + float(shape @ shape)
    return -2 * top / bottom if bottom else math.nan


def restitution_estimate(height: _Array, gravity: float) -> float:
    """Return the mean speed ratio of bounces between two flights, NaN if none; gravity in px/frame^2."""
    ratios = []
    found = flights(height)
    for (start, stop), (start_next, stop_next) in itertools.pairwise(found):
        if min(stop - start, stop_next - start_next) < 3 or start_next - stop > 3:
            continue
        before, after = (
            _impact_speed(height[a:b], gravity, edge) for a, b, edge in ((start, stop, -1), (start_next, stop_next, 0))
        )
        if before > 1.5:
            ratios.append(after / before)
    return float(np.mean(ratios)) if ratios else math.nan


def _impact_speed(height: _Array, gravity: float, edge: int) -> float:
    """Carry a flight on from its ``edge`` frame to the floor, by energy."""
    time = np.arange(len(height), dtype=np.float64)
    slope, base = np.polyfit(time, height + gravity * time**2 / 2, 1)
    at = time[edge]
    speed, place = slope - gravity * at, base + slope * at - gravity * at**2 / 2
    return math.sqrt(max(0.0, float(speed**2 + 2 * gravity * place)))


def energy_gain(points: _Array, weights: _Array, gravity: float) -> float:
    """Return the share of steps in which the energy of points [T, N, 2] (px) rises beyond the parser's noise.

    Frames round a contact are left out, as their velocities mix before and after; NaN if fewer than 2 remain.
    """
    push = accelerations(points)
    jolt = np.abs(push - np.nanmedian(push, axis=0)) > _JOLT if np.isfinite(push).any() else np.zeros(push.shape, bool)
    hit = np.pad(jolt.any(axis=(1, 2)), 1)
    clean = ~(hit[:-2] | hit[1:-1] | hit[2:]) & np.isfinite(push).all(axis=(1, 2))
    if clean.sum() < 2:
        return math.nan
    speed = (velocities(points) ** 2).sum(axis=2)
    share = weights / weights.sum()
    energy = ((0.5 * speed + gravity * points[1:-1, :, 1]) @ share)[clean]
    noise = _NOISE * (np.sqrt(speed @ share)[clean] + gravity)
    return float((np.diff(energy) > np.maximum(noise[1:], noise[:-1])).mean())


def motion_metrics(seen: Track, fit: LawFit, scene: Scene, law: Law, fps: float) -> dict[str, float]:
    """Return what is measured on the paths of one clip's balls, whose law ``fit`` is."""
    height, width = seen.size
    points, lawful = seen.pixels, fit.states.positions * np.array([width, height])
    pull = law.gravity * height / fps**2
    values = {
        "law_error": fit.error,
        "law_error_vertical": fit.vertical,
        "velocity_error": finite_mean(np.linalg.norm(velocities(points) - velocities(lawful), axis=2)),
        "acceleration_error": finite_mean(np.linalg.norm(accelerations(points) - accelerations(lawful), axis=2)),
        "energy_gain": energy_gain(points, fit.states.radii**2, pull),
        "magnitude": finite_mean(np.linalg.norm(np.diff(points, axis=0), axis=2)),
        "gravity_error": math.nan,
        "bounce_error": math.nan,
    }
    if scene.family in _FLYING:
        above = points[:, 0, 1] - (FLOOR + float(fit.states.radii[0])) * height
        found = gravity_estimate(above)
        bounce = restitution_estimate(above, pull if math.isnan(found) else max(found, 0.0))
        values["gravity_error"] = abs(found - pull) / pull if pull else math.nan
        values["bounce_error"] = abs(bounce - law.restitution)
    return values


def finite_mean(values: _Array) -> float:
    """Return the mean of the values that are finite; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def direction_ok(points: _Array, direction: str | None) -> float:
    """Return 1 if the first ball of points [T, N, 2] starts to the told side, else 0; NaN if none is told."""
    if direction is None:
        return math.nan
    ahead = max(2, len(points) // 4)
    path = points[: ahead + 1, 0, 0]
    path = path[np.isfinite(path)]
    sign = 1 if direction == "right" else -1
    return float(len(path) > 1 and sign * (path[-1] - path[0]) > 0.5)


def prompt_metrics(seen: Track, scene: Scene) -> dict[str, float]:
    """Return in how far one clip shows what its prompt says."""
    expected = len(scene.balls)
    colour = float((seen.visible.mean(axis=0) >= 0.75).all())
    count = float(np.median(seen.objects) == expected)
    direction = direction_ok(seen.pixels, scene.direction)
    return {
        "permanence": float((seen.objects == expected).mean()),
        "colour_ok": colour,
        "count_ok": count,
        "direction_ok": direction,
        "prompt_ok": colour * count * (1.0 if math.isnan(direction) else direction),
    }
