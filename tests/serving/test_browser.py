"""The page in a real browser; skipped, visibly, where there is none."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.students.bundle import Bundle
from understudy.video import clips

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path: apt-get install chromium"),
]
RED, BLUE = "a large red ball is dropped", "a large blue ball bounces"
Serve = Any

COLOURS = """() => {
  const canvas = document.createElement('canvas'), video = document.getElementById('video');
  const source = video.hidden ? document.getElementById('canvas') : video;
  canvas.width = source.videoWidth || source.width; canvas.height = source.videoHeight || source.height;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(source, 0, 0);
  const half = canvas.width / 2, found = {left: [0, 0], right: [0, 0]};
  for (const [side, at] of [['left', 0], ['right', half]]) {
    const data = context.getImageData(at, 0, half, canvas.height).data;
    for (let i = 0; i < data.length; i += 4) {
      if (data[i] - data[i + 2] > 60) found[side][0]++;
      if (data[i + 2] - data[i] > 60) found[side][1]++;
    }
  }
  return found;
}"""
"""Reddish and bluish pixels of what is shown, in its left and right half."""

CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (node) => { // the first opaque background from here outwards
    for (; node; node = node.parentElement) {
      const found = numbers(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    throw new Error('no background');
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const told = {};
  for (const node of document.querySelectorAll('h1, label, input, select, button, summary, legend, dt, dd, p, figcaption')) {
    const name = node.id || node.textContent.trim().slice(0, 30) || node.tagName;
    const colour = (part) => numbers(getComputedStyle(node, part).color);
    told[name] = ratio(colour(null), behind(node));
    if (node.placeholder) told[name + ' (hint)'] = ratio(colour('::placeholder'), behind(node));
  }
  return told;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        # Inside a container there is no sandbox and little shared memory.
        running = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def served(serve: Serve, frame: Bundle) -> Iterator[Any]:
    with serve({"start": frame, "again": frame.with_window(4, 1)}) as running:
        yield running


@pytest.fixture
def page(browser: Any, served: Any) -> Iterator[Any]:
    """The page, opened; whatever it writes to the console as an error fails the test."""
    errors: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(served.url)
    opened.get_by_text("Ready").wait_for()
    yield opened
    opened.close()
    assert errors == []


def playing(page: Any) -> None:
    """Wait until frames have moved on."""
    page.wait_for_function("() => parseFloat(document.getElementById('fps').textContent) > 0")
    if page.locator("#video").is_visible():
        page.wait_for_function("() => document.getElementById('video').currentTime > 0.5")


@pytest.mark.parametrize("query", ["", "?jpeg"])
def test_plays_side_by_side_turns_visibly_saves_and_frees_its_place(query: str, page: Any, served: Any) -> None:
    page.goto(served.url + "/" + query)
    page.get_by_text("Ready").wait_for()
    page.get_by_text("Settings").click()
    page.get_by_label("Beside it").select_option("again")
    page.get_by_label("Prompt").fill(RED)
    page.get_by_role("button", name="Play").click()
    playing(page)
    assert page.locator("#names span").all_inner_texts() == ["start", "again"]
    seen = page.evaluate(COLOURS)
    assert all(seen[side][0] > 20 > seen[side][1] for side in ("left", "right")), seen
    page.get_by_label("Prompt").fill(BLUE)
    page.get_by_role("button", name="Change prompt").click()
    page.get_by_text(f"Playing: {BLUE}").wait_for()
    page.wait_for_function(f"() => {{ const f = ({COLOURS})(); return f.left[1] > 20 && f.right[1] > 20; }}")
    assert served.scheduler.sizes == (1, 0)
    for name in ("First frame after", "Drawing a block", "Cache", "Queue"):
        told = page.locator("dl div", has_text=name).locator("dd").inner_text()
        assert told == "your turn" if name == "Queue" else any(c.isdigit() for c in told)
    if not query:
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the last 30 seconds").click()
        saved = clips.decode_mp4(Path(download.value.path()).read_bytes())
        assert saved.frames.shape[1:] == (48, 96, 3)
        assert len(saved.frames) >= 12
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Ended: stopped").wait_for()
    assert served.scheduler.sizes == (0, 0)
    page.get_by_role("button", name="Play").click()
    playing(page)
    page.goto("about:blank")  # leaving frees the place as well
    while served.scheduler.sizes != (0, 0):
        page.wait_for_timeout(20)


def test_settings_a_given_picture_and_a_length(page: Any, frame: Bundle) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.full((48, 48, 3), (200, 40, 40), np.uint8)).save(picture, "PNG")
    page.get_by_text("Settings").click()
    assert page.get_by_label("Steps", exact=True).get_attribute("placeholder") == "2"
    for label, value in {"Seed": 7, "Seconds": 1.5, "Block": 2, "Steps": 4}.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label("Start from a picture or clip").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    )
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Ended: finished").wait_for()
    page.wait_for_function("() => document.getElementById('video').ended")
    assert page.evaluate("document.getElementById('video').duration") == pytest.approx(
        20 / 12, abs=0.05
    )  # whole blocks
    page.get_by_label("Block", exact=True).fill("3")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Refused: max_frames 8 must be a multiple").wait_for()


def test_a_prompt_is_never_markup(page: Any) -> None:
    page.get_by_label("Prompt").fill("a red ball <img src=x onerror=alert(1)><script>alert(2)</script>")
    page.get_by_role("button", name="Play").click()
    playing(page)
    assert "<img src=x" in page.locator("#status").inner_text()
    assert page.locator("#status *").count() == 0
    assert page.locator("img, main script").count() == 0


def test_a_screen_reader_and_a_keyboard_are_enough(page: Any, served: Any) -> None:
    page.get_by_text("Settings").click()
    for node in page.locator("input, select, button, video").all():
        name = node.evaluate(
            "(n) => (n.labels?.[0]?.textContent || n.getAttribute('aria-label') || n.textContent).trim()"
        )
        assert name
    assert page.locator("#status").get_attribute("role") == "status"
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_label("Prompt").focus()
    order = []
    for _ in range(11):
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px", order
        page.keyboard.press("Tab")
    assert order == [
        "prompt", "play", "SUMMARY", "student", "other", "seed", "seconds", "block", "steps", "window", "sink",
    ]  # fmt: skip
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Enter")
    playing(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Ended: stopped").wait_for()
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert served.scheduler.sizes == (0, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str, page: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.get_by_text("Settings").click()
    told = page.evaluate(CONTRASTS)
    assert len(told) > 25
    assert {name: ratio for name, ratio in told.items() if ratio < 4.5} == {}


def test_it_fits_a_telephone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.get_by_text("Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
