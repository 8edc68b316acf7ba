"""Estimated costs against torch's own counter on a tiny student, and what a dry run says without any weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy.cli import main
from understudy.config import LoraConfig
from understudy.recipes import load_recipe
from understudy.students.cost import WanCost, cost_lines, memory
from understudy.students.lora import adapted
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec, preset, wan_1_3b

RECIPES = Path(__file__).parents[2] / "recipes"
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


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_an_update_is_about_what_torch_counts(rank: int, recomputed: bool) -> None:
    student = student_of({}, rank)
    student.gradient_checkpointing = recomputed
    cost = WanCost(student.spec, 6, rank)
    clip, t = torch.randn(1, 6, 4, 4, 6), torch.full((1, 6), 0.5)

    def update() -> None:
        for _ in range(2):
            with torch.no_grad():
                student.teacher_forced(clip, clip, t, student.encode_text(["a"]))
        student.teacher_forced(clip, clip, t, student.encode_text(["a"])).square().mean().backward()

    assert counted(update) == pytest.approx(cost.update(recomputed), rel=0.05)


def test_the_public_size() -> None:
    cost = WanCost(preset("selfforcing").apply(wan_1_3b()), 21, 256)
    assert cost.frame_tokens == 1560
    assert cost.cache_bytes == 30 * 2 * 1536 * 1560 * 18 * 4
    needs = memory(cost, 1_418_996_800, 3, 1, 1, True)
    assert needs["weights"] == (1_418_996_800 + 3 * cost.adapter) * 4
    whole = memory(replace(cost, rank=0), 1_418_996_800, 5, 1, 1, True)
    assert whole["weights"] == 5 * 1_418_996_800 * 4
    windowed = WanCost(preset("longlive").apply(wan_1_3b()), 240)
    assert windowed.cache_bytes == 30 * 2 * 1536 * 1560 * 9 * 4  # however long the clip


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
