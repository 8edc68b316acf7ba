import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.evaluation.metrics import UNITS
from understudy.evaluation.report import METRICS, direction, label, write_report
from understudy.evaluation.report.markup import Html, el
from understudy.evaluation.report.page import render
from understudy.evaluation.report.record import Reading, read_record
from understudy.evaluation.report.verdict import compare, comparisons, figure, tally, verdict
from understudy.video.clips import Clip, write_mp4

EVIL = '<script>alert("x")</script> & a "red" ball'
VOID = {"meta", "img", "br"}


def metric(mean: float | None, half: float = 0.1) -> dict[str, float | int | None]:
    if mean is None:
        return {"mean": None, "low": None, "high": None, "n": 0}
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 288}


def readings(law: float, distance: float, look: float, first: float) -> dict[str, Any]:
    return {
        "law_error": metric(law),
        "motion_distance": metric(distance),
        "look_error": metric(look, 0.002),
        "first_sharpness": metric(first, 0.02),
        "bounce_error": metric(None),
        "permanence": metric(0.98, 0.01),
        "house_metric": metric(5.0),
    }


SUMMARY: dict[str, Any] = {
    "start": readings(2.18, 3.93, 0.042, 0.88),
    "end": readings(1.04, 1.63, 0.0435, 0.87),
    "teacher_floor": {"law_error": metric(0.35, 0.03), "motion_distance": metric(0.05, 0.06)},
    "arms": {
        "random": readings(2.05, 4.0, 0.042, 0.88),
        "sft": readings(1.09, 2.55, 0.061, 0.37),
        "sft-masked": readings(0.6, 1.7, 0.043, 0.87),
    },
    "seconds": {"total": 412.3, "afd": 131.2, "sft": 17.4},
    "steps": 6,
    "seed": 3,
    "version": "0.1.0",
    "name": "quick <i>start</i>",
    "objective": "afd",
    "probe": {"brightness": 0.58, "fine_grain": 0.93},
    "warnings": ["fine_grain alone tells teacher from student"],
    "hardware": "2 CPU cores",
    "teacher": "world-1",
    "teacher_clips": 216,
}


def log_lines() -> list[str]:
    lines: list[dict[str, Any]] = [{"event": "note", "text": "probe: <b>all clear</b>"}]
    for step in range(10):
        row: dict[str, Any] = {"step": step, "phase": "warm-up" if step < 4 else "update", "arm": "afd"}
        row |= {"pair_accuracy": 0.5 + 0.03 * step, "margin": 0.1 * step, "d_loss": 0.6, "own_gauge": 1.0 * step}
        if step >= 4:
            row |= {"loss": 1 / step, "drift": 0.01 * step, "saturated": 0.3, "corr_brightness": None}
        lines.append(row)
    lines += [{"step": step, "phase": "update", "arm": "sft", "loss": 0.5} for step in range(6)]
    for step in (7, 10):
        lines.append({"event": "evaluation", "arm": "afd", "step": step, "metrics": SUMMARY["end"]})
    return [json.dumps(line) for line in lines]


def moving(size: int, frames: int, offset: int) -> Clip:
    pixels = np.full((frames, size, size, 3), 128, dtype=np.uint8)
    for t in range(frames):
        pixels[t, size // 3 : size // 2, (t + offset) % size : (t + offset) % size + 4] = (230, 40, 60)
    return Clip(pixels, 12.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for arm, size, frames in (
        ("teacher", 20, 12),
        ("start", 16, 12),
        ("afd", 16, 12),
        ("sft", 16, 9),
        ("other", 16, 12),
    ):
        place = folder / "clips" / arm
        place.mkdir(parents=True)
        for take in range(3):
            write_mp4(place / f"aaaaaaaaaaaa-{take}.mp4", moving(size, frames, take))
        if arm != "start":
            write_mp4(place / "bbbbbbbbbbbb-0.mp4", moving(size, frames, 0))
    prompts = {"bbbbbbbbbbbb": EVIL, "aaaaaaaaaaaa": "a small red ball is dropped", "cccccccccccc": "no clips"}
    (folder / "clips" / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    (folder / "config.yaml").write_text("name: quick\nnote: </pre><script>x</script>\n", encoding="utf-8")
    (folder / "metrics.jsonl").write_text("\n".join(log_lines()) + '\n{"step": 10, "pha', encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    return folder


def change(run: Path, **fields: Any) -> None:
    (run / "summary.json").write_text(json.dumps(copy.deepcopy(SUMMARY) | fields), encoding="utf-8")


class Page(HTMLParser):
    """Every element with its attributes; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"[\s\u202f\u00a0]+", " ", "".join(self.words))


def page(run: Path) -> Page:
    return Page(render(read_record(run)))


def test_report_is_one_whole_file_that_needs_no_other(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert {one.name for one in run.iterdir()} - before == {"report.html"}
    found = Page(text)
    addresses = [value for _, a in found.elements for key, value in a.items() if key in ("src", "href", "xlink:href")]
    assert all(address and address.startswith(("data:image/webp;base64,", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert len(text) < 6e6


def test_text_from_the_run_never_becomes_markup(run: Path) -> None:
    text = render(read_record(run))
    found = Page(text)
    assert EVIL in found.text
    assert "quick <i>start</i>" in found.text
    assert "</pre><script>x</script>" in found.text
    assert "probe: <b>all clear</b>" in found.text
    assert len(found.all("script")) == 1
    assert not found.all("i")
    assert any(EVIL in str(image["alt"]) for image in found.all("img"))


def test_page_can_be_read_by_everybody(run: Path) -> None:
    found = page(run)
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(image.get("alt") for image in found.all("img"))
    assert all(head.get("scope") for head in found.all("th"))
    pictures = found.all("svg")
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in pictures)
    ids = [attributes["id"] for _, attributes in found.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', render(read_record(run)))
    assert set(targets) <= set(ids)


def test_words_of_a_success(run: Path) -> None:
    text = page(run).text
    assert "Motion got better, and the picture held." in text
    assert (
        "Law error 2.18 → 1.04 px (−52 %), 95 % intervals apart; 62 % of the way to the teacher’s own 0.35 px." in text
    )
    assert "Appearance held within 5 % of the start: look error 0.042 → 0.043 (+4 %)" in text
    assert (
        "Against SFT: better at motion distance, look error and first-frame sharpness; no clear difference in law error."
        in text
    )
    assert "Against sft-masked: worse at law error; no clear difference in motion distance, look error" in text


@pytest.mark.parametrize(
    ("end", "tone", "lead"),
    [
        (readings(2.1, 3.9, 0.042, 0.88), "open", "No clear change in motion: the intervals overlap."),
        (readings(3.0, 5.0, 0.042, 0.88), "bad", "Motion got worse: AFD did not work in this run."),
        (
            readings(1.0, 5.0, 0.042, 0.88),
            "mixed",
            "A mixed result for motion: better at one figure, worse at another.",
        ),
        (readings(1.0, 1.6, 0.045, 0.88), "good", "Motion got better, and the picture nearly held."),
        (readings(1.0, 1.6, 0.042, 0.40), "mixed", "Motion got better, but the picture got worse."),
        ({"look_error": metric(0.04)}, "open", "Nothing was measured both at the start and at the end."),
        ({"law_error": {"mean": 1.0}}, "open", "No verdict on motion: the figures have no intervals."),
    ],
)
def test_lead_follows_the_numbers(run: Path, end: dict[str, Any], tone: str, lead: str) -> None:
    change(run, end=end)
    record = read_record(run)
    assert record.summary is not None
    found = verdict(record, record.summary)
    assert (found.tone, found.lead) == (tone, lead)


def test_without_physics_the_verdict_is_about_likeness(run: Path) -> None:
    change(run, start={"rfd": metric(88, 5)}, end={"rfd": metric(41, 5), "rfd_floor": metric(3.5)}, arms={})
    text = page(run).text
    assert "Likeness to the teacher’s clips got better." in text
    assert "of the way to the teacher’s own 3.5." in text


def test_comparison_counts_only_intervals_that_are_apart(run: Path) -> None:
    record = read_record(run)
    assert record.summary is not None
    sft, random, masked = comparisons(record, record.summary)
    assert [one.second for one in (sft, random, masked)] == ["sft", "random", "sft-masked"]
    assert sft.better == ["motion_distance", "look_error", "first_sharpness"]
    assert (sft.worse, sft.unclear) == ([], ["law_error", "permanence"])
    assert tally(sft) == "Of 5 figures AFD is better at 3; the others show no clear difference."
    assert masked.worse == ["law_error"]


@pytest.mark.parametrize(
    ("name", "before", "after", "outcome"),
    [
        ("law_error", (1.9, 2.1), (0.9, 1.1), "better"),
        ("law_error", (1.9, 2.1), (1.0, 1.95), "unclear"),
        ("permanence", (0.9, 0.92), (0.95, 0.99), "better"),
        ("sharpness", (0.8, 0.9), (0.95, 1.02), "better"),
        ("sharpness", (0.95, 1.02), (1.2, 1.4), "worse"),  # over-sharp is wrong too
        ("spread", (1.0, 1.1), (1.7, 1.9), "better"),  # the teacher has 1.8
        ("flicker", (0.9, 0.91), (0.98, 0.99), "unjudged"),
        ("unheard_of", (1.0, 1.1), (2.0, 2.1), "unjudged"),
    ],
)
def test_better_depends_on_what_is_right(
    name: str, before: tuple[float, float], after: tuple[float, float], outcome: str
) -> None:
    first, second = (Reading(sum(ends) / 2, *ends) for ends in (before, after))
    assert compare(name, first, second, Reading(1.8)) == outcome
    assert compare(name, None, second) == "unjudged"
    assert compare(name, Reading(1.0), second) == "unjudged"


def test_every_measured_metric_has_a_label() -> None:
    assert set(UNITS) - {"rfd_floor"} == set(METRICS)
    assert direction("law_error") == "lower"
    assert direction("permanence") == "higher"
    assert direction("sharpness") is None
    assert direction("house_metric") is None
    assert label("house_metric").text == "house_metric"


def test_table_marks_what_moved_and_keeps_unknown_metrics(run: Path) -> None:
    text = page(run).text
    assert "✓ better −52 %" in text
    assert "✗ worse −58 %" in text
    assert "house_metric" in text
    assert "Bounce error" not in text  # nothing could be measured
    assert "Teacher itself" in text


def pictures(run: Path) -> dict[str, Image.Image]:
    found = {}
    for image in page(run).all("img"):
        data = base64.b64decode(str(image["src"]).partition(",")[2])
        found[str(image["alt"])] = Image.open(io.BytesIO(data))
    return found


def test_clips_play_at_their_true_speed_and_in_step(run: Path) -> None:
    found = pictures(run)
    first = [alt for alt in found if "take 1: “a small red ball" in alt]
    assert [alt.partition(",")[0] for alt in first] == ["Teacher", "Start", "SFT", "AFD", "other"]
    assert not [alt for alt in found if "take 3" in alt]
    for alt in first:
        image = found[alt]
        assert max(image.size) == 144
        times = []
        for frame in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(frame)
            image.load()
            times.append(image.info["duration"])
        assert sum(times) == 1000  # 12 frames at 12 fps, also for the shorter one, which waits
        assert len(times) == (9 if alt.startswith("SFT") else 12)
        assert set(times[:-1]) <= {83, 84}


def test_prompts_keep_their_order_and_missing_clips_are_said(run: Path) -> None:
    (run / "clips" / "sft" / "aaaaaaaaaaaa-0.mp4").write_bytes(b"torn")
    found = page(run)
    text = found.text
    assert text.index(f"“{EVIL}”") < text.index("“a small red ball is dropped”")
    assert "no clip" in text
    assert "clip cannot be read" in text


def test_without_a_prompt_list_clips_are_named_by_file(run: Path) -> None:
    (run / "clips" / "prompts.json").write_text("[torn", encoding="utf-8")
    assert "“aaaaaaaaaaaa”" in page(run).text


def test_noisy_and_long_clips_stay_small(run: Path) -> None:
    frames = np.random.default_rng(0).integers(256, size=(40, 96, 128, 3), dtype=np.uint8)
    for arm in ("teacher", "start", "afd", "sft"):
        write_mp4(run / "clips" / arm / "aaaaaaaaaaaa-0.mp4", Clip(frames, 4.0), crf=30)
    text = render(read_record(run))
    assert len(text) < 6e6
    assert "Long clips show their first seconds." in Page(text).text


def test_curves_are_drawn_against_updates(run: Path) -> None:
    (run / "metrics.jsonl").open("a", encoding="utf-8").write("\n" + log_lines()[6] + "\n")  # a resumed run repeats
    record = read_record(run)
    assert [x for x, _ in record.arms["afd"].values["pair_accuracy"]] == list(range(-3, 7))
    assert [x for x, _ in record.arms["afd"].values["loss"]] == list(range(1, 7))
    assert [x for x, _ in record.arms["sft"].values["loss"]] == list(range(1, 7))
    assert [x for x, _ in record.arms["afd"].measured["law_error"]] == [3, 6]
    assert record.skipped == 1
    found = page(run)
    labels = [one.get("aria-label") or "" for one in found.all("svg")]
    assert any(text.startswith("Pair accuracy: AFD from 0.5") for text in labels)
    assert any(text.startswith("Law error (px) on held-out prompts: AFD from 2.18 to 1.04") for text in labels)
    assert any(text.startswith("own_gauge") for text in labels)
    assert "1 line of metrics.jsonl could not be read" in found.text


def test_curves_take_the_colours_of_the_page(run: Path) -> None:
    text = render(read_record(run))
    assert "var(--arm-0)" in text
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"(?:stroke|fill): #", drawn)
    assert "font:" not in drawn


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert render(read_record(run)) == render(read_record(run))


def test_an_interrupted_run_shows_what_it_has(run: Path) -> None:
    (run / "summary.json").unlink()
    text = page(run).text
    assert "This run has not finished." in text
    assert "It has no summary.json. It logged 10 steps so far" in text
    assert "Pair accuracy" in text
    assert "Before and after" not in text
    (run / "summary.json").write_text('{"start": {', encoding="utf-8")
    assert "Its summary.json cannot be read." in page(run).text


def test_a_bare_run_folder_is_enough(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"start": null, "end": {"law_error": null}, "arms": 3}', encoding="utf-8")
    text = page(tmp_path).text
    assert "Nothing was measured" in text
    assert "metrics.jsonl is missing" in text
    assert "This run kept no clips." in text
    assert "There is no config.yaml." in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"run folder .*absent does not exist") as missing:
        write_report(tmp_path / "absent")
    with pytest.raises(UnderstudyError, match="is not a run folder") as empty:
        write_report(tmp_path)
    assert all("\n" not in str(error.value) for error in (missing, empty))


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.184, "2.18"), (0.0421, "0.042"), (41.04, "41.0"), (1234.5, "1,234"), (-0.0001, "−1.0e−04"), (0, "0.000")],
)
def test_figures_have_about_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_minus_nothing_is_nothing() -> None:
    assert figure(-0.001, 3.0) == "0.00"


def test_elements_escape_all_but_markup() -> None:
    assert el("p", "<", Html("<br>"), title='"', hidden=False, class_="a") == '<p title="&quot;" class="a">&lt;<br></p>'


def test_warnings_stand_out_unless_they_are_all_that_was_said(run: Path) -> None:
    banners = [a for a in page(run).all("p") if a.get("class") == "banner"]
    assert len(banners) == 1
    change(run, warnings=["probe: <b>all clear</b>"])
    found = page(run)
    assert not [a for a in found.all("p") if a.get("class") == "banner"]
    assert "probe: <b>all clear</b>" in found.text


@pytest.mark.parametrize(("accuracy", "place"), [(0.5, "below"), (0.8, "in"), (1.0, "above")])
def test_without_notes_the_last_accuracies_are_said(run: Path, accuracy: float, place: str) -> None:
    rows = [{"step": n, "phase": "update", "arm": "afd", "pair_accuracy": accuracy} for n in range(4)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = f"Over the last 4 updates the discriminator's pair accuracy averaged {accuracy:.2f}, {place} the informative band"
    assert said in page(run).text
