"""Estimated costs against torch's own counter on a tiny student, and what a dry run says without any weights."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from understudy.cli import main
from understudy.recipes import shipped
from understudy.recipes.config import LoraConfig
from understudy.recipes.files import load_recipe
from understudy.run.cost import WanCost, cost_lines, memory, peak
from understudy.students.base import by_block, in_parallel
from understudy.students.lora import adapted
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, preset, wan_1_3b

RECIPES = shipped.FOLDER
WAN = ("selfforcing_1.3b", "causalforcing_1.3b_chunk", "causalforcing_1.3b_frame", "longlive_1.3b")
TINY = WanSpec(
    dim=24,
    ffn_dim=40,
    layers=3,
    heads=2,
    text_dim=8,
    text_len=6,
    freq_dim=16,
    in_channels=4,
    out_channels=4,
    height=4,
    width=6,
    max_frames=6,
    blocks=(2,),
    text="words",
)
FORMS = [{}, {"blocks": (1,)}, {"blocks": (1,), "window": 3, "sink": 1}, {"blocks": (1, 2, 3)}]


def counted(run) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def student_of(form: dict, rank: int) -> WanStudent:
    student = WanStudent(replace(TINY, **form))
    if rank:
        pytest.importorskip("peft")
        student = adapted(student, LoraConfig(rank=rank, alpha=rank), 0)  # type: ignore[assignment]
    return student


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rollout_and_parallel_pass_are_what_torch_counts(form: dict, rank: int) -> None:
    student = student_of(form, rank)
    cost = WanCost(student.spec, 6, rank)
    assert cost.adapter == (sum(p.numel() for p in student.parameters() if p.requires_grad) if rank else 0)
    levels = (1.0, 0.7, 0.5)

    def roll() -> None:
        text = replace(student.encode_text(["a ball"]), tables=None)  # no memory of time embeddings, as on a GPU
        roll_clip(student, text, 1, levels, SeededNoise([0]), 6)

    with torch.no_grad():
        assert counted(roll) == cost.rollout(levels)
    clip, t = torch.randn(1, 6, 4, 4, 6), torch.full((1, 6), 0.5)
    with torch.no_grad():
        assert (
            counted(lambda: student.teacher_forced(clip, clip, t, student.encode_text(["a"]))) == cost.teacher_forced()
        )


@pytest.mark.parametrize("by_blocks", [False, True])
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_an_update_is_about_what_torch_counts(rank: int, recomputed: bool, by_blocks: bool) -> None:
    student = student_of({}, rank)
    student.gradient_checkpointing = recomputed
    cost = WanCost(student.spec, 6, rank)
    clip, t = torch.randn(1, 6, 4, 4, 6), torch.full((1, 6), 0.5)
    velocities = by_block if by_blocks else in_parallel

    def update() -> None:
        for _ in range(2):
            with torch.no_grad():
                list(velocities(student, clip, clip, t, ["a"]))
        for _, v in velocities(student, clip, clip, t, ["a"]):
            v.square().mean().backward()

    assert counted(update) == pytest.approx(cost.update(recomputed, by_blocks), rel=0.05)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known and key not in given:
                    self._known.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("recomputed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("by_blocks", [False, True])
def test_memory_is_about_what_is_held(by_blocks: bool, recomputed: float, half: bool) -> None:
    pytest.importorskip("peft")
    spec = replace(TINY, dim=48, ffn_dim=144, layers=4, height=16, width=16, max_frames=9, blocks=(3,))
    student = WanStudent(spec).to(torch.bfloat16 if half else torch.float32)
    student = adapted(student, LoraConfig(rank=4, alpha=4), 0)  # type: ignore[assignment]
    student.gradient_checkpointing = recomputed
    clip, t = torch.randn(1, 9, 4, 16, 16), torch.full((1, 9), 0.5)
    # A clean and a noisy stream at one level would share their modulation.
    clip, t = clip, t + torch.linspace(0, 0.4, 9)
    with LiveBytes() as held:
        parts = (by_block if by_blocks else in_parallel)(student, clip, clip, t, ["a ball"])
        while True:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                part = next(parts, None)
            if part is None:
                break
            part[1].square().mean().backward()
            del part
    with LiveBytes() as rolled, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        roll_clip(student, student.encode_text(["a ball"]), 1, (1.0, 0.5), SeededNoise([0]), 9)
    needs = memory(WanCost(spec, 9, 4), 1, 3, 1, 1, half, half, by_blocks, recomputed)
    assert needs["or an update"] == pytest.approx(held.peak, rel=0.25)
    assert needs["rollouts"] == pytest.approx(rolled.peak, rel=0.25)


def test_the_public_size() -> None:
    cost = WanCost(preset("selfforcing").apply(wan_1_3b()), 21, 256)
    assert cost.frame_tokens == 1560
    assert cost.cache_bytes() == 30 * 2 * 1536 * 1560 * ((15 + 3) + 3 + (18 + 3)) * 4  # 18 frames of 21 are looked at
    needs = memory(cost, 1_418_996_800, 3, 1, 1, bf16=True)
    assert peak(needs) == sum(needs.values()) - min(needs["rollouts"], needs["or an update"])
    assert needs["weights"] == (1_418_996_800 + 3 * cost.adapter) * 4
    whole = memory(replace(cost, rank=0), 1_418_996_800, 5, 1, 1, bf16=True)
    assert whole["weights"] == 5 * 1_418_996_800 * 4
    windowed = WanCost(preset("longlive").apply(wan_1_3b()), 240)
    assert windowed.cache_bytes(2) == 30 * 2 * 1536 * 1560 * ((9 + 3) + 3 + (9 + 3)) * 2  # however long the clip


@pytest.mark.parametrize("name", WAN)
def test_a_dry_run_needs_no_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recipe = RECIPES / f"{name}.yaml"
    config = load_recipe(recipe)
    chosen = preset(str(config.student.preset))
    lines = cost_lines(config)
    assert "1,418,996,800 parameters" in lines[0]
    assert f"blocks of {chosen.blocks[0]}, " in lines[1]
    assert "32,760 in all" in lines[1]
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(recipe), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "\n".join(lines) in out
    assert "estimated memory: " in out
    assert "not ready" in out
    assert not list(tmp_path.iterdir())
