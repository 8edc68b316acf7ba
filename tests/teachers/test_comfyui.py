"""The ComfyUI teacher against a server that speaks its wire shape, over real sockets."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from understudy.collection.collect import CollectReport, Policy, collect, plan_jobs
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, JobForgotten, TeacherError, TeacherStopped
from understudy.teachers.base import ClipParams, ClipRequest
from understudy.teachers.build import build
from understudy.teachers.comfyui.config import ComfyTeacherConfig
from understudy.teachers.comfyui.teacher import ComfyTeacher, find_node
from understudy.teachers.config import TermsConfig
from understudy.teachers.world import grammar
from understudy.teachers.world.server import World

pytest.importorskip("httpx")

PROMPTS = grammar.prompts(list(grammar.scenes(("drop",), ("red",), ("small", "large"))), 2, 0)
QUICK = {"poll": 0.02, "first_wait": 0.01, "longest_wait": 0.05, "tries": 20, "downloads": 8, "attempts": 8}
# As a desktop exports it: ids in no order, links as [node, slot], titles that users give.
GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 20, "model": ["37", 0], "positive": ["6", 0], "latent_image": ["40", 0]},
        "_meta": {"title": "KSampler"},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["38", 0]}, "_meta": {"title": "the prompt"}},
    "40": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 832, "height": 480, "length": 33}},
    "57": {"class_type": "CreateVideo", "inputs": {"fps": 16, "images": ["8", 0]}},
    "9": {"class_type": "SaveVideo", "inputs": {"filename_prefix": "video/x", "video": ["57", 0]}},
}
NODES = {
    "the prompt.text": "{prompt}",
    "3.seed": "{seed}",
    "40.width": "{width}",
    "40.height": "{height}",
    "40.length": "{frames}",
    "57.fps": "{fps}",
    "9.filename_prefix": "understudy/{key}",
}
Start = Callable[..., World]


def config(world: World | None, tmp_path: Path, graph: Any = GRAPH, **how: Any) -> ComfyTeacherConfig:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph))
    settings: dict[str, Any] = {"workflow": path, "nodes": NODES, "frames": 5, "fps": 8.0, "width": 32, "height": 16}
    settings |= {"terms": TermsConfig(training="yes", note="embedded world")} if "model" not in how else {}
    settings |= {} if world is None else {"url": world.url}  # type: ignore[attr-defined]
    return ComfyTeacherConfig.model_validate(settings | how)


def made(world: World | None, tmp_path: Path, **how: Any) -> ComfyTeacher:
    teacher = build(config(world, tmp_path, **how))
    assert isinstance(teacher, ComfyTeacher)
    return teacher


def ignore(report: CollectReport) -> None:
    """Show nothing."""


def request(key: str = "key", prompt: str = PROMPTS[0]) -> ClipRequest:
    return ClipRequest(prompt, 7, ClipParams(5, 8.0, 32, 16), key)


def test_a_workflow_of_ones_own_is_collected_from(start: Start, tmp_path: Path) -> None:
    world = start("comfyui", delay=0.1)
    settings = config(world, tmp_path)
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs(PROMPTS, 2, 0)
    report = collect(made(world, tmp_path), jobs, store, settings.clip_params(), ignore, Policy(concurrency=4, **QUICK))
    assert report.done == len(jobs) == len(world.jobs)
    record = store.records()[0]
    assert record.asked == {"frames": 5, "fps": 8.0, "width": 32, "height": 16}
    assert (record.received["frames"], record.received["width"], record.received["height"]) == (5, 32, 16)
    assert {job.request["seed"] for job in world.jobs.values()} == {job.seed for job in jobs}
    assert {job.request["prompt"] for job in world.jobs.values()} == set(PROMPTS)


def test_whatever_goes_wrong_every_clip_arrives_once(start: Start, tmp_path: Path) -> None:
    world = start("comfyui", faults=0.25, seed=1)
    store = ClipStore(tmp_path / "store", create=True)
    jobs, params = plan_jobs(PROMPTS, 8, 0), config(world, tmp_path).clip_params()
    report = collect(made(world, tmp_path), jobs, store, params, ignore, Policy(concurrency=4, **QUICK))
    assert report.done == len(jobs)
    assert sum(world.injected.values()) > 20
    assert sum(job.good for job in world.jobs.values()) == len(jobs)


def test_an_old_server_is_not_asked_twice_either(start: Start, tmp_path: Path) -> None:
    world = start("old-comfyui")
    store, teacher = ClipStore(tmp_path / "store", create=True), made(world, tmp_path)
    teacher.submit(request())  # by whose answer it is known
    params = config(world, tmp_path).clip_params()
    world.fault = lambda stage, kinds: "accepted-drop" if stage == "submit" else ""  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(TeacherError, match="--retry-unsure"):
            collect(teacher, plan_jobs(PROMPTS[:1], 1, 0), store, params, ignore, Policy(**QUICK))
        assert len(world.jobs) == 2


def test_a_submission_that_had_arrived_is_found_again(start: Start, tmp_path: Path) -> None:
    world = start("comfyui", delay=60)
    first, again = made(world, tmp_path), made(world, tmp_path)  # as after a restart
    assert first.submit(request()) == again.submit(request()) == next(iter(world.jobs))
    next(iter(world.jobs.values())).due = 0  # it has ended meanwhile: in the history, no longer in the queue
    assert again.submit(request()) == next(iter(world.jobs))
    assert again.submit(request("other")) != next(iter(world.jobs))
    assert len(world.jobs) == 2
    assert again.idempotent


def test_an_old_server_is_known_by_its_first_answer(start: Start, tmp_path: Path) -> None:
    teacher = made(start("old-comfyui"), tmp_path)
    assert teacher.idempotent
    assert teacher.submit(request()).startswith("video-")
    assert not teacher.idempotent


def test_states_of_a_run(start: Start, tmp_path: Path) -> None:
    world = start("comfyui", delay=60)
    teacher = made(world, tmp_path)
    handle = teacher.submit(request())
    job = world.jobs[handle]
    assert teacher.poll(handle).state == "running"
    job.ended = "failed"
    status = teacher.poll(handle)
    assert (status.state, status.reason) == ("failed", "node 3 (KSampler): Allocation on device")
    job.forgotten = True
    with pytest.raises(JobForgotten, match="neither in its queue nor in its history"):
        teacher.poll(handle)


def test_a_workflow_that_the_server_refuses_stops_everything(start: Start, tmp_path: Path) -> None:
    with pytest.raises(
        TeacherStopped, match=r"refuses the workflow: Prompt outputs failed.*node 6: .*not drawn.*\(text\)"
    ):
        made(start("comfyui"), tmp_path).submit(request(prompt="a forbidden thing"))


@pytest.mark.parametrize(
    ("outputs", "output", "found"),
    [
        (
            {"9": {"images": [{"filename": "a.mp4", "subfolder": "v", "type": "output"}], "animated": [True]}},
            "",
            "a.mp4",
        ),
        ({"9": {"gifs": [{"filename": "a.webm", "type": "output", "format": "video/webm"}]}}, "", "a.webm"),
        (
            {
                "8": {"images": [{"filename": "p.png", "type": "temp"}]},
                "57": {"videos": [{"filename": "t.mp4", "type": "temp"}]},
                "9": {"images": [{"filename": "a.mp4", "type": "output"}]},
            },
            "",
            "a.mp4",
        ),
        ({"57": {"videos": [{"filename": "t.mp4", "type": "temp"}]}, "9": {"text": ["done"]}}, "", "t.mp4"),
        (
            {n: {"images": [{"filename": f"{n}.mp4", "type": "output"}]} for n in ("9", "57")},
            "57",
            "57.mp4",
        ),
        ({n: {"images": [{"filename": f"{n}.mp4", "type": "output"}]} for n in ("9", "57")}, "", "nodes 57, 9"),
        ({"9": {"images": [{"filename": "a.png", "type": "output"}]}}, "", r"saves no video \(a\.png\)"),
        ({}, "", r"saves no video \(nothing\)"),
    ],
)
def test_which_file_is_the_clip(tmp_path: Path, outputs: dict[str, Any], output: str, found: str) -> None:
    teacher = made(None, tmp_path, output=output)
    if found.endswith((".mp4", ".webm")):
        assert teacher._saved(outputs)["filename"] == found
    else:
        with pytest.raises(TeacherStopped, match=found):
            teacher._saved(outputs)


def without(*places: str) -> dict[str, str]:
    return {place: template for place, template in NODES.items() if place not in places}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"nodes": without("3.seed")}, r"puts \{seed\} nowhere"),
        ({"nodes": without("the prompt.text")}, r"puts \{prompt\} nowhere"),
        ({"nodes": {**NODES, "3.sede": "{seed}"}}, "has no input 'sede'; it has seed, steps"),
        (
            {"nodes": {**NODES, "99.seed": "{seed}"}},
            r"has no node '99'; its nodes are 3 \(KSampler\), 6 \(the prompt\)",
        ),
        ({"output": "none"}, "has no node 'none'"),
        ({"graph": {"nodes": [], "links": []}}, r"use Workflow > Export \(API\) instead"),
        ({"graph": []}, "no workflow in API format"),
        ({"graph": {}}, "no workflow in API format"),
        ({"graph": {"3": {"class_type": "x"}}}, "no workflow in API format"),
        ({"workflow": "missing.json"}, "cannot be read as JSON"),
        ({"url": "http://comfy.example"}, "is not encrypted"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        made(None, tmp_path, **how)
    assert "\n" not in str(caught.value)


def test_titles_that_several_nodes_have_are_no_names() -> None:
    graph = deepcopy(GRAPH)
    graph["40"]["_meta"] = {"title": "KSampler"}
    with pytest.raises(ConfigError, match="several nodes titled 'KSampler'"):
        find_node(graph, "KSampler")


def test_name_price_and_terms(tmp_path: Path) -> None:
    teacher = made(None, tmp_path, price_per_clip=0.1, model="Wan2.1-1.3B")
    assert teacher.name.startswith("comfyui/127.0.0.1/Wan2.1-1.3B-")
    assert teacher.terms.training == "yes"
    assert teacher.price(ClipParams()) == 0.1
    assert made(None, tmp_path, model="other").terms.training == "unknown"
    changed = deepcopy(GRAPH)
    changed["3"]["inputs"]["steps"] = 30
    assert made(None, tmp_path, graph=changed, model="Wan2.1-1.3B").name != teacher.name
