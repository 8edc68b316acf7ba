"""Every shape against a server that speaks it, over real sockets."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy import cli
from understudy.collection.collect import CollectReport, Policy, collect, plan_jobs
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, PromptRejected, TeacherError, TeacherStopped, TransientError
from understudy.teachers.api.config import ApiTeacherConfig
from understudy.teachers.base import ClipParams, ClipRequest, JobStatus, Terms
from understudy.teachers.build import build
from understudy.teachers.config import TermsConfig
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, at, load_shape, merge
from understudy.teachers.world import grammar
from understudy.teachers.world.server import World
from understudy.video.clips import Clip, encode_mp4

httpx = pytest.importorskip("httpx")

PROMPTS = grammar.prompts(list(grammar.scenes(("drop",), ("red",), ("small", "large"))), 2, 0)
QUICK = {"poll": 0.02, "first_wait": 0.01, "longest_wait": 0.05, "tries": 20, "downloads": 8, "attempts": 8}
SHAPES = ["openai-videos", "form-only", "openrouter", "fal", "ark", "minimax", "replicate"]
KEY = "s3cret-key"

Start = Callable[..., World]


@pytest.fixture
def start(start: Start) -> Start:
    """Starts a world that wants a key."""
    return partial(start, api_key=KEY)


def teacher(world: World, monkeypatch: pytest.MonkeyPatch, **how: object) -> tuple[WireTeacher, ClipParams]:
    monkeypatch.setenv("TEST_KEY", KEY)
    settings: dict[str, object] = {
        "shape": "openai-videos" if world.shape == "form-only" else world.shape,
        "model": "maker/world",
        "url": world.url,  # type: ignore[attr-defined]
        "key_env": "TEST_KEY",
        "terms": TermsConfig(training="yes", note="embedded world"),
        "price_per_clip": 0.0,
        "idempotent": True,
        "frames": 8,
        "fps": 8.0,
        "width": 32,
        "height": 16,
    }
    config = ApiTeacherConfig.model_validate(settings | how)
    made = build(config)
    assert isinstance(made, WireTeacher)
    return made, config.clip_params()


def ignore(report: CollectReport) -> None:
    """Show nothing."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_job_is_submitted_polled_and_fetched(start: Start, monkeypatch, tmp_path: Path, shape: str) -> None:
    world = start(shape, delay=0.15)
    made, params = teacher(world, monkeypatch)
    store = ClipStore(tmp_path / "store", create=True)
    report = collect(made, plan_jobs(PROMPTS, 1, 0), store, params, ignore, Policy(concurrency=4, **QUICK))
    assert report.done == len(PROMPTS) == len(world.jobs)
    record = store.records()[0]
    assert (record.received["frames"], record.received["fps"]) == (8, 8.0)
    # 32x16 is no ratio with a name: services with tiers draw 2:1 at 16p, and none sends anything smaller.
    assert (record.received["width"], record.received["height"]) == (32, 16)
    assert record.teacher.startswith(f"{made.name.split('/')[0]}/127.0.0.1/maker/world-")
    assert world.asked["poll"] > len(PROMPTS)  # it took some time
    seeds = {job.request.get("seed") for job in world.jobs.values()}
    assert seeds == ({None} if shape == "minimax" else {r.seed for r in store.records()})
    assert KEY not in (store.path / "records.jsonl").read_text() + str(store.records())


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_goes_wrong_every_clip_arrives_once(start: Start, monkeypatch, tmp_path: Path, shape: str) -> None:
    world = start(shape, faults=0.3, seed=3)
    made, params = teacher(world, monkeypatch)
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs(PROMPTS, 8, 0)
    report = collect(made, jobs, store, params, ignore, Policy(concurrency=8, **QUICK))
    assert report.done == len(jobs)
    assert store.verify() == []
    assert sum(world.injected.values()) > len(jobs)
    good = [job for job in world.jobs.values() if job.good]
    assert len(good) == len(jobs)  # none was made twice
    assert len({job.key for job in world.jobs.values()}) == len(world.jobs)


@pytest.mark.parametrize("late", [False, True], ids=["at submission", "in the job"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_moderated_prompt_is_rejected_for_good(
    start: Start, monkeypatch, tmp_path: Path, shape: str, late: bool
) -> None:
    world = start(shape, late=late)
    made, params = teacher(world, monkeypatch)
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs([*PROMPTS[:1], "a forbidden thing"], 1, 0)
    report = collect(made, jobs, store, params, ignore, Policy(**QUICK))
    assert (report.done, report.rejected) == (1, 1)
    (refused,) = (record for record in store if record.status == "rejected")
    assert refused.reason
    asked = sum(world.asked.values())
    assert collect(made, jobs, store, params, ignore, Policy(**QUICK)).skipped == 2
    assert sum(world.asked.values()) == asked


@pytest.mark.parametrize("shape", SHAPES)
def test_a_failed_job_and_a_wrong_key_are_told_apart(start: Start, monkeypatch, tmp_path: Path, shape: str) -> None:
    world = start(shape)
    made, params = teacher(world, monkeypatch)
    request = ClipRequest(PROMPTS[0], 5, params, "key-1")
    handle = made.submit(request)
    next(iter(world.jobs.values())).ended = "failed"
    status = made.poll(handle)
    assert (status.state, status.reason) == ("failed", "the worker crashed")
    monkeypatch.setenv("OTHER_KEY", "wr0ng-key")
    other, _ = teacher(world, monkeypatch, key_env="OTHER_KEY")
    with pytest.raises(TeacherStopped, match="refuses the key") as caught:
        other.submit(replace(request, key="key-2"))
    assert "wr0ng-key" not in str(caught.value)


def test_the_form_of_requests_is_found_once_and_remembered(start: Start, monkeypatch, tmp_path: Path) -> None:
    world = start("form-only")
    made, params = teacher(world, monkeypatch)
    for number in range(5):
        made.submit(ClipRequest(PROMPTS[0], number, params, f"key-{number}"))
    assert len(world.jobs) == 5
    assert world.asked["submit"] == 6  # one refused as JSON
    json_world = start("openai-videos")
    made, params = teacher(json_world, monkeypatch)
    for number in range(5):
        made.submit(ClipRequest(PROMPTS[0], number, params, f"key-{number}"))
    assert json_world.asked["submit"] == 5


def test_a_refusal_of_the_prompt_is_not_tried_as_a_form(start: Start, monkeypatch) -> None:
    world = start("openai-videos")
    made, params = teacher(world, monkeypatch)
    with pytest.raises(PromptRejected):
        made.submit(ClipRequest("a forbidden thing", 0, params, "key"))
    assert world.asked["submit"] == 1


def test_what_a_service_says_beside_the_clip_is_kept(start: Start, monkeypatch) -> None:
    world = start("openrouter")
    made, params = teacher(world, monkeypatch)
    handle = made.submit(ClipRequest(PROMPTS[0], 5, params, "key"))
    assert made.poll(handle).cost == 0.25
    fal_world = start("fal")
    made, params = teacher(fal_world, monkeypatch)
    kept = json.loads(made.submit(ClipRequest(PROMPTS[0], 5, params, "key")))
    assert kept["status_url"].endswith(f"/requests/{kept['job']}/status")
    other, _ = teacher(fal_world, monkeypatch)  # as after a restart: the handle is all there is
    assert other.poll(json.dumps(kept)).asset.endswith(f"/files/{kept['job']}.mp4")


def test_an_address_on_another_host_is_not_asked(start: Start, monkeypatch) -> None:
    made, _ = teacher(start("fal"), monkeypatch)
    handle = json.dumps({"job": "1", "status_url": "https://evil.example/x", "response_url": ""})
    with pytest.raises(TeacherError, match="another host"):
        made.poll(handle)


def test_the_price_is_the_recipes(start: Start, monkeypatch) -> None:
    world = start("openai-videos")
    made, params = teacher(world, monkeypatch, price_per_clip=None, price_per_second=0.5)
    assert made.price(params) == pytest.approx(0.5)
    assert made.price(ClipParams()) is None
    assert teacher(world, monkeypatch, price_per_clip=None)[0].price(params) is None


def test_looking_into_replies() -> None:
    data = {"a": [{"b": 1}], "c": None}
    assert [at(data, path) for path in ("a.0.b", "a.1.b", "a.x", "c.d", "a")] == [1, None, None, None, [{"b": 1}]]


def test_a_recipe_changes_a_shape_level_by_level(tmp_path: Path) -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None, "e": 4}, "d": {"x": 1}}) == {
        "a": {"c": 2, "e": 4},
        "d": {"x": 1},
    }
    shape = load_shape("ark", {"submit": "/other"}, {"watermark": None, "camera_fixed": True})
    assert shape.submit == "/other"
    assert "watermark" not in shape.body
    assert shape.body["camera_fixed"] is True
    (tmp_path / "mine.yaml").write_text("url: https://x.example\nsubmit: /go\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: body|mine\.yaml: job"):
        load_shape(str(tmp_path / "mine.yaml"), {}, {})
    with pytest.raises(ConfigError, match="neither one of openai-videos"):
        load_shape("none", {}, {})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--shape", "nonsense"], 1, "no server speaks 'nonsense'; choose one of openai-videos"),
        (["--faults", "1.5"], 2, "--faults takes 0 to 1"),
        (["--host", "203.0.113.1", "--port", "0"], 1, "cannot listen at 203.0.113.1:0"),
    ],
)
def test_what_the_world_cannot_serve_is_said_in_one_line(capsys, arguments: list[str], status: int, words: str) -> None:
    assert cli.main(["world", "serve", *arguments]) == status
    assert words in capsys.readouterr().err


# --- what answers mean ------------------------------------------------------------------------------------------

REPLIES = json.loads((Path(__file__).parents[1] / "data" / "replies.json").read_text())
CLIP = encode_mp4(Clip(np.full((2, 8, 8, 3), 90, np.uint8), 8))


def answering(answers: Callable[[Any], Any], shape: str = "fal", **how: Any) -> WireTeacher:
    web = Web("https://api.example", transport=httpx.MockTransport(answers))
    return WireTeacher(load_shape(shape, {}, {}), web, shape, "maker/world", Terms("yes", "x"), 1.0, **how)


def ask(number: int = 0) -> ClipRequest:
    return ClipRequest(f"a ball {number}", number, ClipParams(8, 8.0, 32, 16), f"key-{number}")


@pytest.mark.parametrize("reply", REPLIES["submit"], ids=lambda reply: str(reply["status"]))
@pytest.mark.parametrize("shape", ["openai-videos", "fal", "ark", "replicate", "openrouter"])
def test_answers_to_submissions(shape: str, reply: dict[str, Any]) -> None:
    made = answering(lambda request: httpx.Response(reply["status"], json=reply["body"]), shape)
    refused = "refused for good" in reply["right"]
    with pytest.raises(PromptRejected if refused else TeacherStopped) as caught:
        made.submit(ask())
    words = {
        "balance": "Exhausted balance",
        "not found": "not found",
        "num_frames": "num_frames",
        "safety": "safety system",
    }
    said = json.dumps(reply["body"])
    assert all(text in str(caught.value) for mark, text in words.items() if mark in said)


@pytest.mark.parametrize("reply", REPLIES["result of a completed job"], ids=lambda reply: str(reply["status"]))
def test_answers_at_the_result(reply: dict[str, Any], tmp_path: Path) -> None:
    def answers(request: Any) -> Any:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json={"status": "COMPLETED"})
        clip = base64.b64encode(CLIP).decode()
        return httpx.Response(reply["status"], text=json.dumps(reply["body"]).replace("<bytes of a clip>", clip))

    made, handle = answering(answers), json.dumps({"job": "1", "status_url": "/r/1/status", "response_url": "/r/1"})
    if reply["status"] == 422:
        with pytest.raises(TeacherStopped, match="num_frames"):
            made.poll(handle)
        return
    made.download(handle, made.poll(handle), tmp_path / "clip")
    assert (tmp_path / "clip").read_bytes() == CLIP


@pytest.mark.parametrize("body", [None, [], "x", 7, {}, {"id": None}, {"id": []}, {"id": 7}, {"id": 1.5}, {"id": True}])
@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 307])
def test_an_answer_without_an_id_may_hide_a_job(body: Any, status: int) -> None:
    with pytest.raises(TransientError) as caught:
        answering(lambda request: httpx.Response(status, json=body), "openai-videos").submit(ask())
    assert caught.value.unsure


@pytest.mark.parametrize("job", ["", ".", "..", "../..", "/", "a b", "a\n", "\x00", "x" * 1000, "\ud800 ", "\ud800"])
def test_ids_that_can_stand_in_no_address(job: str) -> None:
    body = json.dumps({"id": job}).encode()
    with pytest.raises(TransientError, match="without a job id") as caught:
        answering(lambda request: httpx.Response(200, content=body), "openai-videos").submit(ask())
    assert caught.value.unsure


def test_ids_may_be_numbers_where_the_shape_says_so() -> None:
    web = Web("https://api.example", transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"id": 7})))
    shape = load_shape("openai-videos", {"numeric_ids": True}, {})
    assert WireTeacher(shape, web, "x", "m", Terms("yes", "x")).submit(ask()) == "7"


@pytest.mark.parametrize(
    ("code", "kind", "unsure"),
    [
        (1002, TransientError, False),
        (1000, TransientError, True),
        (1033, TransientError, True),
        (9999, TransientError, True),
        (1008, TeacherStopped, None),
        (2013, TeacherStopped, None),
        (1026, PromptRejected, None),
    ],
)
def test_minimax_puts_codes_into_the_text(code: int, kind: type[Exception], unsure: bool | None) -> None:
    body = {"base_resp": {"status_code": code, "status_msg": "x"}}
    with pytest.raises(kind) as caught:
        answering(lambda request: httpx.Response(200, json=body), "minimax").submit(ask())
    assert getattr(caught.value, "unsure", None) is unsure


@pytest.mark.parametrize(
    ("shape", "said", "state", "again"),
    [
        ("openai-videos", {"status": "COMPLETED"}, "done", True),
        ("openai-videos", {"status": "Succeeded"}, "done", True),
        ("openai-videos", {"status": "in progress"}, "running", True),
        ("openai-videos", {"status": "errored", "error": "the worker crashed"}, "failed", True),
        ("openai-videos", {"status": "failed", "error": {"message": "violates a policy"}}, "failed", False),
        (
            "openai-videos",
            {"status": "failed", "error": {"code": "moderation_blocked", "message": "x"}},
            "rejected",
            True,
        ),
        ("openai-videos", {"status": "content_moderated"}, "rejected", True),
        ("replicate", {"status": "failed", "error": "flagged as sensitive (E005)"}, "rejected", True),
        ("replicate", {"status": "failed", "error": "a policy error in the driver"}, "failed", False),
        ("ark", {"status": "strange", "content": {"video_url": "https://cdn.example/a.mp4"}}, "done", True),
    ],
)
def test_states_of_jobs(shape: str, said: dict[str, Any], state: str, again: bool) -> None:
    status = answering(lambda request: httpx.Response(200, json=said), shape).poll("1")
    assert (status.state, status.again, status.strange) == (state, again, "")


def test_a_word_that_nobody_knows_is_handed_on() -> None:
    made = answering(lambda request: httpx.Response(200, json={"status": "trans\u001bmogrified"}), "openai-videos")
    assert made.poll("1") == JobStatus("running", strange="trans mogrified")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"{}"),
        (200, b'{"status": 7}'),
        (200, b'{"status": "succeeded"}'),  # and no clip
        (200, b'{"status": "succeeded", "output": [[]]}'),
        (301, b""),
        (403, b"<html>"),
        (404, b"<html>"),
        (410, b"{}"),
        (200, b"[" * 100_000),
    ],
)
def test_an_odd_answer_about_a_job_passes(status: int, body: bytes) -> None:
    with pytest.raises(TransientError):
        answering(lambda request: httpx.Response(status, content=body), "replicate").poll("1")


@pytest.mark.parametrize("cost", [True, -1, float("nan"), float("inf"), "1", [1], 10**400])
def test_a_cost_that_is_no_price_is_none(cost: Any) -> None:
    body = json.dumps({"status": "completed", "usage": {"cost": cost}}).encode()
    assert answering(lambda request: httpx.Response(200, content=body), "openrouter").poll("1").cost is None


def test_a_large_answer_that_holds_a_clip_is_taken(tmp_path: Path) -> None:
    body = {"status": "succeeded", "preview": "A" * (9 << 20), "data": [{"b64_json": base64.b64encode(CLIP).decode()}]}
    made = answering(lambda request: httpx.Response(200, json=body), "ark")
    made.download("1", made.poll("1"), tmp_path / "clip")
    assert (tmp_path / "clip").read_bytes() == CLIP


def test_fal_s_addresses_are_known_where_the_answer_lacks_them() -> None:
    made = answering(
        lambda request: httpx.Response(200, json={"request_id": "7", "status_url": "https://evil.example/"})
    )
    kept = json.loads(made.submit(ask()))
    assert kept == {
        "job": "7",
        "status_url": "/maker/world/requests/7/status",
        "response_url": "/maker/world/requests/7",
    }


@pytest.mark.parametrize("shape", ["openai-videos", "replicate"])
def test_a_lost_submission_is_found_in_the_service_s_list(
    start: Start, monkeypatch, tmp_path: Path, shape: str
) -> None:
    world = start(shape, lists=True)
    made, params = teacher(world, monkeypatch, idempotent=False)
    store, jobs = ClipStore(tmp_path / "store", create=True), plan_jobs(PROMPTS, 2, 0)
    world.fault = lambda stage, kinds: "accepted-drop" if stage == "submit" else ""  # type: ignore[method-assign]
    report = collect(made, jobs, store, params, ignore, Policy(concurrency=4, **{**QUICK, "failures": 99}))
    assert report.done == len(jobs) == len(world.jobs)
    assert {record.provenance["job"] for record in store} == set(world.jobs)


def test_a_job_of_another_time_or_seed_in_the_list_is_not_taken_for_it() -> None:
    now = 1_800_000_000.0
    listed = [
        {"id": "known", "prompt": "a ball 3", "seed": 3, "created_at": now},
        {"id": "old", "prompt": "a ball 3", "seed": 3, "created_at": now - 4000},
        {"id": "seed", "prompt": "a ball 3", "seed": 4, "created_at": now},
        {"id": "prompt", "prompt": "a ball 4", "seed": 3, "created_at": now},
        {"id": "timeless", "prompt": "a ball 3", "seed": 3},
        {"id": "..", "prompt": "a ball 3", "seed": 3, "created_at": now},
        "nonsense",
    ]
    made = answering(lambda request: httpx.Response(200, json={"data": listed}), "openai-videos")
    assert made.find(ask(3), now, lambda job: job == "known") is None
    listed.append({"id": "own", "prompt": " a  ball 3", "seed": 3, "created_at": (now + 2) * 1000})
    assert made.find(ask(3), now, lambda job: job == "known") == "own"
