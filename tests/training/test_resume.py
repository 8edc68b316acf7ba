"""A run stopped at any moment and resumed ends bit for bit like one that was never stopped."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from understudy import files
from understudy.errors import CheckpointError
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.sft.config import SFTConfig
from understudy.recipes.config import LoraConfig
from understudy.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint, verify_checkpoint
from understudy.training.loop import Arm, Interrupted, record, train, trim
from understudy.training.state import StepReport, TrainState


def arm(folder: Path, config_hash: str = "a") -> Arm:
    return Arm("afd", folder / "checkpoints", folder / "metrics.jsonl", config_hash, 2, "the same command")


def quiet(report: StepReport, steps: int) -> None:
    pass


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    flat = {f"{n}.{k}": v for n, m in state.modules.items() for k, v in m.state_dict().items()}
    for name, optimiser in state.optimisers.items():
        for index, values in optimiser.state_dict()["state"].items():
            flat |= {f"{name}.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    return flat | {"rng": state.generator.get_state()}


def assert_same(first: TrainState, second: TrainState) -> None:
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    assert first.step == second.step
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("objective", [AFDConfig(group=4), AFDConfig(group=4, reward="random"), SFTConfig()])
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_interrupted_and_resumed_equals_unbroken(build, tmp_path, objective, stop_after) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    unbroken, _ = train(*build(objective), arm(tmp_path / "a"), quiet)

    def stop(report: StepReport, steps: int) -> None:
        if report.step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"stopped after step {stop_after}.*saved.*the same command") as caught:
        train(*build(objective), arm(tmp_path / "b"), stop)
    assert caught.value.signal == signal.SIGTERM
    torch.manual_seed(999)  # another process would have another global state
    resumed, _ = train(*build(objective), arm(tmp_path / "b"), quiet)
    assert_same(unbroken, resumed)
    assert (tmp_path / "a" / "metrics.jsonl").read_text().count("\n") == resumed.step
    assert (tmp_path / "b" / "metrics.jsonl").read_text().count("\n") == resumed.step


@pytest.mark.parametrize("objective", [AFDConfig(group=4), AFDConfig(group=4, prior_policy="start"), SFTConfig()])
def test_adapters_resume_to_the_same_bits_and_checkpoints_hold_no_base(build, tmp_path, objective) -> None:
    pytest.importorskip("peft")
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    lora = LoraConfig(rank=2, alpha=2)
    unbroken, _ = train(*build(objective, lora=lora), arm(tmp_path / "a"), quiet)

    def stop(report: StepReport, steps: int) -> None:
        if report.step + 1 == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(*build(objective, lora=lora), arm(tmp_path / "b"), stop)
    saved = load_file(checkpoints(tmp_path / "b" / "checkpoints")[-1] / "state.safetensors")
    policies = [key for key in saved if key.startswith(("module.student.", "module.ema.", "module.prior."))]
    assert policies
    assert all(".lora_" in key for key in policies)
    torch.manual_seed(999)
    resumed, _ = train(*build(objective, lora=lora), arm(tmp_path / "b"), quiet)
    assert_same(unbroken, resumed)
    moved = [p for p in resumed.modules["ema"].state_dict() if "lora_B" in p]
    assert any(bool(resumed.modules["ema"].state_dict()[name].any()) for name in moved)


def test_killed_between_checkpoints_equals_unbroken(build, tmp_path) -> None:
    """kill -9 loses the steps since the last checkpoint; they are done again, to the same bits."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    unbroken, _ = train(*build(), arm(tmp_path / "a"), quiet)

    class Killed(BaseException):
        pass

    def die(report: StepReport, steps: int) -> None:
        if report.step + 1 == 5:
            raise Killed

    with pytest.raises(Killed):
        train(*build(), arm(tmp_path / "b"), die)
    assert [path.name for path in checkpoints(tmp_path / "b" / "checkpoints")] == ["step-000002", "step-000004"]
    resumed, _ = train(*build(), arm(tmp_path / "b"), quiet)
    assert_same(unbroken, resumed)


def test_a_damaged_newest_checkpoint_falls_back(build, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    unbroken, _ = train(*build(), arm(tmp_path / "a"), quiet)
    newest = checkpoints(tmp_path / "a" / "checkpoints")[-1]
    data = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(data[: len(data) // 2])
    assert "does not match its digest" in verify_checkpoint(newest)[0]
    with pytest.warns(UserWarning, match="does not match its digest: it is damaged; going on from step-"):
        resumed, _ = train(*build(), arm(tmp_path / "a"), quiet)
    assert_same(unbroken, resumed)


def test_all_checkpoints_damaged_is_one_clear_line(build, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    train(*build(), arm(tmp_path / "a"), quiet)
    for path in checkpoints(tmp_path / "a" / "checkpoints"):
        (path / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is whole") as caught:
        train(*build(), arm(tmp_path / "a"), quiet)
    assert "\n" not in str(caught.value)


def test_another_config_is_refused(build, tmp_path) -> None:
    (tmp_path / "a").mkdir()
    train(*build(), arm(tmp_path / "a"), quiet)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(*build(), arm(tmp_path / "a", config_hash="b"), quiet)


def test_a_full_disk_keeps_the_earlier_checkpoint(build, tmp_path, monkeypatch) -> None:
    objective, start = build()
    state = objective.initial_state(start)
    objective.prepare(state)
    state.step = 2
    save_checkpoint(state, tmp_path, "a")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("understudy.training.checkpoint.write_bytes_atomic", full)
    state.step = 4
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(state, tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    assert load_checkpoint(objective.initial_state(start), tmp_path, "a")


def test_only_the_two_newest_are_kept(build, tmp_path) -> None:
    objective, start = build()
    state = objective.initial_state(start)
    for step in (1, 2, 3):
        state.step = step
        save_checkpoint(state, tmp_path, "a")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000003"]


def whole_run(build, folder: Path) -> tuple[TrainState, Path]:
    folder.mkdir()
    unbroken, _ = train(*build(), arm(folder), quiet)
    return unbroken, checkpoints(folder / "checkpoints")[-1] / "state.json"


def rewritten(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


def other_group(**changes):
    def change(text):
        head = json.loads(text)
        for groups in head["optimisers"].values():
            groups[0] |= changes
        return json.dumps(head)

    return change


HARM = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "nested without end": lambda text: "[" * 100_000,
    "another step": rewritten(step=3),
    "a step in words": rewritten(step="five"),
    "a step that is true": rewritten(step=True),
    "no configuration": rewritten(config=None),
    "no optimisers": rewritten(optimisers={}),
    "optimisers of another kind": rewritten(optimisers={"student": 1}),
    "a rate in words": other_group(lr="fast"),
    "a rate without end": other_group(lr=float("inf")),
    "parameters of another model": other_group(params=[0]),
    "betas that are none": other_group(betas=[0.9]),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_damaged_newest_head_falls_back_and_is_said(build, tmp_path, harm) -> None:
    unbroken, head = whole_run(build, tmp_path / "a")
    head.write_text(harm(head.read_text()))
    with pytest.warns(UserWarning, match="going on from step-"):
        resumed, _ = train(*build(), arm(tmp_path / "a"), quiet)
    assert_same(unbroken, resumed)


def test_a_head_that_is_not_text_falls_back(build, tmp_path) -> None:
    unbroken, head = whole_run(build, tmp_path / "a")
    head.write_bytes(b"\xff\xfe\x00{")
    with pytest.warns(UserWarning, match="going on from"):
        assert_same(unbroken, train(*build(), arm(tmp_path / "a"), quiet)[0])


def test_all_heads_damaged_is_one_clear_line(build, tmp_path) -> None:
    whole_run(build, tmp_path / "a")
    for path in checkpoints(tmp_path / "a" / "checkpoints"):
        (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint under .* is whole") as caught:
        train(*build(), arm(tmp_path / "a"), quiet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.0.1"}, "understudy 0.0.1, now it is"),
        ({"threads": 7}, "7 torch threads, now it is 1"),
        ({"torch": "1.0"}, "torch 1.0, now it is"),
    ],
)
def test_what_may_cost_the_same_bits_is_said(build, tmp_path, changes, said) -> None:
    unbroken, head = whole_run(build, tmp_path / "a")
    head.write_text(rewritten(**changes)(head.read_text()))
    with pytest.warns(UserWarning, match=said):
        assert_same(unbroken, train(*build(), arm(tmp_path / "a"), quiet)[0])


def test_the_head_of_an_earlier_version_is_taken_and_said(build, tmp_path) -> None:
    unbroken, path = whole_run(build, tmp_path / "a")
    head = json.loads(path.read_text())
    del head["version"]
    path.write_text(json.dumps({**head, "config": "hashed in another way"}))
    with pytest.warns(UserWarning, match="an earlier understudy"):
        assert_same(unbroken, train(*build(), arm(tmp_path / "a"), quiet)[0])


def test_an_older_torch_with_fewer_settings_is_no_damage(build, tmp_path) -> None:
    unbroken, path = whole_run(build, tmp_path / "a")
    head = json.loads(path.read_text())
    for groups in head["optimisers"].values():
        del groups[0]["fused"]
    path.write_text(json.dumps({**head, "torch": "2.0"}))
    with pytest.warns(UserWarning, match="torch 2.0"):
        assert_same(unbroken, train(*build(), arm(tmp_path / "a"), quiet)[0])


def test_checkpoints_are_ordered_by_their_steps_not_by_their_names(tmp_path) -> None:
    for name in ("step-999999", "step-1000000", "step-x", "step-000020"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000020", "step-999999", "step-1000000"]


def test_the_new_name_reaches_the_disk_before_an_older_checkpoint_goes(build, tmp_path, monkeypatch) -> None:
    objective, start = build()
    state = objective.initial_state(start)
    done: list[str] = []
    sync, rmtree = files.sync, shutil.rmtree

    def remember(path: Path) -> None:
        if path == tmp_path:
            done.append(f"sync {max(found.name for found in checkpoints(tmp_path))}")
        sync(path)

    def remove(path: Path, **options: bool) -> None:
        if path.is_dir():
            done.append(f"remove {path.name}")
        rmtree(path, **options)

    monkeypatch.setattr("understudy.training.checkpoint.sync", remember)
    monkeypatch.setattr(shutil, "rmtree", remove)
    for step in (1, 2, 3):
        state.step = step
        save_checkpoint(state, tmp_path, "a")
    assert done[-2:] == ["sync step-000003", "remove step-000001"]


TORN = ['{"arm": "afd", "st', "\x00\x00", "[1, 2]", '{"arm": "afd", "phase": "update"}', "{" * 50_000, "\u2028"]


@pytest.mark.parametrize("torn", TORN)
def test_what_is_no_record_is_left_out_and_swallows_nothing(tmp_path, torn) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(torn)
    record(path, {"arm": "afd", "step": 0, "phase": "update"})
    record(path, {"arm": "afd", "step": 1, "phase": "update"})
    record(path, {"event": "note", "text": "a"})
    trim(path, "afd", 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"arm": "afd", "step": 0, "phase": "update"}, {"event": "note", "text": "a"}]
