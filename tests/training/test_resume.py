"""A run stopped at any moment and resumed ends bit for bit like one that was never stopped."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from understudy.errors import CheckpointError
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.sft.config import SFTConfig
from understudy.recipes.config import LoraConfig
from understudy.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint, verify_checkpoint
from understudy.training.loop import Arm, Interrupted, train
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
