"""What the embedded world looks like: one renderer, several looks.

The *house* look is the student's own; the *film* look is the teacher's: another grade, grain, vignette, a watermark.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.teachers.world.grammar import Scene
from understudy.teachers.world.physics import FLOOR, States

PALETTE: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.88, 0.16, 0.14),
    "yellow": (0.93, 0.76, 0.10),
    "green": (0.16, 0.66, 0.25),
    "cyan": (0.10, 0.72, 0.80),
    "blue": (0.16, 0.32, 0.88),
    "purple": (0.64, 0.22, 0.78),
}
_LIGHT: Final = np.array([-0.45, 0.65, 0.61])


@dataclass(frozen=True)
class Look:
    """A look: wall and floor brightness, grade (contrast, lift, tint), grain, vignette, watermark."""

    wall: float = 0.82
    floor: float = 0.62
    contrast: float = 1.0
    lift: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grain: float = 0.0
    vignette: float = 0.0
    watermark: float = 0.0


HOUSE: Final = Look()
FILM: Final = Look(
    wall=0.66,
    floor=0.42,
    contrast=0.8,
    lift=0.07,
    tint=(1.06, 1.0, 0.9),
    grain=0.035,
    vignette=0.35,
    watermark=0.6,
)
LOOKS: Final = {"house": HOUSE, "film": FILM}


def render(
    states: States, scene: Scene, look: Look, size: tuple[int, int], rng: np.random.Generator | None = None
) -> NDArray[np.uint8]:
    """Draw the clip: uint8 RGB [T, H, W, 3] for ``size`` = (H, W). ``rng`` draws the grain, if the look has any."""
    height, width = size
    x = (np.arange(width) + 0.5) / width
    y = 1 - (np.arange(height) + 0.5) / height
    grid_x, grid_y = np.meshgrid(x, y)
    room = _room(states, look, grid_x, grid_y)
    colours = np.array([PALETTE[ball.colour] for ball in scene.balls])
    frames = np.empty((len(states.positions), height, width, 3))
    ground = slice(int(np.searchsorted(-y, -(FLOOR + 0.01))), height)
    for t, positions in enumerate(states.positions):
        image = room.copy()
        for position, radius in zip(positions, states.radii, strict=True):
            image[ground] *= 1 - _shadow(position, radius, grid_x[ground], grid_y[ground])[..., None]
        if states.pivot is not None:
            _line(image, states.pivot, positions[0], 0.008, np.array([0.25, 0.22, 0.2]), grid_x, grid_y)
        for position, radius, colour in zip(positions, states.radii, colours, strict=True):
            near = _around(position, radius, x, y)
            _ball(image[near], position, radius, colour, grid_x[near], grid_y[near], 1 / width)
        frames[t] = image
    return _grade(frames, look, grid_x, grid_y, rng)


def _room(states: States, look: Look, grid_x: NDArray, grid_y: NDArray) -> NDArray[np.float64]:
    pixel = 1 / grid_x.shape[1]
    wall = look.wall * (0.9 + 0.16 * grid_y)
    depth = np.clip((FLOOR - grid_y) / FLOOR, 0, 1)
    floor = look.floor * (1.05 - 0.25 * depth)
    edge = np.clip((FLOOR - grid_y) / pixel + 0.5, 0, 1)
    image = np.repeat((wall * (1 - edge) + floor * edge)[..., None], 3, axis=2)
    if states.ramp is not None:
        (x0, y0), (x1, y1) = states.ramp
        height = y0 + (grid_x - x0) * (y1 - y0) / (x1 - x0)
        inside = (grid_x - min(x0, x1)) * (max(x0, x1) - grid_x) > 0
        body = np.clip((height - grid_y) / pixel + 0.5, 0, 1) * np.clip((grid_y - FLOOR) / pixel + 0.5, 0, 1) * inside
        image = image * (1 - body[..., None]) + look.floor * 0.8 * body[..., None]
    return image


def _shadow(position: NDArray, radius: float, grid_x: NDArray, grid_y: NDArray) -> NDArray[np.float64]:
    """Soft contact shadow [H, W] on the floor: darker and sharper as the ball comes down."""
    lift = max(0.0, position[1] - radius - FLOOR)
    width = radius * (0.9 + 1.2 * lift)
    distance = ((grid_x - position[0]) / width) ** 2 + ((grid_y - (FLOOR - 0.03)) / (0.035 + 0.02 * lift)) ** 2
    return 0.55 / (1 + 4.0 * lift) * np.exp(-distance)


def _around(position: NDArray, radius: float, x: NDArray, y: NDArray) -> tuple[slice, slice]:
    """Return the rows and columns that a ball can touch: painting only those is several times faster."""
    reach = radius + 2 / len(x)
    rows = np.searchsorted(-y, [-(position[1] + reach), -(position[1] - reach)])
    columns = np.searchsorted(x, [position[0] - reach, position[0] + reach])
    return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def _ball(
    image: NDArray,
    position: NDArray,
    radius: float,
    colour: NDArray,
    grid_x: NDArray,
    grid_y: NDArray,
    pixel: float,
) -> None:
    """Paint one lit sphere with an analytic edge one ``pixel`` wide into ``image`` [H, W, 3]."""
    dx, dy = grid_x - position[0], grid_y - position[1]
    distance = np.hypot(dx, dy)
    cover = np.clip((radius - distance) / pixel + 0.5, 0, 1)[..., None]
    nx, ny = dx / radius, dy / radius
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    lambert = np.clip(nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2], 0, 1)
    gloss = np.clip(2 * lambert * nz - _LIGHT[2], 0, 1) ** 24
    lit = colour * (0.55 + 0.5 * lambert)[..., None] + 0.5 * gloss[..., None]
    image[:] = image * (1 - cover) + np.clip(lit, 0, 1) * cover


def _line(
    image: NDArray, a: NDArray, b: NDArray, width: float, colour: NDArray, grid_x: NDArray, grid_y: NDArray
) -> None:
    along = b - a
    t = np.clip(((grid_x - a[0]) * along[0] + (grid_y - a[1]) * along[1]) / (along @ along), 0, 1)
    distance = np.hypot(grid_x - a[0] - t * along[0], grid_y - a[1] - t * along[1])
    cover = np.clip((width - distance) * grid_x.shape[1] + 0.5, 0, 1)[..., None]
    image[:] = image * (1 - cover) + colour * cover


def _grade(
    frames: NDArray, look: Look, grid_x: NDArray, grid_y: NDArray, rng: np.random.Generator | None
) -> NDArray[np.uint8]:
    frames = (0.5 + (frames - 0.5) * look.contrast) * np.array(look.tint) + look.lift
    if look.vignette:
        frames = frames * (1 - look.vignette * ((grid_x - 0.5) ** 2 + (grid_y - 0.5) ** 2))[..., None]
    if look.watermark:
        ring = np.abs(np.hypot(grid_x - 0.9, grid_y - 0.91) - 0.045) < 0.014
        bar = (np.abs(grid_x - 0.9) < 0.013) & (np.abs(grid_y - 0.91) < 0.045)
        mark = look.watermark * (ring | bar)[..., None]
        frames = frames * (1 - mark) + 0.97 * mark
    if look.grain and rng is not None:
        frames = frames + look.grain * rng.standard_normal(frames.shape[:3])[..., None]
    return (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
