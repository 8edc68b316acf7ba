"""Clips that users bring to a run: what is of no use is named and left out, and the rest goes on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.cli import main
from understudy.collection.collect import Policy, plan_jobs
from understudy.collection.collect import collect as collect_jobs
from understudy.collection.exchange import unique
from understudy.collection.store import ClipStore
from understudy.doctor import diagnose
from understudy.errors import ClipError, ConfigError, TeacherStopped
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.run.clips import collect, collected, even_step, training_clips
from understudy.run.measure import evaluator
from understudy.run.start import load_start, start_form
from understudy.teachers.base import ClipParams, ClipRequest, JobStatus
from understudy.video.clips import Clip, ClipForm, encode_mp4
from understudy.video.ingest.survey import common_step, objection, rhythm, survey, too_short

RECIPE = """
name: mine
out: {folder}/run
teacher: {{kind: folder, path: {folder}/clips}}
prompts: {{kind: file, train: {folder}/train.txt, held_out: {folder}/held_out.txt}}
clips: {{store: {folder}/store, per_prompt: 2}}
student: {{start: {folder}/start}}
evaluation: {{prompts: 2, reference: 2, floor: 2, rollouts: 2}}
"""
WAN = ClipForm(480, 832, 16.0, 81)


def clip(frames: int = 12, fps: float = 12.0, seed: int = 0, size: tuple[int, int] = (16, 16)) -> bytes:
    """A clip of noise, other for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    return encode_mp4(Clip(np.repeat(noise, frames, axis=0), fps))


@pytest.fixture
def mine(tmp_path: Path, start: Path) -> Callable[..., RunConfig]:
    """Writes (file, prompt, bytes) rows as a folder with its recipe; the last prompt is held out."""

    def make(rows: list[tuple[str, str, bytes]], absent: tuple[str, ...] = ()) -> RunConfig:
        (tmp_path / "clips").mkdir()
        for name, _, data in rows:
            (tmp_path / "clips" / name).write_bytes(data)
        lines = [f"{name},{prompt}" for name, prompt, _ in rows]
        (tmp_path / "clips" / "prompts.csv").write_text("\n".join(["file,prompt", *lines]) + "\n")
        prompts = list(dict.fromkeys(prompt for _, prompt, _ in rows))
        (tmp_path / "train.txt").write_text("\n".join([*prompts[:-1], *absent]) + "\n")
        (tmp_path / "held_out.txt").write_text(prompts[-1] + "\n")
        (tmp_path / "mine.yaml").write_text(RECIPE.format(folder=tmp_path))
        return load_recipe(tmp_path / "mine.yaml")

    return make


def several() -> list[tuple[str, str, bytes]]:
    return [
        ("a.mp4", "a red ball", clip(seed=1)),
        ("anim.gif", "a red ball", b"GIF89a and no more"),
        ("short.mp4", "a blue ball", clip(4, seed=2)),
        ("b.mp4", "a blue ball", clip(seed=3)),
        ("c.mp4", "a green ball", clip(seed=4)),
        ("d.mp4", "a green ball", clip(seed=5)),
    ]


def test_what_is_of_no_use_is_named_and_the_rest_goes_on(mine: Callable[..., RunConfig], tmp_path: Path) -> None:
    config, said = mine(several(), absent=("a pink ball",)), []
    pairs = training_clips(config, ClipForm(16, 16, 12.0, 8))
    assert [prompt for prompt, _ in pairs] == ["a blue ball", "a red ball"]
    training_clips(config, ClipForm(16, 16, 12.0, 8), said.append)  # again, from the store
    said = "\n".join(said)
    assert f"folder {tmp_path / 'clips'} has no clip for 1 of 3 prompts: 'a pink ball'" in said
    assert "skipped 1 of 4: anim.gif is " in said
    assert (
        "left out 1 of 3 clips: short.mp4 is too short: it plays 0.33 s, the student draws 8 frames at 12 fps" in said
    )
    assert "(prompt 'a blue ball')" in said


def test_collect_says_the_same_and_ends_well(
    mine: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine(several(), absent=("a pink ball",))
    assert main(["collect", str(tmp_path / "mine.yaml")]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 clips settled" in out
    assert "skipped 1 of 4 files" in out
    for words in ("anim.gif is ", "short.mp4 is too short", "no clip for 1 of 3 prompts: 'a pink ball'"):
        assert words in out, words
    store = ClipStore(tmp_path / "store")
    assert sorted(str(r.provenance["file"]) for r in store) == ["a.mp4", "b.mp4", "short.mp4"]


def test_one_file_is_one_clip_however_often_it_is_asked_for(mine: Callable[..., RunConfig], tmp_path: Path) -> None:
    prompts = ["a red ball", "a blue ball", "a green ball"]
    config = mine([(f"{i}.mp4", prompt, clip(seed=i)) for i, prompt in enumerate(prompts)])
    report = collect(config, lambda report: None)
    assert (report.settled, report.total) == (2, 2)
    assert report.notes == (f"2 prompts have fewer than 2 clips in folder {tmp_path / 'clips'}: 2 clips in all",)


def test_a_teacher_that_sends_one_file_for_two_jobs_gave_one_clip(tmp_path: Path) -> None:
    store, teacher = ClipStore(tmp_path / "store", create=True), Seller([clip(seed=1)] * 2)
    collect_jobs(teacher, plan_jobs(["a red ball"], 2, 0), store, approve=lambda estimate: None)
    assert len(store) == 2
    assert len(unique(store.records())) == 1


def test_prompts_of_which_the_folder_has_none_are_an_error(mine: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = mine([("a.mp4", "a red ball", clip())], absent=("a pink ball",))
    with pytest.raises(ConfigError, match="has no clip for any of the 1 prompts, such as 'a pink ball'"):
        collect(config)


def test_nothing_but_useless_clips_is_an_error(mine: Callable[..., RunConfig]) -> None:
    config = mine([("a.mp4", "a red ball", clip(2)), ("b.mp4", "a blue ball", clip(3))])
    with pytest.raises(ClipError, match=r"none of the 1 clips can be used, the first because: a\.mp4 is too short"):
        training_clips(config, ClipForm(16, 16, 12.0, 8))


def test_the_floor_is_never_measured_against_itself(mine: Callable[..., RunConfig]) -> None:
    rows = [("t.mp4", "a red ball", clip(seed=9))]
    rows += [(f"{i}.mp4", "a blue ball", clip(seed=i)) for i in range(3)]
    config = mine(rows)
    measuring = evaluator(config, load_start(config))
    (floor,) = measuring.teacher.clips
    assert len(floor) == 1  # of three clips; two are the reference
    assert measuring.teacher.prompts == ("a blue ball",)


def test_a_single_held_out_clip_gives_no_floor(mine: Callable[..., RunConfig]) -> None:
    config = mine([("a.mp4", "a red ball", clip(seed=1)), ("b.mp4", "a blue ball", clip(seed=2))])
    with pytest.raises(ConfigError, match="one clip of each of the 1 held-out prompts, such as 'a blue ball'"):
        evaluator(config, load_start(config))


def test_other_aspect_ratios_are_cropped_or_padded_by_choice(mine: Callable[..., RunConfig]) -> None:
    rows = [("a.mp4", "a red ball", clip(size=(16, 32))), ("b.mp4", "a blue ball", clip())]
    config, form = mine(rows), ClipForm(16, 16, 12.0, 8)
    cropped = training_clips(config, form)[0][1].frames
    clips = config.clips.model_copy(update={"fit": "pad"})
    padded = training_clips(config.model_copy(update={"clips": clips}), form)[0][1].frames
    assert cropped[:, 0].mean() > 20
    assert (padded[:, :4] == 0).all()
    assert padded[:, 5:11].mean() > 20


# --- teachers that cost money -----------------------------------------------------------------------------------


class Seller:
    """A service that sends the given clips, one for each job."""

    name, terms, idempotent, local, own_files, currency = "seller-1", "free to use", True, False, False, "USD"

    def __init__(self, clips: list[bytes]) -> None:
        self.clips, self.sold = clips, 0

    def price(self, params: ClipParams) -> float | None:
        return 1.0

    def submit(self, request: ClipRequest) -> str:
        self.sold += 1
        return str(self.sold - 1)

    def poll(self, handle: str) -> JobStatus:
        return JobStatus("done")

    def download(self, handle: str, status: JobStatus, path: Path) -> None:
        path.write_bytes(self.clips[int(handle)])


def _short(received: Mapping[str, Any]) -> str | None:
    return objection(received, ClipForm(16, 16, 12.0, 8))


def test_paid_clips_that_are_too_short_stop_the_buying_and_are_kept(tmp_path: Path) -> None:
    store, teacher = ClipStore(tmp_path / "store", create=True), Seller([clip(3, seed=i) for i in range(20)])
    jobs = plan_jobs([f"ball {i}" for i in range(20)], 1, 0)
    with pytest.raises(
        TeacherStopped, match=r"none of the first 3 clips can be trained on.*its clip is too short: it plays"
    ):
        collect_jobs(
            teacher, jobs, store, policy=Policy(failures=3, poll=0.01), approve=lambda e: None, objection=_short
        )
    assert teacher.sold <= 7  # those that were under way
    assert len(store) >= 3


def test_one_paid_clip_that_is_too_short_is_noted_and_kept(tmp_path: Path) -> None:
    lengths = [12, 3, 12, 12]
    store, teacher = ClipStore(tmp_path / "store", create=True), Seller([clip(n, seed=n) for n in lengths])
    jobs = plan_jobs([f"ball {i}" for i in range(4)], 1, 0)
    report = collect_jobs(
        teacher, jobs, store, policy=Policy(poll=0.01), approve=lambda e: None, objection=_short, on_progress=print
    )
    assert (report.done, len(store)) == (4, 4)
    (note,) = report.notes
    assert note == ("its clip is too short: it plays 0.25 s, the student draws 8 frames at 12 fps (prompt 'ball 1')")


def test_clips_that_would_be_too_short_are_not_asked_for(tmp_path: Path, start: Path) -> None:
    text = RECIPE.format(folder=tmp_path).replace(
        f"{{kind: folder, path: {tmp_path}/clips}}", "{kind: world, size: 16, frames: 6, fps: 12}"
    )
    text = text.replace(
        f"{{kind: file, train: {tmp_path}/train.txt, held_out: {tmp_path}/held_out.txt}}", "{kind: world}"
    )
    (tmp_path / "short.yaml").write_text(text)
    config = load_recipe(tmp_path / "short.yaml")
    words = "6 frames at 12 fps play 0.50 s, too short for the student's 8 frames at 12 fps; ask for 7 or more"
    for held_out in (False, True):
        with pytest.raises(ConfigError, match=f"teacher.frames: {words}"):
            collect(config, held_out=held_out)
    with pytest.raises(ConfigError, match="too short"):
        collected(config, ["a red ball"], 1, tmp_path / "store", start_form(config))
    assert any(finding.ok is False and words in finding.advice for finding in diagnose(str(tmp_path / "short.yaml")))


# --- what is said of a set of clips -------------------------------------------------------------------------------


def received(**changes: object) -> dict[str, object]:
    """What is known of a clip that suits the Wan form."""
    return {
        "frames": 81, "fps": 16.0, "seconds": 81 / 16, "width": 832, "height": 480, "colour": "bt709", "hdr": False,
        "interlaced": False, "variable_rate": False,
    } | changes  # fmt: skip


def test_clips_as_they_should_be_are_not_spoken_of() -> None:
    assert survey([("a.mp4", received()), ("b.mp4", received(colour="rgb"))], WAN) == []
    assert objection(received(), WAN) is None


@pytest.mark.parametrize(
    ("changes", "ok", "words"),
    [
        (
            {"colour": "untagged"},
            None,
            "how their colours are coded: read as BT.601; 2 are tagged bt709",
        ),
        ({"hdr": True}, False, "1 of 3 clips are HDR video and are left out: odd.mp4"),
        ({"interlaced": True}, None, "1 of 3 clips hold two fields a frame"),
        (
            {"fps": 24.0},
            None,
            "24 to 16 frames/s steps 2, 1, 2, 1, 2, 1, 2, 1, ... source frames; so that a discriminator",
        ),
        ({"fps": 30.0}, None, "30 to 16 frames/s steps 2, 2, 2, 2, 1, 2, 2, 2, ..."),
        ({"fps": 8.0}, None, "8 to 16 frames/s steps"),
        ({"width": 1080, "height": 1920}, None, "1080x1920: cropped to the middle 32% at worst"),
    ],
)
def test_what_a_discriminator_could_win_by_is_named(changes: dict[str, object], ok: bool | None, words: str) -> None:
    clips = [("a.mp4", received()), ("odd.mp4", received(**changes)), ("b.mp4", received())]
    found = [remark for remark in survey(clips, WAN) if words in remark.text]
    assert [remark.ok for remark in found] == [ok]


def test_colours_that_nobody_tagged_are_said_once() -> None:
    (remark,) = survey([(f"{i}.mp4", received(colour="untagged")) for i in range(9)], WAN)
    assert (remark.ok, remark.text) == (True, "9 of 9 clips do not say how their colours are coded: read as BT.601")


@pytest.mark.parametrize(
    ("rates", "step"),
    [
        ([16], 1),
        ([32, 48], 1),
        ([24], 2),
        ([23.976], 2),
        ([24, 16], 2),
        ([8], 2),
        ([30], 4),
        ([25], 4),
        ([24, 25, 30], 4),
    ],
)
def test_both_sides_move_evenly_at_a_common_step(rates: list[float], step: int) -> None:
    found = common_step(rates, WAN)
    assert found == step
    for rate in rates:  # there a source frame lies within a fifteenth of a step of every time that is looked at
        times = np.arange(0, 80, step) / 16 * rate
        assert np.abs(times - times.round()).max() <= 0.08 * step / 16 * rate + 1e-9


def test_too_few_frames_are_not_left_to_look_at() -> None:
    assert common_step([25], ClipForm(64, 64, 16.0, 16)) == 1
    assert [rhythm(rate, WAN) for rate in (16, 32, 47.952, 48)] == [None] * 4
    assert too_short(120, 24, WAN) is None
    assert "ask for 120 or more" in str(too_short(119, 24, WAN))


def test_the_step_of_a_store_is_that_of_its_clips(mine: Callable[..., RunConfig]) -> None:
    config = mine([("a.mp4", "a red ball", clip(20, 18.0)), ("b.mp4", "a blue ball", clip())])
    collect(config, lambda report: None)
    assert even_step(config, ClipForm(16, 16, 12.0, 16)) == 2
    assert even_step(config, ClipForm(16, 16, 9.0, 16)) == 1


# --- the doctor -----------------------------------------------------------------------------------------------------


def test_the_doctor_looks_at_a_folder_before_anything_else(
    mine: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine([*several(), ("copy.mp4", "a red ball", clip(seed=1))])
    assert main(["doctor", str(tmp_path / "clips")]) == 0
    out = capsys.readouterr().out
    assert "ok    prompts: 3 prompts have 7 clips" in out
    assert "warn  clip: anim.gif is " in out
    assert "warn  clips: 1 of 7 cannot be used" in out
    assert "ok    clips: 6 of 7 can be read to their end" in out
    assert "0.33 s (short.mp4) to 1.00 s" in out
    assert "1 are copies of another clip of their prompt" in out
    assert main(["doctor", str(tmp_path / "mine.yaml")]) == 0
    assert "left out of training: short.mp4 is too short" in capsys.readouterr().out


def test_a_folder_without_prompts_is_looked_at_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.mp4").write_bytes(clip())
    (tmp_path / "y.webm").write_bytes(b"<html>")
    (tmp_path / "._x.mp4").write_bytes(b"a Mac's")
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fail  prompts: " in out
    assert "y.webm is not a video file" in out
    assert "1 of 2 can be read" in out


def test_the_doctor_looks_at_one_video_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "x.gif").write_bytes(b"<html>")
    (finding,) = diagnose(str(tmp_path / "x.gif"))
    assert finding.ok is False
    assert "is not a video file" in finding.advice
    (tmp_path / "x.mp4").write_bytes(clip())
    assert "12 frames of 16x16 at 12 fps" in diagnose(str(tmp_path / "x.mp4"))[0].advice


def test_records_are_json(mine: Callable[..., RunConfig], tmp_path: Path) -> None:
    collect(mine(several()), lambda report: None)
    for line in (tmp_path / "store" / "records.jsonl").read_text().splitlines():
        assert json.loads(line)["received"]["colour"] == "bt709"
