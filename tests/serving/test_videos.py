"""``/v1/videos`` over real sockets, asked as tools ask hosted generators, and by our own adapter."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.collection.collect import CollectReport, Policy, collect, plan_jobs
from understudy.collection.store import ClipStore
from understudy.students.bundle import Bundle
from understudy.students.generate import ClipStream
from understudy.teachers.base import ClipParams, ClipRequest, Terms
from understudy.teachers.web import Web
from understudy.teachers.wire import WireTeacher, load_shape
from understudy.video import clips

httpx = pytest.importorskip("httpx")
RED, BLUE = "a small red ball is dropped", "a large blue ball bounces"
Serve = Any


@pytest.fixture
def served(serve: Serve) -> Iterator[Any]:
    with serve(denied=("nude",)) as running:
        yield running


@pytest.fixture
def ask(served: Any) -> Iterator[Any]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def finished(ask: Any, job: dict[str, Any]) -> dict[str, Any]:
    for _ in range(1000):
        job = ask.get(f"/v1/videos/{job['id']}").json()
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job} does not finish")


def drawn(bundle: Bundle, prompt: str, seed: int, frames: int) -> np.ndarray:
    stream = ClipStream(bundle, prompt, seed, frames)
    return np.concatenate([part.frames for part in stream])[:frames].astype(int)


def as_json(ask: Any, fields: dict[str, Any]) -> Any:
    return ask.post("/v1/videos", json=fields)


def as_form(ask: Any, fields: dict[str, Any]) -> Any:
    return ask.post("/v1/videos", files={name: (None, str(value)) for name, value in fields.items()})


@pytest.mark.parametrize("post", [as_json, as_form])
def test_create_poll_content_list_delete(post: Callable[..., Any], ask: Any, frame: Bundle) -> None:
    reply = post(
        ask, {"prompt": f"  {RED} ", "model": "frame", "seconds": "1.5", "size": "48x48", "seed": 3, "quality": "hd"}
    )
    job = reply.json()
    assert reply.status_code == 200
    assert job["object"] == "video"
    assert job["status"] in ("queued", "in_progress")
    assert (job["seconds"], job["num_frames"], job["seed"], job["prompt"]) == ("1.5", 18, 3, RED)
    assert job["ignored"] == ["quality"]
    job = finished(ask, job)
    assert (job["status"], job["progress"], job["error"]) == ("completed", 100, None)
    assert job["expires_at"] - job["completed_at"] == 3600
    content = ask.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    seen = clips.decode_mp4(content.content)
    assert seen.fps == 12
    assert seen.frames.shape == (18, 48, 48, 3)
    assert np.abs(seen.frames - drawn(frame, RED, 3, 18)).mean() < 3
    second = ask.post("/v1/videos", json={"prompt": BLUE, "num_frames": 2}).json()
    listed = ask.get("/v1/videos", params={"limit": 1}).json()
    assert ([v["id"] for v in listed["data"]], listed["has_more"]) == ([second["id"]], True)
    after = ask.get("/v1/videos", params={"after": second["id"]}).json()
    assert ([v["id"] for v in after["data"]], after["has_more"]) == ([job["id"]], False)
    assert ask.delete(f"/v1/videos/{job['id']}").json() == {"id": job["id"], "object": "video.deleted", "deleted": True}
    assert ask.get(f"/v1/videos/{job['id']}").json()["error"]["code"] == "not_found"
    assert ask.get("/v1/models").json()["data"][0]["id"] == "frame"


@pytest.mark.parametrize("how", ["file", "address", "nested address"])
def test_an_input_reference_is_where_the_clip_starts(how: str, ask: Any, frame: Bundle) -> None:
    picture = drawn(frame, BLUE, 1, 8)[-1].astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    if how == "file":
        files = {"input_reference": ("../../x.png", buffer.getvalue(), "image/png")}
        reply = ask.post("/v1/videos", data={"prompt": RED, "seconds": "1"}, files=files)
    else:
        reference = address if how == "address" else {"image_url": address}
        reply = ask.post("/v1/videos", json={"prompt": RED, "seconds": 1, "input_reference": reference})
    job = finished(ask, reply.json())
    seen = clips.decode_mp4(ask.get(f"/v1/videos/{job['id']}/content").content).frames
    assert np.abs(seen[0].astype(int) - picture.astype(int)).mean() < 6


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "invalid_value", "prompt"),
        ({"prompt": ""}, 400, "invalid_value", "prompt"),
        ({"prompt": 5}, 400, "invalid_value", "prompt"),
        ({"prompt": "word " * 17}, 400, "invalid_value", "prompt"),
        ({"prompt": "a nude ball"}, 400, "moderation_blocked", "prompt"),
        ({"prompt": RED, "model": "../frame"}, 400, "model_not_found", "model"),
        ({"prompt": RED, "size": "1280x720"}, 400, "invalid_value", "size"),
        ({"prompt": RED, "size": "large"}, 400, "invalid_value", "size"),
        ({"prompt": RED, "fps": 24}, 400, "invalid_value", "fps"),
        ({"prompt": RED, "seconds": 61}, 400, "invalid_value", "seconds"),
        ({"prompt": RED, "seconds": 0}, 400, "invalid_value", "seconds"),
        ({"prompt": RED, "num_frames": 10**9}, 400, "invalid_value", "num_frames"),
        ({"prompt": RED, "seed": -1}, 400, "invalid_value", "seed"),
        ({"prompt": RED, "num_inference_steps": 99}, 400, "invalid_value", "num_inference_steps"),
        ({"prompt": RED, "input_reference": "https://example.org/x.png"}, 400, "invalid_value", "input_reference"),
        ({"prompt": RED, "input_reference": "file:///etc/passwd"}, 400, "invalid_value", "input_reference"),
        ({"prompt": RED, "input_reference": "data:image/png;base64,!"}, 400, "invalid_value", "input_reference"),
        ({"prompt": RED, "input_reference": "data:image/png;base64,AAAA"}, 400, "invalid_value", "input_reference"),
    ],
)
def test_what_cannot_be_had_is_refused_in_the_shape_of_openai(
    fields: dict[str, Any], status: int, code: str, param: str, ask: Any
) -> None:
    reply = ask.post("/v1/videos", json=fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "passwd" not in error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100000, "application/json", 400),
        (b'{"prompt": NaN}', "application/json", 400),
        (b"prompt=x", "application/x-www-form-urlencoded", 415),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (b"x" * (7 * 2**20), "application/json", 413),
    ],
)
def test_bodies_that_are_none(content: bytes, kind: str, status: int, ask: Any) -> None:
    reply = ask.post("/v1/videos", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_the_same_key_makes_one_job_and_refuses_another_request(ask: Any) -> None:
    key = {"Idempotency-Key": "k1"}
    first, again = (ask.post("/v1/videos", json={"prompt": RED, "seed": 1}, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = ask.post("/v1/videos", json={"prompt": BLUE}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_jobs_are_bounded_stopped_by_deletion_and_kept_for_a_while(serve: Serve) -> None:
    with serve(jobs=2, sessions=1, kept=2, kept_seconds=1.0) as served, httpx.Client(base_url=served.url) as ask:
        long = [ask.post("/v1/videos", json={"prompt": RED, "seconds": 60}).json() for _ in range(2)]
        refused = ask.post("/v1/videos", json={"prompt": RED})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert float(refused.headers["retry-after"]) > 0
        early = ask.get(f"/v1/videos/{long[1]['id']}/content")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
        for job in long:
            assert ask.delete(f"/v1/videos/{job['id']}").status_code == 200
        jobs = [finished(ask, ask.post("/v1/videos", json={"prompt": RED, "num_frames": 2}).json()) for _ in range(3)]
        assert served.scheduler.sizes == (0, 0)
        assert len(ask.get("/v1/videos").json()["data"]) == 2
        assert ask.get(f"/v1/videos/{jobs[0]['id']}").status_code == 404  # the oldest makes room
        time.sleep(1.1)
        assert ask.get("/v1/videos").json()["data"] == []
        assert served.gauge("clip_bytes") == 0


def test_a_job_that_fails_says_so_in_its_error(serve: Serve, frame: Bundle) -> None:
    codec = type(frame.codec)(frame.codec.spec)
    codec.stream = None  # type: ignore[method-assign, assignment]
    broken = replace(frame, codec=codec)
    with serve({"frame": frame}) as served, httpx.Client(base_url=served.url) as ask:
        served.catalogue.bundles["frame"] = broken
        failed = finished(ask, ask.post("/v1/videos", json={"prompt": RED}).json())
        served.catalogue.bundles["frame"] = frame
        assert failed["status"] == "failed"
        assert failed["error"] == {
            "code": "generation_failed",
            "message": "this session failed; the server's log says why",
        }
        assert ask.get(f"/v1/videos/{failed['id']}/content").status_code == 409
        assert finished(ask, ask.post("/v1/videos", json={"prompt": RED}).json())["status"] == "completed"


def test_jobs_leave_places_to_viewers(serve: Serve, view: Any) -> None:
    with serve(sessions=2) as served, httpx.Client(base_url=served.url) as ask, view(served) as viewer:
        for _ in range(4):
            ask.post("/v1/videos", json={"prompt": RED, "seconds": 60})
        viewer.say(type="open", prompt=BLUE)
        assert viewer.hear() == {"type": "queued", "position": 0}
        viewer.watch(6)


def test_our_own_adapter_uses_a_student_as_teacher(served: Any, frame: Bundle, tmp_path: Path) -> None:
    """The round trip: collect from a served student through the shape openai-videos."""
    web = Web(served.url)
    shape, terms = load_shape("openai-videos", {}, {}), Terms("yes", "our own student")
    teacher = WireTeacher(shape, web, "api", "frame", terms, price_per_clip=0, idempotent=True)
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs([RED, "a nude ball", BLUE], 3, 0)
    policy = Policy(concurrency=4, poll=0.02, first_wait=0.01, longest_wait=0.1)
    told: list[CollectReport] = []
    report = collect(teacher, jobs, store, ClipParams(frames=16, fps=12.0, width=48, height=48), told.append, policy)
    assert (report.done, report.rejected) == (6, 3)
    assert store.verify() == []
    for record in store.records():
        if record.status == "rejected":
            assert "moderation" in record.reason
            continue
        seen = clips.decode_mp4(store.clip_path(record).read_bytes()).frames
        assert np.abs(seen - drawn(frame, record.prompt, record.seed, 16)).mean() < 3
    request = ClipRequest(RED, 0, ClipParams(frames=16, fps=12.0, width=48, height=48), "one key")
    assert teacher.submit(request) == teacher.submit(request)
