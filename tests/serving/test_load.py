"""Short versions of benchmarks/serving.py: what has to hold at any speed. Times are the benchmark's business."""

import gc
import random
import tracemalloc
from typing import Any

import pytest

from understudy.serving.catalogue import Catalogue
from understudy.serving.scheduler import Limits, Scheduler
from understudy.students.bundle import Bundle

pytestmark = pytest.mark.slow


def test_a_crowd_that_comes_and_goes_leaves_nothing_behind(bench: Any) -> None:
    with bench.serving("--sessions", "3", "--queue", "5") as server:
        figures = bench.crowd_at(server, viewers=40, seconds=9)
    told = figures["told"]
    assert figures["unclear"] == 0, told
    assert figures["all_places_free_afterwards"]
    assert sum(told.get(how, 0) for how in ("stops", "closes", "vanishes")) > 10
    refusals = {name for name in told if name.startswith("refused")}
    assert refusals == {"refused: all places and the queue are taken: try again later"}
    assert figures["open_files_after_each_sixth"][-1] <= figures["open_files_after_each_sixth"][0]
    assert figures["gauges"]["failed_total"] == 0


def test_eight_viewers_share_fairly_whether_or_not_there_is_enough(bench: Any) -> None:
    figures = bench.fair(viewers=8, seconds=4)
    for load in ("own steps", "16 steps"):
        assert figures[load]["slowest_to_mean"] >= 0.5, figures


def test_nonsense_is_refused_and_nothing_falls_over(bench: Any) -> None:
    pytest.importorskip("schemathesis")
    rng = random.Random(1)
    with bench.serving() as server:  # leaving it fails if the server has complained
        told = bench.nonsense_http(server, 160) + bench.nonsense_raw(server, 30, rng)
        said = bench.nonsense_socket(server, 150, rng)
        assert server.settled()
        assert server.gauges()["failed_total"] == 0
    assert not [name for name in told if name.split()[-1].startswith("5")]
    assert said["error"] > 20
    assert any(name.startswith("POST /v1/videos 400") for name in told)


def test_a_long_clip_needs_no_more_memory_than_a_short_one(frame: Bundle) -> None:
    limits = Limits(lead=1e9)
    scheduler = Scheduler(limits)
    session = scheduler.join(Catalogue({"a": frame}, limits).plan("a red ball", 0, None).opener(), 12.0, lambda: None)
    caches, sizes = set(), []
    tracemalloc.start()
    for block in range(1, 301):
        scheduler.turn()
        part = session.take()
        assert part is not None
        scheduler.heard(session, acked=part.number, prompt="a blue ball" if block % 50 == 0 else None)
        if block > 20:
            caches.add(part.drawn.cache_bytes)
        if block % 100 == 0:
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(caches) == 1
    assert max(sizes) - min(sizes) < 50_000, sizes  # 100 blocks kept would be 1.4 MB
