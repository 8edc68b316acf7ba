"""Metrics with known answers: perfect, unlawful, blurred, frozen, vanishing and misplaced clips."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import ClipError
from understudy.evaluation import metrics as m
from understudy.evaluation import motion, picture
from understudy.evaluation.metrics import ClipSet, Metric, Reference
from understudy.evaluation.parse import Track
from understudy.teachers.base import ClipParams
from understudy.teachers.world.teacher import WorldTeacher
from understudy.video.clips import Clip, decode_mp4, encode_mp4, resample

PROMPTS = (
    "a small red ball is dropped",
    "a large cyan ball is bounced on the floor",
    "a small yellow ball is thrown to the left",
    "a small yellow ball is thrown to the right",
    "a small blue ball hits a small green ball head on",
    "a large purple ball rolls down a ramp to the left",
)
FOREIGN = ("a cat plays the piano", "rain on a window")
Damage = Callable[[np.ndarray], np.ndarray]


def drawn(teacher: WorldTeacher, count: int, seed: int, damage: Damage | None = None) -> ClipSet:
    groups = []
    for prompt in PROMPTS:
        group = [teacher.draw(prompt, seed + k, ClipParams())[0] for k in range(count)]
        groups.append(tuple(Clip(damage(c.frames), c.fps) for c in group) if damage else tuple(group))
    return ClipSet(PROMPTS, tuple(groups))


def house(poor: bool = False) -> WorldTeacher:
    return WorldTeacher(look="house", size=48, fps=12, frames=16, poor=poor)


def blurred(frames: np.ndarray) -> np.ndarray:
    image = frames.astype(float)
    for _ in range(4):
        for axis in (1, 2):
            image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image.round().astype(np.uint8)


def late_blur(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:12], blurred(frames[12:])])


def without_ball_at_the_end(frames: np.ndarray) -> np.ndarray:
    grey = frames.copy()
    grey[12:] = grey[12:].min(axis=3, keepdims=True)
    return grey


@pytest.fixture(scope="module")
def reference() -> Reference:
    film = drawn(WorldTeacher(), 4, seed=100)
    groups = [tuple(resample(decode_mp4(encode_mp4(clip)), 12, 16, (48, 48)) for clip in group) for group in film.clips]
    return m.prepare(ClipSet(PROMPTS, tuple(groups)))


@pytest.fixture(scope="module")
def perfect(reference: Reference) -> dict[str, Metric]:
    return m.measure(drawn(house(), 4, seed=0), reference, block=4)


def damaged(reference: Reference, damage: Damage) -> dict[str, Metric]:
    return m.measure(drawn(house(), 1, seed=0, damage=damage), reference)


def test_perfect_clips_are_near_perfect_on_every_scale(perfect: dict[str, Metric]) -> None:
    zero = {
        "law_error": 0.15, "law_error_vertical": 0.15, "velocity_error": 0.05, "acceleration_error": 0.1,
        "gravity_error": 0.02, "energy_gain": 0.02, "bounce_error": 0.02, "look_error": 0.01,
        "colour_error": 0.01, "mass_error": 0.03, "drift": 0.005,
    }  # fmt: skip
    for name, limit in zero.items():
        assert abs(perfect[name].mean) < limit, name
    for name in ("permanence", "colour_ok", "count_ok", "direction_ok", "prompt_ok"):
        assert perfect[name].mean == 1, name
    for name in ("sharpness", "first_sharpness"):
        assert perfect[name].mean == pytest.approx(1, abs=0.03)
    assert set(perfect) == set(m.UNITS)
    assert perfect["law_error"].n == perfect["motion_distance"].n == perfect["rfd"].n == 24
    assert perfect["direction_ok"].n == 12  # three of the six prompts tell a direction
    for metric in perfect.values():
        assert not metric.low > metric.high


def test_unlawful_clips_show_in_the_law_and_not_in_the_picture(
    reference: Reference, perfect: dict[str, Metric]
) -> None:
    poor = m.measure(drawn(house(poor=True), 4, seed=0), reference)
    assert poor["law_error"].low > 10 * perfect["law_error"].high
    for name in ("velocity_error", "acceleration_error", "gravity_error", "bounce_error"):
        assert poor[name].mean > 3 * perfect[name].mean, name
    assert poor["energy_gain"].mean > perfect["energy_gain"].mean
    assert poor["sharpness"].mean == pytest.approx(1, abs=0.1)
    assert poor["motion_distance"].mean > perfect["motion_distance"].mean


def test_blur_lowers_sharpness_and_detail(reference: Reference, perfect: dict[str, Metric]) -> None:
    soft = damaged(reference, blurred)
    assert soft["sharpness"].mean < 0.5
    assert soft["first_sharpness"].mean < 0.5
    assert soft["detail"].mean < 0.5 * perfect["detail"].mean
    assert soft["look_error"].mean > 0.02
    assert soft["law_error"].mean < 0.5


def test_late_blur_is_drift(reference: Reference) -> None:
    late = damaged(reference, late_blur)
    assert late["drift"].mean > 0.02
    assert late["first_sharpness"].mean > 0.9 > late["sharpness"].mean


def test_a_frozen_clip_has_perfect_flicker_and_no_motion(reference: Reference) -> None:
    frozen = damaged(reference, lambda frames: np.repeat(frames[:1], len(frames), axis=0))
    assert frozen["flicker"].mean == 1
    assert frozen["magnitude"].mean == pytest.approx(0, abs=1e-6)
    assert frozen["pixel_motion"].mean == 0
    assert frozen["direction_ok"].mean == 0
    assert frozen["law_error"].mean > 3
    assert frozen["motion_distance"].n == 0  # a single clip says nothing about a distribution
    assert np.isnan(frozen["motion_distance"].mean)


def test_a_vanishing_ball_lowers_permanence_and_raises_the_law_error(reference: Reference) -> None:
    gone = damaged(reference, without_ball_at_the_end)
    assert gone["permanence"].mean == pytest.approx(0.75, abs=0.01)
    assert gone["law_error"].mean > 3
    assert gone["mass_error"].mean == pytest.approx(0.25, abs=0.03)
    assert gone["colour_ok"].mean == 1  # three quarters of the frames still have it
    gone_early = damaged(reference, lambda frames: without_ball_at_the_end(frames[::-1])[::-1])
    assert gone_early["law_error"].mean > 3


def test_motions_of_other_prompts_are_further_away(reference: Reference, perfect: dict[str, Metric]) -> None:
    own = drawn(house(), 4, seed=0)
    clips = list(own.clips)
    clips[2], clips[3] = clips[3], clips[2]  # left for right
    swapped = m.measure(ClipSet(PROMPTS, tuple(clips)), reference)
    assert swapped["motion_distance"].mean > perfect["motion_distance"].mean + 2
    assert swapped["direction_ok"].mean == pytest.approx(1 / 3)
    assert swapped["prompt_ok"].mean == pytest.approx(2 / 3)


def test_families_are_the_parts_of_the_whole(reference: Reference, perfect: dict[str, Metric]) -> None:
    families = m.measure_by_family(drawn(house(), 4, seed=0), reference, block=4)
    assert set(families) == {"all", "drop", "bounce", "throw", "collision", "ramp"}
    for name, metric in perfect.items():
        assert families["all"][name] == pytest.approx(metric, nan_ok=True), name
    parts = sum(families[name]["magnitude"].mean * families[name]["magnitude"].n for name in families if name != "all")
    assert parts / 24 == pytest.approx(perfect["magnitude"].mean)
    assert families["drop"]["direction_ok"].n == 0


def noise_clips(seed: int, count: int = 3) -> ClipSet:
    rng = np.random.default_rng(seed)
    make = [[Clip(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), 8) for _ in range(count)] for _ in FOREIGN]
    return ClipSet(FOREIGN, tuple(tuple(group) for group in make))


def test_foreign_prompts_get_the_pixel_metrics_and_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"2 of 2 prompts are unknown .*cat plays"):
        metrics = m.measure(noise_clips(0), noise_clips(1), block=2)
    assert set(metrics) == {"pixel_motion", "flicker", "detail", "seam", "rfd", "rfd_floor"}
    assert metrics["detail"].mean == pytest.approx(1, abs=0.05)
    assert metrics["pixel_motion"].mean == pytest.approx(1 / 3, abs=0.01)
    with pytest.warns(UserWarning, match="pixel metrics only"):
        assert set(m.measure_by_family(noise_clips(0), noise_clips(1))) == {"all", "other"}


def test_json_has_no_nan() -> None:
    value = m.to_json({"a": Metric(1.0, 0.5, 1.5, 3), "b": Metric(np.nan, np.nan, np.nan, 0)})
    assert json.loads(json.dumps(value, allow_nan=False)) == {
        "a": {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 3},
        "b": {"mean": None, "low": None, "high": None, "n": 0},
    }


def test_clip_sets_that_do_not_fit_are_refused(reference: Reference) -> None:
    clip, other = (Clip(np.zeros((8, n, n, 3), dtype=np.uint8), 8) for n in (32, 48))
    for prompts, clips, message in [
        (("a", "b"), ((clip,),), "needs clips for each prompt"),
        ((), (), "needs clips for each prompt"),
        (("a", "a"), ((clip,), (clip,)), "names a prompt twice"),
        (("a", "b"), ((clip,), ()), "no clips for prompt 'b'"),
        (("a",), ((clip, other),), "must share"),
    ]:
        with pytest.raises(ClipError, match=message):
            ClipSet(prompts, clips)
    with pytest.raises(ClipError, match="resample first"):
        m.measure(ClipSet(("a",), ((clip,),)), reference)
    with pytest.raises(ClipError, match="no clips for 1 prompt"):
        m.measure(ClipSet(("a",), ((Clip(np.zeros((16, 48, 48, 3), dtype=np.uint8), 12),),)), reference)


def test_bootstrap_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        groups = [rng.normal() + 0.5 * rng.normal(size=4) for _ in range(30)]
        metric = m.bootstrap(groups, seed=trial)
        hits += metric.low <= 0 <= metric.high
    assert 0.88 <= hits / 200 <= 0.99  # redrawing clips instead of prompts would cover about 0.65


def test_bootstrap_leaves_out_what_could_not_be_measured() -> None:
    metric = m.bootstrap([np.array([1.0, np.nan]), np.array([np.nan, np.nan]), np.array([3.0, 5.0])])
    assert metric.mean == 3
    assert metric.n == 3
    assert np.isnan(m.bootstrap([np.array([np.nan])]).mean)
    alone = m.bootstrap([np.array([1.0, 2.0, 3.0])])
    assert alone.low < alone.mean < alone.high


@settings(max_examples=30, deadline=None)
@given(gravity=st.floats(0.3, 1), start=st.floats(20, 40), speed=st.floats(-2, 2), restitution=st.floats(0.4, 1.0))
def test_gravity_and_bounce_come_back_from_a_parabola(
    gravity: float, start: float, speed: float, restitution: float
) -> None:
    time = np.arange(40.0)
    contact = (speed + np.sqrt(speed**2 + 2 * gravity * start)) / gravity
    rebound = restitution * (gravity * contact - speed)
    after = time - contact
    height = np.where(after < 0, start + speed * time - gravity * time**2 / 2, rebound * after - gravity * after**2 / 2)
    height = height[: max(4, int(np.argmax((after > 0) & (height < 0))) or 40)]  # up to the second contact
    assert motion.gravity_estimate(height) == pytest.approx(gravity, rel=1e-6)
    found = motion.restitution_estimate(height, gravity)
    assert np.isnan(found) or found == pytest.approx(restitution, rel=1e-6)


def test_energy_gain_counts_rising_steps() -> None:
    time = np.arange(16.0)
    falling = np.stack([np.full(16, 20.0), 100 - 0.4 * time**2], axis=1)[:, None]
    ones = np.ones(1)
    assert motion.energy_gain(falling, ones, gravity=0.8) == 0
    assert motion.energy_gain(falling, ones, gravity=0.2) > 0.5  # it gains speed that gravity cannot give
    assert np.isnan(motion.energy_gain(np.full((16, 1, 2), np.nan), ones, gravity=0.8))
    gaps = falling.copy()
    gaps[5:8] = np.nan
    assert motion.energy_gain(gaps, ones, gravity=0.8) == 0


def test_energy_distance_tells_distributions_apart() -> None:
    rng = np.random.default_rng(0)

    def tracks(count: int, shift: float) -> np.ndarray:
        ways = rng.normal(size=(count, 1, 1, 2)) * 3 + np.array([shift, 0])
        return np.linspace(0, 2, 16)[None, :, None, None] * ways

    same = [motion.energy_distance(tracks(8, 0), tracks(8, 0)) for _ in range(100)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 10
    assert motion.energy_distance(tracks(50, 6), tracks(50, 0)) > 3
    first, second = tracks(5, 0), tracks(6, 1)
    assert motion.energy_distance(first, second) == pytest.approx(motion.energy_distance(second, first))
    elsewhere = motion.energy_distance(first + 7, second - 7)  # where a clip begins is no motion
    assert elsewhere == pytest.approx(motion.energy_distance(first, second))


def test_gaps_are_filled_by_the_last_seen_place() -> None:
    x = np.array([np.nan, 0.25, np.nan, 0.5, np.nan])
    centres = np.stack([np.stack([x, x], axis=1), np.full((5, 2), np.nan)], axis=1)
    visible = np.isfinite(centres[..., 0])
    seen = Track(centres, visible.astype(float), visible, visible.sum(axis=1), (48, 48))
    assert motion.filled(seen)[:, 0, 0].tolist() == [12, 12, 12, 24, 24]
    assert (motion.filled(seen)[:, 1] == 0).all()


def test_flicker_and_seam_on_known_steps() -> None:
    level = np.cumsum([0, 1, 1, 1, 4, 1, 1, 1]).astype(np.uint8)
    frames = np.broadcast_to(level[:, None, None, None], (8, 16, 16, 3)).copy()
    assert picture.flicker(frames) == pytest.approx((255 - 10 / 7) / 255)
    assert picture.pixel_motion(frames[::-1]) == pytest.approx(10 / 7 / 255)
    assert picture.seam(frames, 4) == pytest.approx(4)
    assert np.isnan(picture.seam(frames, 8))
    assert np.isnan(picture.seam(frames, 1))
    assert np.isnan(picture.seam(np.repeat(frames[:1], 8, axis=0), 4))


def test_direction_is_judged_by_the_first_frames() -> None:
    there_and_back = np.concatenate([np.arange(8.0), np.arange(8.0, -16, -3)])
    points = np.stack([there_and_back, there_and_back * 0], axis=1)[:, None]
    assert motion.direction_ok(points, "right") == 1
    assert motion.direction_ok(points, "left") == 0
    assert np.isnan(motion.direction_ok(points, None))
    assert motion.direction_ok(np.full((16, 1, 2), np.nan), "left") == 0
