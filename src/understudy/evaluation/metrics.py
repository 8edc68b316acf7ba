"""What is measured on a set of generated clips: law, motion, prompt, picture, with intervals.

Everything is read from pixels. The world's own prompts get the physics metrics; any other prompt gets the
pixel metrics only. The student's picture is judged in its own look, the house look; only its motion is
compared with the teacher's.

Shape legend: P prompts, K generated and M reference clips of a prompt, T frames, N balls, H/W pixels.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.clips import Clip, laplacian_variance
from understudy.errors import ClipError, PromptRejected
from understudy.evaluation.frechet import features, frechet
from understudy.evaluation.law import LawFit, law_error
from understudy.evaluation.parse import Track, track
from understudy.teachers.world.grammar import Scene, parse
from understudy.teachers.world.looks import HOUSE, render
from understudy.teachers.world.physics import FLOOR, RADIUS, Law, States

_Array = NDArray[np.float64]

UNITS: Final[dict[str, str]] = {
    "law_error": "px",
    "law_error_vertical": "px",
    "velocity_error": "px/frame",
    "acceleration_error": "px/frame^2",
    "gravity_error": "relative",
    "energy_gain": "share of steps",
    "bounce_error": "restitution",
    "magnitude": "px/frame",
    "permanence": "share of frames",
    "colour_ok": "share of clips",
    "count_ok": "share of clips",
    "direction_ok": "share of clips",
    "prompt_ok": "share of clips",
    "motion_distance": "px",
    "spread": "px",
    "look_error": "RMSE in [0, 1]",
    "colour_error": "RMSE in [0, 1]",
    "mass_error": "relative",
    "sharpness": "ratio, 1 is right",
    "first_sharpness": "ratio, 1 is right",
    "drift": "RMSE in [0, 1]",
    "pixel_motion": "mean |change| in [0, 1]",
    "flicker": "(255 - mean |change|) / 255, 1 is still",
    "detail": "ratio to the reference, 1 is right",
    "seam": "ratio, 1 is right",
    "rfd": "Frechet, compare with rfd_floor",
    "rfd_floor": "Frechet",
}
_DRAWS: Final = 2000
_FLYING: Final = ("drop", "throw", "bounce")
_KICK: Final = 1.0  # px/frame^2: free flight never turns upward that fast, a bounce does
_JOLT: Final = 1.5  # px/frame^2 off the clip's usual acceleration: something was hit
_NOISE: Final = 0.3  # px of position error that an energy rise has to exceed


@dataclass(frozen=True)
class Metric:
    """A mean with its 95 % interval over ``n`` clips; NaN where nothing could be measured."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, eq=False)
class ClipSet:
    """K clips (any K >= 1) for each of P prompts, all of one length, size and rate.

    Raises:
        ClipError: on construction, when that does not hold.
    """

    prompts: tuple[str, ...]
    clips: tuple[tuple[Clip, ...], ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.clips) or not self.prompts:
            raise ClipError(f"a clip set needs clips for each prompt, got {len(self.clips)} for {len(self.prompts)}")
        if len(set(self.prompts)) != len(self.prompts):
            raise ClipError("a clip set names a prompt twice; put all clips of a prompt into one entry")
        if not all(self.clips):
            raise ClipError(f"no clips for prompt {self.prompts[[bool(c) for c in self.clips].index(False)]!r}")
        kinds = {_kind(clip) for group in self.clips for clip in group}
        if len(kinds) > 1:
            raise ClipError(f"clips of one set must share frames, height, width and fps, got {sorted(kinds)}")

    @property
    def kind(self) -> tuple[float, ...]:
        """(T, H, W, fps), the same for every clip."""
        return _kind(self.clips[0][0])


def _kind(clip: Clip) -> tuple[float, ...]:
    return (clip.length, *clip.size, clip.fps)


@dataclass(frozen=True, eq=False)
class Reference:
    """What is needed of the reference clips, by prompt: prepare it once and measure many sets against it.

    Attributes:
        tracks: [M, T, N, 2] in px; prompts of the world only.
        features: [M, 48].
        detail: mean Laplacian variance.
        kind: (T, H, W, fps) of the clips.
    """

    tracks: Mapping[str, _Array]
    features: Mapping[str, _Array]
    detail: Mapping[str, float]
    kind: tuple[float, ...]


@dataclass(frozen=True)
class _Row:
    """What was measured for one prompt: values per clip [K] or prompt [1], and the features of both sides."""

    family: str
    clips: int
    values: Mapping[str, _Array]
    generated: _Array
    reference: _Array


def measure(
    clips: ClipSet,
    reference: ClipSet | Reference,
    seed: int = 0,
    law: Law | None = None,
    block: int | None = None,
) -> dict[str, Metric]:
    """Measure ``clips`` against ``reference``: teacher clips of the same prompts, size and rate.

    Args:
        clips: what the student made.
        reference: the teacher's clips, or what `prepare` made of them.
        seed: of the bootstrap.
        law: the teacher's true law; default the one-law world's.
        block: frames per latent block, for ``seam``.

    Returns:
        Metrics by name (units in `UNITS`). Prompts that the world does not know count in the pixel metrics
        only, with a warning.

    Raises:
        ClipError: the reference lacks a prompt or differs in frames, size or rate.
    """
    return _summarise(_rows(clips, reference, law or Law(), block), seed)


def measure_by_family(
    clips: ClipSet,
    reference: ClipSet | Reference,
    seed: int = 0,
    law: Law | None = None,
    block: int | None = None,
) -> dict[str, dict[str, Metric]]:
    """Like `measure`, in one pass for "all" and each family of prompts ("other": unknown to the world)."""
    return _by_family(_rows(clips, reference, law or Law(), block), seed)


def measure_in_detail(
    clips: ClipSet, reference: Reference, block: int | None = None
) -> tuple[dict[str, dict[str, Metric]], dict[str, dict[str, float]]]:
    """Return what `measure_by_family` does, and for each prompt the mean of every metric that it alone decides."""
    rows = _rows(clips, reference, Law(), block)
    means = {
        prompt: {name: _mean(values) for name, values in row.values.items()}
        for prompt, row in zip(clips.prompts, rows, strict=True)
    }
    return _by_family(rows, 0), means


def _by_family(rows: list[_Row], seed: int) -> dict[str, dict[str, Metric]]:
    groups = {"all": rows}
    for row in rows:
        groups.setdefault(row.family, []).append(row)
    return {family: _summarise(group, seed) for family, group in groups.items()}


def to_json(metrics: Mapping[str, Metric]) -> dict[str, dict[str, float | int | None]]:
    """Return ``metrics`` as a JSON value; NaN becomes null."""
    return {
        name: {key: None if math.isnan(value) else value for key, value in asdict(metric).items()}
        for name, metric in metrics.items()
    }


def prepare(reference: ClipSet) -> Reference:
    """Parse and pool the reference clips once."""
    tracks: dict[str, _Array] = {}
    for prompt, group in zip(reference.prompts, reference.clips, strict=True):
        scene = _scene(prompt)
        if scene is not None:
            tracks[prompt] = np.stack([filled(track(clip.frames, scene)) for clip in group])
    pooled = [features(clip.frames for clip in group) for group in reference.clips]
    detail = [float(np.mean([laplacian_variance(clip.frames) for clip in group])) for group in reference.clips]
    prompts = reference.prompts
    by_prompt = dict(zip(prompts, pooled, strict=True))
    return Reference(tracks, by_prompt, dict(zip(prompts, detail, strict=True)), reference.kind)


def bootstrap(groups: Sequence[_Array], seed: int = 0) -> Metric:
    """Return the mean over all finite values, one group [K] per prompt, and its 95 % bootstrap interval.

    Prompts, not clips, are redrawn: clips of one prompt are alike. A single prompt leaves only its clips.
    """
    if len(groups) == 1:
        groups = [np.atleast_1d(value) for value in groups[0]]
    finite = [values[np.isfinite(values)] for values in groups]
    finite = [values for values in finite if len(values)]
    if not finite:
        return Metric(math.nan, math.nan, math.nan, 0)
    sums, counts = np.array([values.sum() for values in finite]), np.array([len(values) for values in finite])
    draws = np.random.default_rng(seed).integers(len(sums), size=(_DRAWS, len(sums)))
    low, high = np.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [2.5, 97.5])
    return Metric(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()))


# Per prompt ------------------------------------------------------------------------------------------------


def _scene(prompt: str) -> Scene | None:
    try:
        return parse(prompt)
    except PromptRejected:
        return None


def _rows(clips: ClipSet, reference: ClipSet | Reference, law: Law, block: int | None) -> list[_Row]:
    ready = reference if isinstance(reference, Reference) else prepare(reference)
    if ready.kind != clips.kind:
        raise ClipError(f"reference clips are {ready.kind}, generated {clips.kind} (T, H, W, fps); resample first")
    absent = [prompt for prompt in clips.prompts if prompt not in ready.features]
    if absent:
        raise ClipError(f"the reference has no clips for {len(absent)} prompt(s), first {absent[0]!r}")
    unknown = [prompt for prompt in clips.prompts if _scene(prompt) is None]
    if unknown:
        warnings.warn(
            f"{len(unknown)} of {len(clips.prompts)} prompts are unknown to the embedded world "
            f"(first: {unknown[0]!r}); they get the pixel metrics only",
            stacklevel=3,
        )
    return [_row(prompt, group, ready, law, block) for prompt, group in zip(clips.prompts, clips.clips, strict=True)]


def _row(prompt: str, group: Sequence[Clip], reference: Reference, law: Law, block: int | None) -> _Row:
    scene = _scene(prompt)
    measured = [_pixels(clip.frames, reference.detail[prompt], block) for clip in group]
    tracks = []
    if scene is not None:
        for clip, values in zip(group, measured, strict=True):
            seen = track(clip.frames, scene)
            tracks.append(filled(seen))
            fit = law_error(seen, scene, law, clip.fps)
            values.update(_motion(seen, fit, scene, law.told(scene), clip.fps))
            values.update(_prompt(seen, scene))
            values.update(_picture(clip.frames, seen, fit, scene))
    arrays = {name: np.array([one[name] for one in measured]) for name in measured[0]}
    if tracks:
        paths = np.stack(tracks)
        arrays["motion_distance"] = np.array([energy_distance(paths, reference.tracks[prompt])])
        arrays["spread"] = np.array([np.sqrt(((paths - paths.mean(axis=0)) ** 2).sum(axis=-1).mean())])
    pooled = features(clip.frames for clip in group)
    return _Row(scene.family if scene else "other", len(group), arrays, pooled, reference.features[prompt])


def _summarise(rows: list[_Row], seed: int) -> dict[str, Metric]:
    metrics = {}
    for name in UNITS:
        groups = [row.values[name] for row in rows if name in row.values]
        if groups:
            metrics[name] = bootstrap(groups, seed)
    for name in ("motion_distance", "spread"):  # one value a prompt, made of all its clips
        if name in metrics:
            made_of = sum(row.clips for row in rows if np.isfinite(row.values.get(name, np.nan)).all())
            metrics[name] = replace(metrics[name], n=made_of)
    metrics["rfd"] = replace(_jackknife(rows, _rfd), n=sum(row.clips for row in rows))
    metrics["rfd_floor"] = replace(_jackknife(rows, _rfd_floor), n=sum(len(row.reference) for row in rows))
    return metrics


def _rfd(rows: list[_Row]) -> float:
    return _frechet([row.generated for row in rows], [row.reference for row in rows])


def _rfd_floor(rows: list[_Row]) -> float:
    return _frechet([row.reference[::2] for row in rows], [row.reference[1::2] for row in rows])


def _frechet(first: Sequence[_Array], second: Sequence[_Array]) -> float:
    a, b = np.concatenate(first), np.concatenate(second)
    return frechet(a, b) if min(len(a), len(b)) > 1 else math.nan


def _jackknife(rows: list[_Row], statistic: Callable[[list[_Row]], float]) -> Metric:
    """Return the statistic with a 95 % jackknife interval: doubled prompts would shift a Frechet distance."""
    value = statistic(rows)
    if len(rows) < 2:
        return Metric(value, math.nan, math.nan, 0)
    left_out = np.array([statistic(rows[:i] + rows[i + 1 :]) for i in range(len(rows))])
    reach = 1.96 * math.sqrt((len(rows) - 1) * float(left_out.var()))
    return Metric(value, max(0.0, value - reach), value + reach, 0)


# Motion, on centres in px ----------------------------------------------------------------------------------


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


def _motion(seen: Track, fit: LawFit, scene: Scene, law: Law, fps: float) -> dict[str, float]:
    height, width = seen.size
    points, lawful = seen.pixels, fit.states.positions * np.array([width, height])
    pull = law.gravity * height / fps**2
    values = {
        "law_error": fit.error,
        "law_error_vertical": fit.vertical,
        "velocity_error": _mean(np.linalg.norm(velocities(points) - velocities(lawful), axis=2)),
        "acceleration_error": _mean(np.linalg.norm(accelerations(points) - accelerations(lawful), axis=2)),
        "energy_gain": energy_gain(points, fit.states.radii**2, pull),
        "magnitude": _mean(np.linalg.norm(np.diff(points, axis=0), axis=2)),
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


def _mean(values: _Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


# Prompt ----------------------------------------------------------------------------------------------------


def direction_ok(points: _Array, direction: str | None) -> float:
    """Return 1 if the first ball of points [T, N, 2] starts to the told side, else 0; NaN if none is told."""
    if direction is None:
        return math.nan
    ahead = max(2, len(points) // 4)
    path = points[: ahead + 1, 0, 0]
    path = path[np.isfinite(path)]
    sign = 1 if direction == "right" else -1
    return float(len(path) > 1 and sign * (path[-1] - path[0]) > 0.5)


def _prompt(seen: Track, scene: Scene) -> dict[str, float]:
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


# Picture ---------------------------------------------------------------------------------------------------


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


def _picture(frames: NDArray[np.uint8], seen: Track, fit: LawFit, scene: Scene) -> dict[str, float]:
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


# Pixels, for any clip --------------------------------------------------------------------------------------


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


def _pixels(frames: NDArray[np.uint8], detail: float, block: int | None) -> dict[str, float]:
    motion = pixel_motion(frames)
    values = {"pixel_motion": motion, "flicker": 1 - motion}
    values["detail"] = laplacian_variance(frames) / detail if detail else math.nan
    if block is not None:
        values["seam"] = seam(frames, block)
    return values
