"""The whole loop on the causal Wan student in its block-wise, frame-wise and windowed forms, whole and with LoRA."""

from dataclasses import replace

import pytest
import torch

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.recipes.config import LoraConfig, RunConfig, StudentConfig, TrainConfig
from understudy.students import rollout
from understudy.students.bundle import Bundle, ClipForm
from understudy.students.lora import merged
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec
from understudy.training.data import TeacherClips

TINY = WanSpec(
    dim=24,
    ffn_dim=32,
    layers=2,
    heads=2,
    text_dim=8,
    text_len=6,
    freq_dim=16,
    in_channels=4,
    out_channels=4,
    height=4,
    width=6,
    max_frames=4,
    text="words",
)
FORMS = {
    "block-wise": {"blocks": (2,)},
    "frame-wise": {"blocks": (1,)},
    "windowed": {"blocks": (1,), "window": 3, "sink": 1},
    "first block smaller": {"blocks": (1, 3)},
}
AFD = {
    "small": AFDConfig(group=2),
    "paper": AFDConfig(
        group=2, beta=0.1, prior=1e-4, prior_policy="start", shared_blocks=0, limit=5, scope="batch", space="velocity"
    ),
}


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def trained(form: str, lora: LoraConfig | None, settings: AFDConfig, half: bool = False, **train: object):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = WanStudent(replace(TINY, **FORMS[form])).eval()
        codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    student.gradient_checkpointing = True
    if half:
        student = student.bfloat16()
    bundle = Bundle(student, codec, (1.0, 0.5), ClipForm(32, 48, 12.0, 8), "test")
    latents = torch.randn((6, 4, 4, 4, 6), generator=torch.Generator().manual_seed(1))
    data = TeacherClips(("red ball", "blue ball", "ball"), latents, ((0, 1), (2, 3), (4, 5)))
    config = RunConfig(
        student=StudentConfig(lora=lora),
        objective=settings,
        discriminator=DiscriminatorConfig(size=16, width=16, warmup=2, pool=4, rerender=None),
        train=TrainConfig(steps=2, prompts=2, warmup=0, **train),
    )
    objective = build_objective(settings, config.train, config, data, bundle)
    before = weights(student)
    state = objective.initial_state(student)
    objective.prepare(state)
    reports = []
    for _ in range(4):
        reports.append(objective.step(state))
        state.step += 1
    assert torch.equal(weights(student), before)
    return state, reports, student


@pytest.mark.parametrize("settings", AFD.values(), ids=AFD)
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=2)], ids=["full", "lora"])
@pytest.mark.parametrize("form", FORMS)
def test_two_warm_ups_and_two_updates(form: str, lora: LoraConfig | None, settings: AFDConfig) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    state, reports, start = trained(form, lora, settings)
    assert [report.phase for report in reports] == ["warm-up", "warm-up", "update", "update"]
    assert all(report.values["grad_norm"] > 0 for report in reports[2:])
    assert reports[2].values["drift"] == pytest.approx(0.0, abs=1e-9)
    plain = merged(state.policy("student"))
    assert plain.state_dict().keys() == start.state_dict().keys()
    assert not torch.equal(weights(plain), weights(start))


def test_rollouts_too_large_to_be_drawn_together_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, reports, _ = trained("block-wise", None, AFD["small"])
    monkeypatch.setattr(rollout, "_NUMBERS_AT_ONCE", 1)
    _, again, _ = trained("block-wise", None, AFD["small"])
    assert again[2].values["loss"] == pytest.approx(reports[2].values["loss"], rel=1e-4)
    assert again[2].values["grad_norm"] == pytest.approx(reports[2].values["grad_norm"], rel=1e-3)


def test_bfloat16_and_micro_batches_train(monkeypatch: pytest.MonkeyPatch) -> None:
    _, reports, _ = trained("block-wise", None, AFD["paper"], bf16=True, accumulate=4)
    assert all(report.values["grad_norm"] > 0 for report in reports[2:])


@pytest.mark.parametrize("form", FORMS)
def test_an_update_block_by_block_has_the_same_loss_and_holds_the_past(form: str) -> None:
    _, reports, _ = trained(form, None, AFD["paper"])
    _, blocks, _ = trained(form, None, AFD["paper"].model_copy(update={"by_block": True}))
    assert blocks[2].values["loss"] == pytest.approx(reports[2].values["loss"], rel=1e-4)
    assert blocks[2].values["grad_norm"] == pytest.approx(reports[2].values["grad_norm"], rel=0.5)
    # The past's keys get no gradient: it differs, but for a student that sees no past.
    assert blocks[2].values["grad_norm"] != pytest.approx(reports[2].values["grad_norm"], rel=1e-4)


def test_adapters_on_a_bfloat16_base_train_and_are_merged_in_full() -> None:
    pytest.importorskip("peft")
    settings = AFD["paper"].model_copy(update={"by_block": True})
    state, reports, start = trained("block-wise", LoraConfig(rank=2, alpha=2), settings, half=True, bf16=True, lr=1e-5)
    assert all(report.values["grad_norm"] > 0 for report in reports[2:])
    assert {p.dtype for p in start.parameters()} == {torch.bfloat16}
    plain = merged(state.policy("student"))
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    changed = plain.blocks[0].self_attn.q.weight - start.blocks[0].self_attn.q.weight.float()
    assert 0 < float(changed.detach().abs().max()) < 1e-3  # less than bfloat16 could hold beside the weight
