"""What is measured on a set of generated clips: law, motion, prompt, picture, with intervals.

Everything is read from pixels. The world's own prompts get the physics metrics; any other prompt gets the
pixel metrics only. The student's picture is judged in its own look, the house look; only its motion is
compared with the teacher's.

Shape legend: P prompts, K generated and M reference clips of a prompt, T frames, N balls, H/W pixels.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from understudy.errors import ClipError, PromptRejected
from understudy.evaluation.frechet import features, frechet
from understudy.evaluation.law import law_error
from understudy.evaluation.motion import energy_distance, filled, finite_mean, motion_metrics, prompt_metrics
from understudy.evaluation.parse import track
from understudy.evaluation.picture import picture_metrics, pixel_metrics
from understudy.teachers.world.grammar import Scene, parse
from understudy.teachers.world.physics import Law
from understudy.video.clips import Clip, laplacian_variance

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
        prompt: {name: finite_mean(values) for name, values in row.values.items()}
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
    measured = [pixel_metrics(clip.frames, reference.detail[prompt], block) for clip in group]
    tracks = []
    if scene is not None:
        for clip, values in zip(group, measured, strict=True):
            seen = track(clip.frames, scene)
            tracks.append(filled(seen))
            fit = law_error(seen, scene, law, clip.fps)
            values.update(motion_metrics(seen, fit, scene, law.told(scene), clip.fps))
            values.update(prompt_metrics(seen, scene))
            values.update(picture_metrics(clip.frames, seen, fit, scene))
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
