import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ConfigError, PromptRejected
from understudy.teachers.base import ClipParams, Teacher
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.physics import Law, freedom, simulate
from understudy.teachers.world.teacher import WorldTeacher
from understudy.video.clips import decode_mp4

PROMPT = "a small red ball is dropped"
SMALL = WorldTeacher(size=24, frames=8, fps=12.0)
OPEN = ClipParams()


class TestGenerate:
    @pytest.mark.parametrize("look", ["film", "house"])
    def test_same_prompt_and_seed_give_the_same_bytes(self, look: str) -> None:
        teacher = replace(SMALL, look=look)
        first = teacher.generate(PROMPT, 3, OPEN)
        assert replace(SMALL, look=look).generate(PROMPT, 3, OPEN) == first
        assert teacher.generate(PROMPT, 4, OPEN) != first
        assert teacher.generate("a small blue ball is dropped", 3, OPEN) != first

    def test_global_random_state_does_not_matter(self) -> None:
        first = SMALL.generate(PROMPT, 3, OPEN)
        np.random.seed(1)  # noqa: NPY002
        assert SMALL.generate(PROMPT, 3, OPEN) == first

    def test_is_a_finished_clip_of_the_drawn_motion(self) -> None:
        clip, states = replace(SMALL, look="house", size=48).draw(PROMPT, 3, OPEN)
        decoded = decode_mp4(replace(SMALL, look="house", size=48).generate(PROMPT, 3, OPEN))
        assert decoded.frames.shape == clip.frames.shape == (8, 48, 48, 3)
        assert decoded.fps == clip.fps == 12.0
        assert np.abs(decoded.frames.astype(int) - clip.frames).mean() < 2
        red = decoded.frames[..., 0].astype(int) - decoded.frames[..., 1] > 60
        for frame, mask in enumerate(red):
            rows, columns = np.nonzero(mask)
            x, y = states.positions[frame, 0]
            assert (columns.mean() + 0.5) / 48 == pytest.approx(x, abs=0.02)
            assert 1 - (rows.mean() + 0.5) / 48 == pytest.approx(y, abs=0.02)

    def test_seeds_draw_the_prompts_distribution(self) -> None:
        starts = [SMALL.draw(PROMPT, seed, OPEN)[1].positions[0, 0] for seed in range(40)]
        assert np.ptp([x for x, _ in starts]) > 0.5
        assert np.ptp([y for _, y in starts]) > 0.25

    def test_one_law_for_all_unless_poor(self) -> None:
        def gravity(teacher: WorldTeacher, seed: int) -> float:
            y = teacher.draw(PROMPT, seed, ClipParams(frames=4, fps=24.0))[1].positions[:, 0, 1]
            return float(-np.diff(y, 2).mean() * 24**2)

        lawful = [gravity(SMALL, seed) for seed in range(10)]
        poor = [gravity(replace(SMALL, poor=True), seed) for seed in range(10)]
        assert lawful == pytest.approx([2.3] * 10, rel=1e-2)
        assert np.ptp(poor) > 1

    def test_states_are_a_point_of_the_scenes_freedom(self) -> None:
        clip, states = SMALL.draw(PROMPT, 5, OPEN)
        rng = np.random.default_rng([5, int.from_bytes(hashlib.sha256(PROMPT.encode()).digest()[:8], "big")])
        scene = parse(PROMPT)
        expected = simulate(scene, Law(), rng.uniform(size=freedom(scene)), 8, 12.0)
        assert np.array_equal(states.positions, expected.positions)
        assert clip.length == 8

    @pytest.mark.parametrize("prompt", ["a small red cube is dropped", "", "a small red ball"])
    def test_unknown_prompt_is_rejected(self, prompt: str, tmp_path: Path) -> None:
        teacher = replace(SMALL, sealed=tmp_path / "sealed")
        with pytest.raises(PromptRejected, match="prompt rejected"):
            teacher.generate(prompt, 0, OPEN)
        assert not (tmp_path / "sealed").exists()


class TestParams:
    def test_settings_hold_where_the_request_is_open(self) -> None:
        clip = decode_mp4(SMALL.generate(PROMPT, 0, OPEN))
        assert [clip.length, clip.fps, clip.width, clip.height] == [8, 12.0, 24, 24]

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            (ClipParams(frames=5), [5, 12.0, 24, 24]),
            (ClipParams(fps=30.0), [8, 30.0, 24, 24]),
            (ClipParams(width=40), [8, 12.0, 40, 24]),
            (ClipParams(height=40), [8, 12.0, 24, 40]),
            (ClipParams(frames=3, fps=8.0, width=33, height=17), [3, 8.0, 33, 17]),
        ],
    )
    def test_request_goes_first(self, params: ClipParams, expected: list[float]) -> None:
        clip = decode_mp4(SMALL.generate(PROMPT, 0, params))
        assert [clip.length, clip.fps, clip.width, clip.height] == expected

    def test_rate_and_size_do_not_change_the_motion(self) -> None:
        slow = SMALL.draw(PROMPT, 0, ClipParams(fps=12.0, frames=8))[1].positions
        fast = SMALL.draw(PROMPT, 0, ClipParams(fps=24.0, frames=15, width=64, height=64))[1].positions
        assert np.abs(slow - fast[::2]).max() < 5e-3


class TestSealed:
    def test_nothing_is_written_unless_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        SMALL.generate(PROMPT, 0, OPEN)
        assert list(tmp_path.iterdir()) == []

    def test_states_are_named_by_the_clips_hash(self, tmp_path: Path) -> None:
        teacher = replace(SMALL, sealed=tmp_path / "a" / "sealed")
        mp4 = [teacher.generate(PROMPT, seed, OPEN) for seed in (0, 1)]
        folder = tmp_path / "a" / "sealed"
        assert {path.name for path in folder.iterdir()} == {f"{hashlib.sha256(x).hexdigest()}.npz" for x in mp4}
        _, states = SMALL.draw(PROMPT, 1, OPEN)
        with np.load(folder / f"{hashlib.sha256(mp4[1]).hexdigest()}.npz") as found:
            assert np.array_equal(found["positions"], states.positions)
            assert np.array_equal(found["radii"], states.radii)

    def test_clip_itself_does_not_know(self, tmp_path: Path) -> None:
        assert replace(SMALL, sealed=tmp_path).generate(PROMPT, 0, OPEN) == SMALL.generate(PROMPT, 0, OPEN)


class TestName:
    def test_changes_with_every_setting_that_changes_clips(self) -> None:
        teachers = [
            SMALL,
            replace(SMALL, look="house"),
            replace(SMALL, size=32),
            replace(SMALL, fps=24.0),
            replace(SMALL, fps=23.976),
            replace(SMALL, frames=9),
            replace(SMALL, poor=True),
        ]
        assert len({teacher.name for teacher in teachers}) == len(teachers)

    def test_stays_the_same_for_the_same_clips(self, tmp_path: Path) -> None:
        assert SMALL.name == replace(SMALL, sealed=tmp_path).name == WorldTeacher("film", 24, 12, 8).name
        assert SMALL.name == "world-1/film-24px-12fps-8f"


def test_keeps_the_contract() -> None:
    teacher: Teacher = SMALL
    assert "training on outputs allowed" in teacher.terms


def test_unknown_look_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown look 'noir'; choose one of house, film"):
        WorldTeacher(look="noir")
