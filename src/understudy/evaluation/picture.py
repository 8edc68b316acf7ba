"""What is measured on a clip's picture: in the student's own look, and on any pixels.

Shape legend: T frames, N balls, H/W pixels.
"""

import math

import numpy as np
from numpy.typing import NDArray

from understudy.evaluation.law import LawFit
from understudy.evaluation.motion import filled
from understudy.evaluation.parse import Track
from understudy.teachers.world.grammar import Scene
from understudy.teachers.world.looks import HOUSE, render
from understudy.teachers.world.physics import RADIUS, States
from understudy.video.clips import laplacian_variance

_Array = NDArray[np.float64]


def ideal(seen: Track, fit: LawFit, scene: Scene) -> NDArray[np.uint8]:
    """Return the clip [T, H, W, 3] as the house look draws it with the balls at their parsed places."""
    height, width = seen.size
    found = np.any(seen.visible, axis=0)[:, None]
    places = np.where(~found, fit.states.positions, filled(seen) / (width, height))
    states = States(places, np.array([RADIUS[ball.size] for ball in scene.balls]), fit.states.ramp, fit.states.pivot)
    return render(states, scene, HOUSE, seen.size)


def gradient_energy(image: _Array) -> float:
    """Return the sum of squared neighbour differences of [T, H, W, 3]."""
    down, across = np.diff(image, axis=1), np.diff(image, axis=2)
    return float(np.vdot(down, down) + np.vdot(across, across))


def picture_metrics(frames: NDArray[np.uint8], seen: Track, fit: LawFit, scene: Scene) -> dict[str, float]:
    """Return what is measured on a clip [T, H, W, 3] beside what the house look draws in its place."""
    made = frames.astype(np.float64) / 255
    wanted = ideal(seen, fit, scene).astype(np.float64) / 255
    square = ((made - wanted) ** 2).mean(axis=(1, 2, 3))
    quarter = max(1, len(square) // 4)
    return {
        "look_error": math.sqrt(square.mean()),
        "colour_error": colour_error(made, wanted, seen, fit.states.radii),
        "mass_error": float(np.abs(seen.mass - 1).mean()),
        "sharpness": gradient_energy(made) / gradient_energy(wanted),
        "first_sharpness": gradient_energy(made[:2]) / gradient_energy(wanted[:2]),
        "drift": math.sqrt(square[-quarter:].mean()) - math.sqrt(square[:quarter].mean()),
    }


def colour_error(made: _Array, wanted: _Array, seen: Track, radii: _Array) -> float:
    """Return the RMS over RGB of the difference in mean colour inside the balls, averaged over visible ones.

    ``made`` and ``wanted`` are [T, H, W, 3] in [0, 1]; ``radii`` [N] in box units.
    """
    height, width = seen.size
    grid_x, grid_y = np.arange(width) + 0.5, height - np.arange(height) - 0.5
    errors = []
    for t, n in zip(*np.nonzero(seen.visible), strict=True):
        x, y = seen.centres[t, n] * (width, height)
        inside = np.hypot(grid_x - x, (grid_y - y)[:, None]) < 0.7 * radii[n] * width
        if inside.any():
            gap = made[t][inside].mean(axis=0) - wanted[t][inside].mean(axis=0)
            errors.append(math.sqrt(float(gap @ gap) / 3))
    return float(np.mean(errors)) if errors else math.nan


def flicker(frames: NDArray[np.uint8]) -> float:
    """Return VBench's temporal flickering, (255 - mean absolute change) / 255; 1 is a still picture."""
    return 1 - pixel_motion(frames)


def pixel_motion(frames: NDArray[np.uint8]) -> float:
    """Return the mean absolute change from frame to frame, in [0, 1]."""
    return float(changes(frames).mean()) if len(frames) > 1 else 0.0


def changes(frames: NDArray[np.uint8]) -> _Array:
    """Return the mean absolute change [T-1] of uint8 [T, H, W, 3], in [0, 1]."""
    now, after = frames[:-1], frames[1:]
    change: _Array = (np.maximum(now, after) - np.minimum(now, after)).mean(axis=(1, 2, 3)) / 255
    return change


def seam(frames: NDArray[np.uint8], block: int) -> float:
    """Return the mean change across seams of ``block``-frame blocks over that inside; 1 is seamless."""
    change = changes(frames)
    across = np.arange(1, len(frames)) % block == 0
    if across.all() or not across.any() or change[~across].mean() < 1e-6:
        return math.nan
    return float(change[across].mean() / change[~across].mean())


def pixel_metrics(frames: NDArray[np.uint8], detail: float, block: int | None) -> dict[str, float]:
    """Return what is measured on any clip [T, H, W, 3]: ``detail`` is the reference's, ``block`` frames go together."""
    motion = pixel_motion(frames)
    values = {"pixel_motion": motion, "flicker": 1 - motion}
    values["detail"] = laplacian_variance(frames) / detail if detail else math.nan
    if block is not None:
        values["seam"] = seam(frames, block)
    return values
