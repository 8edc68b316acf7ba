import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy import doctor
from understudy.collection.store import ClipStore, Origin
from understudy.doctor import Finding, diagnose
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.reference import BUCKETS, load_reference
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.recipes.files import dump, load_recipe
from understudy.run.clips import collect
from understudy.run.folder import config_hash
from understudy.students.bundle import load_bundle, save_bundle
from understudy.training.checkpoint import save_checkpoint
from understudy.training.state import TrainState

MINI = """
name: mini
out: {folder}/run
teacher: {{kind: world, size: 16, frames: 8, fps: 12}}
prompts: {{kind: world, families: [drop], colours: [red, blue], sizes: [small], per_scene: 4, held_out: 0.5}}
clips: {{store: {folder}/store, per_prompt: 1}}
student: {{start: {folder}/start}}
train: {{prompts: 2}}
evaluation: {{prompts: 2}}
discriminator: {{size: 16}}
"""


@pytest.fixture
def recipe(tmp_path: Path, start: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(MINI.format(folder=tmp_path), encoding="utf-8")
    return path


@pytest.fixture
def store(recipe: Path, tmp_path: Path) -> Path:
    collect(load_recipe(recipe), lambda report: None)
    return tmp_path / "store"


@pytest.fixture
def run(recipe: Path, start: Path, tmp_path: Path) -> Path:
    """A finished run folder with two checkpoints, without having trained."""
    config, folder = load_recipe(recipe), tmp_path / "run"
    bundle = load_bundle(start)
    for step in (1, 2):
        state = TrainState({"student": bundle.student}, {}, torch.Generator(), step)
        save_checkpoint(state, folder / "checkpoints" / "afd", config_hash(config))
    save_bundle(bundle, folder / "student")
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n', encoding="utf-8")
    (folder / "summary.json").write_text("{}\n", encoding="utf-8")
    return folder


def said(findings: Iterable[Finding], ok: bool | None) -> list[str]:
    """The findings of one sort, each a single line that starts with its word."""
    chosen = [str(finding) for finding in findings if finding.ok is ok]
    word = {True: "ok", None: "warn", False: "fail"}[ok]
    assert all(line.split()[0] == word and "\n" not in line for line in chosen)
    return chosen


def spoil(path: Path, name: str) -> None:
    """Put a value that is not finite into a safetensors file."""
    weights = load_file(path)
    weights[name].view(-1)[0] = math.nan
    save_file(weights, path)


def test_this_machine_is_fit() -> None:
    findings = diagnose(None)
    assert not said(findings, False)
    known = " ".join(said(findings, True))
    assert all(word in known for word in ("python", "torch", "pymunk", "libx264", "GiB free"))


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    assert any("set OMP_NUM_THREADS=" in line for line in said(diagnose(None), None))


def test_a_missing_package_and_encoder_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise ValueError("no libx264")

    monkeypatch.setattr(doctor, "_PACKAGES", ("surely-not-installed",))
    monkeypatch.setattr(doctor, "encode_mp4", broken)
    assert said(diagnose(None), False) == [
        "fail  surely-not-installed: is not installed; run: pip install surely-not-installed",
        "fail  mp4 encoder: cannot be used (ValueError: no libx264)",
    ]


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert any("cannot be written: no space left on device" in line for line in said(diagnose(None), False))


# --- recipes ----------------------------------------------------------------------------------------------------


def test_a_good_recipe_without_clips_only_warns_about_them(recipe: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    findings = diagnose(str(recipe))
    assert not said(findings, False)
    assert said(findings, None) == [
        f"warn  clip store: 4 of 4 clips are still to be collected into {tmp_path / 'store'}: `understudy collect` or "
        "`train`"
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_good_recipe_with_its_clips_is_all_ok(recipe: Path, store: Path) -> None:
    findings = diagnose(str(recipe))
    assert not said(findings, False) + said(findings, None)
    assert any(f"all 4 clips are settled in {store}" in line for line in said(findings, True))


@pytest.mark.parametrize(
    ("change", "ok", "words"),
    [
        ("train: {steps: many}", False, 'train.steps is "many"; expected whole number'),
        ("train: {steps: 5, warmup: 9}", None, "train.warmup: 9 of 5 updates"),
        ("train: {prompts: 99}", None, "train.prompts: 99 per update, but only 4"),
        ("train: {bf16: true}", None, "train.bf16"),
        ("evaluation: {prompts: 99}", None, "evaluation.prompts: 99, but only"),
        ("discriminator: {lr: 0}", None, "frozen discriminator gets hacked"),
        ("discriminator: {lr: 0.5}", None, "discriminator.lr: 0.5 is large"),
        ("discriminator: {warmup: 0}", None, "untrained discriminator"),
        ("discriminator: {skip_frames: 8}", False, "discriminator.skip_frames: 8 of 8 frames"),
        ("discriminator: {size: 64}", None, "discriminator.size: 64 is above the student's 16x16"),
        ("objective: {kind: afd, beta: 0.01}", None, "objective.beta: 0.01 asks for moves 100 times as long"),
        ("objective: {kind: afd, beta: 9}", None, "objective.beta: 9 allows only very small moves"),
        ("objective: {kind: afd, limit: 0.01}", None, "objective.limit: 0.01"),
        ("objective: {kind: afd, limit: 50}", None, "objective.limit: 50"),
        ("objective: {kind: afd, group: 1}", False, "objective.group: 1 with scope group"),
        ("objective: {kind: afd, prior: 0}", None, "objective.prior: 0"),
        ("objective: {kind: afd, shared_blocks: 4}", False, "4 of 4 blocks are left out"),
        ("objective: {kind: sft, masked_blocks: 4}", False, "4 of 4 blocks are left out"),
        ("student: {levels: [0.5, 1]}", False, "start student: student.levels [0.5, 1.0] must fall from 1"),
        ("student: {window: 1}", None, "a block does not see the one before it"),
        ("student: {window: 99}", False, "start student: window 99 must hold"),
        ("student: {start: nowhere}", False, "start student: nowhere is not a student"),
        ("teacher: {kind: folder, path: nowhere}", False, "teacher: clip folder nowhere does not exist"),
        ("teacher: {look: flim}", False, "film"),
        ("teacher: {frames: 3}", None, "4 of 4 clips are still to be collected"),
        (
            "prompts: {kind: file, train: nowhere.txt, held_out: b.txt}",
            False,
            "prompts: prompt file nowhere.txt does not",
        ),
        ("device: warp", False, "device: 'warp' is no device of torch"),
        ("threads: 4096", None, "threads: 4096 on"),
        ("out: {recipe}/run", False, "is a file"),
    ],
)
def test_what_a_recipe_gets_wrong_is_found(
    change: str, ok: bool | None, words: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = tmp_path / "changed.yaml"
    changed.write_text(f"base: mini.yaml\n{change.replace('{recipe}', str(recipe))}\n", encoding="utf-8")
    findings = diagnose(str(changed))
    assert any(words in line for line in said(findings, ok)), "\n".join(map(str, findings))


def test_prompts_the_teacher_refuses_are_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a small red ball is dropped\na small red cat is dropped\n", encoding="utf-8")
    (tmp_path / "held.txt").write_text("a dog\n", encoding="utf-8")
    text = f"base: mini.yaml\nprompts: {{kind: file, train: {tmp_path}/train.txt, held_out: {tmp_path}/held.txt}}\n"
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    findings = diagnose(str(tmp_path / "p.yaml"))
    assert any("the word 'cat' is unknown" in line for line in said(findings, None))
    assert "fail  held-out prompts: the teacher refuses 1 of 1; change or remove them" in said(findings, False)


def test_clips_shorter_than_the_student_needs_fail(recipe: Path, tmp_path: Path) -> None:
    collect(load_recipe(recipe), lambda report: None)
    bundle = load_bundle(tmp_path / "start")
    rolling = bundle.with_window(bundle.student.spec.max_frames, None)  # or it could not draw them
    save_bundle(replace(rolling, form=replace(bundle.form, frames=16)), tmp_path / "longer")
    (tmp_path / "short.yaml").write_text(f"base: mini.yaml\nstudent: {{start: {tmp_path}/longer}}\n", encoding="utf-8")
    (line,) = said(diagnose(str(tmp_path / "short.yaml")), False)
    assert "4 clips are shorter than the student's 1.33 s" in line


# --- stores -----------------------------------------------------------------------------------------------------


def test_a_good_store_is_counted(store: Path) -> None:
    findings = diagnose(str(store))
    assert not said(findings, False) + said(findings, None)
    lines = " ".join(said(findings, True))
    assert "4 clips of 4 prompts by world-1/" in lines
    assert "the shortest has 8 frames at 12.0 fps (0.67 s)" in lines


def test_truncated_changed_and_missing_clips_fail(store: Path) -> None:
    first, second, third, _ = sorted((store / "clips").glob("*/*.mp4"))
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    third.with_name("f" * 64 + ".mp4").write_bytes(third.read_bytes())
    findings = diagnose(str(store))
    problems = said(findings, False)
    assert len(problems) == 2
    assert any("has changed" in line for line in problems)
    assert any("is missing" in line for line in problems)
    assert any("safe to delete" in line for line in said(findings, None))


def test_refused_prompts_of_a_store_are_a_warning(store: Path) -> None:
    ClipStore(store).reject(Origin("t", "p", {}, 0, ""), "not allowed")
    assert said(diagnose(str(store)), None) == ["warn  refused: 1 requests, the first because: not allowed"]


def test_a_damaged_ledger_fails(store: Path) -> None:
    path = store / "records.jsonl"
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    assert "line 1 is not a record" in said(diagnose(str(store)), False)[0]


def test_a_clip_file_is_looked_at(store: Path) -> None:
    clip = next((store / "clips").glob("*/*.mp4"))
    assert said(diagnose(str(clip)), True) == ["ok    clip: 8 frames of 16x16 at 12 fps"]
    clip.write_bytes(clip.read_bytes()[:-100])
    assert len(said(diagnose(str(clip)), False)) == 1


# --- students and runs ------------------------------------------------------------------------------------------


def test_a_good_student_is_described(start: Path) -> None:
    (line,) = said(diagnose(str(start)), True)
    assert "1 latent frame(s) a block, no window, draws 8 frames of 16x16 at 12 fps" in line


def test_a_spoilt_or_truncated_student_fails(start: Path) -> None:
    spoil(start / "student.safetensors", "patch_in.bias")
    assert "not finite in 'patch_in.bias'" in said(diagnose(str(start)), False)[0]
    (start / "student.safetensors").write_bytes(b"1234")
    assert "is damaged" in said(diagnose(str(start)), False)[0]
    (start / "config.json").write_text("[]", encoding="utf-8")
    assert len(said(diagnose(str(start)), False)) == 1


def test_an_unknown_builtin_fails() -> None:
    assert len(said(diagnose("builtin:nothing"), False)) == 1


def test_a_finished_run_is_all_ok(run: Path) -> None:
    findings = diagnose(str(run))
    assert not said(findings, False) + said(findings, None)
    assert any("step 2 is whole" in line for line in said(findings, True))


@pytest.mark.parametrize(("accuracy", "healthy"), [(None, True), (0.5, False)])
def test_gauges_are_held_against_healthy_runs(tmp_path: Path, accuracy: float | None, healthy: bool) -> None:
    curve = load_reference()["phases"]["update"]["pair_accuracy"]["mean"]
    values = [mean if accuracy is None else accuracy for mean in curve for _ in range(BUCKETS["update"])]
    rows = [{"arm": "afd", "step": i, "phase": "update", "pair_accuracy": v} for i, v in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = RunConfig()
    found = list(doctor._gauges(tmp_path, config))
    assert [finding.ok for finding in found] == [True if healthy else None] * 2
    assert ("informative" if healthy else "saturated") in found[0].advice
    assert "healthy" in found[1].advice
    assert not doctor._has_reference(RunConfig(objective=AFDConfig(reward="random")))
    assert not doctor._has_reference(RunConfig(train=TrainConfig(steps=120)))
    assert doctor._has_reference(RunConfig())


def test_a_checkpoint_is_looked_at_alone_and_in_its_folder(run: Path) -> None:
    for target in (run / "checkpoints" / "afd" / "step-000002", run / "checkpoints" / "afd"):
        (line,) = said(diagnose(str(target)), True)
        assert "step 2" in line


def test_what_is_wrong_with_a_run_is_found(run: Path) -> None:
    spoil(run / "student" / "student.safetensors", "patch_in.bias")
    newest = run / "checkpoints" / "afd" / "step-000002" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"loss": NaN}\nnonsense\n{"step": ')
    (run / "summary.json").write_text("{", encoding="utf-8")
    findings = diagnose(str(run))
    fails, warnings = " ".join(said(findings, False)), " ".join(said(findings, None))
    assert "not finite in 'patch_in.bias'" in fails
    assert "summary.json: is damaged" in fails
    assert "does not match its digest: it is damaged; an older one is whole" in warnings
    assert "the last line is cut short" in warnings
    assert "line 4 of metrics.jsonl is no JSON object" in warnings
    assert "the run diverged" in warnings
    assert any("step 1 is whole" in line for line in said(findings, True))


def test_a_run_without_a_whole_checkpoint_fails(run: Path) -> None:
    for path in run.glob("checkpoints/afd/*/state.safetensors"):
        path.unlink()
    assert len(said(diagnose(str(run)), False)) == 2


def test_a_checkpoint_of_another_configuration_fails(run: Path) -> None:
    config = load_recipe(run / "config.yaml", [("seed", "5")])
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert "belongs to another configuration" in " ".join(said(diagnose(str(run)), False))


def test_an_unfinished_run_warns(run: Path) -> None:
    (run / "summary.json").unlink()
    for path in sorted((run / "student").iterdir()):
        path.unlink()
    (run / "student").rmdir()
    warnings = said(diagnose(str(run)), None)
    assert [line.split()[1] for line in warnings] == ["student:", "run:"]


def test_a_run_with_a_damaged_config_fails(run: Path) -> None:
    (run / "config.yaml").write_text("train: {steps: x, lr: y}\n", encoding="utf-8")
    assert len(said(diagnose(str(run)), False)) == 2


def test_what_is_nothing_known_fails(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is no clip store" in said(diagnose(str(tmp_path / "empty")), False)[0]
    assert "does not exist" in said(diagnose(str(tmp_path / "nowhere")), False)[0]
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert "unknown key a" in said(diagnose(str(tmp_path / "x.json")), False)[0]
