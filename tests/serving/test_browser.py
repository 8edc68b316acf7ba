"""The page in a real browser; skipped, visibly, where there is none."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from understudy.students.bundle import load_bundle

sync_api = pytest.importorskip("playwright.sync_api")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")]


@pytest.fixture
def server() -> Iterator[tuple[str, object]]:
    from understudy.serving.app import Access, build_app
    from understudy.serving.scheduler import Limits, Scheduler

    scheduler = Scheduler(Limits())
    bundle = load_bundle("builtin:frame").with_window(8, 0)
    app = build_app({"start": bundle, "again": bundle}, scheduler, Access())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        while not running.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", scheduler
        running.should_exit = True
        thread.join(15)


@pytest.mark.parametrize("query", ["", "?jpeg"])
def test_page_plays_turns_and_frees_its_place(server: tuple[str, object], query: str) -> None:
    url, scheduler = server
    errors: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url + query)
        page.get_by_text("Ready").wait_for()
        page.get_by_label("Beside it").select_option("again")
        page.get_by_label("Prompt").fill("a small red ball <img src=x onerror=alert(1)>")
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("() => parseFloat(document.getElementById('fps').textContent) > 0")
        if not query:
            page.wait_for_function("() => document.getElementById('video').currentTime > 1")
            assert page.evaluate("document.getElementById('video').videoWidth") == 96
        assert page.locator("#status img").count() == 0
        page.get_by_label("Prompt").fill("a large blue ball bounces")
        page.get_by_role("button", name="Change prompt").click()
        page.get_by_text("Turning to: a large blue ball bounces").wait_for()
        assert scheduler.sizes == (1, 0)  # type: ignore[attr-defined]
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Ended: stopped").wait_for()
        assert scheduler.sizes == (0, 0)  # type: ignore[attr-defined]
        browser.close()
    assert errors == []
