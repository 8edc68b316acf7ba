"""Adapters: no effect at first, one base under all policies, merged equals adapted, files that peft loads."""

import copy

import pytest
import torch

from understudy.errors import CheckpointError, ConfigError
from understudy.recipes.config import LoraConfig
from understudy.students.lora import adapted, fork, load_adapter, lora_targets, merged, on_base, save_adapter

peft = pytest.importorskip("peft")
LORA = LoraConfig(rank=3, alpha=6)


def velocity(student) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    clean, noisy = torch.randn((2, 2, 4, 6, 4, 4), generator=generator).transpose(2, 3)
    with torch.no_grad():
        text = student.encode_text(["a red ball", "ball falls"])
        return student.teacher_forced(clean, noisy, torch.full((2, 6), 0.5), text)


def moved(student):
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return student


def test_all_linear_layers_of_the_blocks_by_default(make_student) -> None:
    names = lora_targets(make_student(), None)
    assert names[:5] == [f"layers.0.{end}" for end in ("qkv", "text_kv", "out", "mlp.0", "mlp.2")]
    assert len(names) == 10


def test_targets_by_their_ends(make_student) -> None:
    assert lora_targets(make_student(), ("qkv",)) == ["layers.0.qkv", "layers.1.qkv"]
    with pytest.raises(ConfigError, match=r"'q' is no linear layer; the blocks have mlp.0, mlp.2, out, qkv, text_kv"):
        lora_targets(make_student(), ("q",))


def test_new_adapters_have_no_effect_and_equal_seeds_are_equal(make_student) -> None:
    base = make_student()
    first, second = adapted(base, LORA, 1), adapted(base, LORA, 1)
    # Torch's text encoder layer takes a fused path when its weights are frozen: the last bit depends on that, not on us.
    frozen = copy.deepcopy(base).requires_grad_(False)
    for policy in (first, fork(first), on_base(base)):
        assert torch.equal(velocity(policy), velocity(frozen))
    assert torch.allclose(velocity(first), velocity(base), rtol=1e-5, atol=1e-6)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_base_under_all_policies(make_student) -> None:
    base = make_student()
    student = adapted(base, LORA, 1)
    policies = [student, fork(student), fork(student), on_base(base)]
    pointers = {p.data_ptr() for policy in policies for n, p in policy.named_parameters() if ".lora_" not in n}
    assert pointers == {p.data_ptr() for p in base.parameters()}
    own = [{p.data_ptr() for n, p in policy.named_parameters() if ".lora_" in n} for policy in policies]
    assert len(set.union(*own)) == sum(map(len, own)) == 3 * 2 * 10
    assert all(p.requires_grad for p in base.parameters())  # the start student itself is left as it was


def test_training_one_policy_leaves_the_others(make_student) -> None:
    base = make_student()
    student = adapted(base, LORA, 1)
    others = [fork(student), on_base(base), base]
    before = [velocity(other) for other in others]
    moved(student)
    assert not torch.allclose(velocity(student), before[0])
    for other, expected in zip(others, before, strict=True):
        assert torch.equal(velocity(other), expected)


def test_merged_equals_adapted(make_student) -> None:
    base = make_student()
    weights = copy.deepcopy(base.state_dict())
    student = moved(adapted(base, LORA, 1))
    plain = merged(student)
    assert plain.state_dict().keys() == weights.keys()
    gap = torch.linalg.norm(velocity(plain) - velocity(student)) / torch.linalg.norm(velocity(student))
    assert gap < 1e-5
    assert all(torch.equal(base.state_dict()[key], weights[key]) for key in weights)
    assert merged(base) is base


def test_files_come_back_bit_for_bit_and_peft_loads_them(make_student, tmp_path) -> None:
    base = make_student()
    student = moved(adapted(base, LORA, 1))
    save_adapter(student, tmp_path / "adapter", "builtin:frame")
    assert torch.equal(velocity(load_adapter(base, tmp_path / "adapter")), velocity(student))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    assert torch.equal(velocity(theirs.base_model.model), velocity(student))


def test_an_adapter_of_another_student_is_refused(make_student, tmp_path) -> None:
    save_adapter(adapted(make_student(), LORA, 1), tmp_path / "adapter", "x")
    with pytest.raises(CheckpointError, match=r"10 unexpected|missing|holds no LoRA") as caught:
        load_adapter(make_student(depth=1), tmp_path / "adapter")
    assert "\n" not in str(caught.value)
