"""AnyFlow-FAR on a tiny random configuration: diffusers' own sampler, the contract, and AFD steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.errors import CheckpointError, ConfigError
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.recipes.files import load_recipe
from understudy.run.start import load_start
from understudy.students.anyflow.model import AnyFlowSpec, AnyFlowStudent
from understudy.students.base import block_sizes
from understudy.students.bundle import Bundle, ClipForm, load_bundle, save_bundle
from understudy.students.rollout import SeededNoise, Start, roll_clip
from understudy.training.data import TeacherClips

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "AnyFlowFARTransformer3DModel"):
    pytest.skip("this diffusers has no AnyFlow-FAR", allow_module_level=True)

MODEL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}
PARTITION = (1, 2, 2, 1, 2)
LEVELS = (1.0, 0.75, 0.4)


def make(zero_keys: bool = True, seed: int = 0) -> AnyFlowStudent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = AnyFlowSpec(8, 8, MODEL, PARTITION, zero_keys=zero_keys)
        return AnyFlowStudent(spec, lambda prompts: torch.stack([embedded(p) for p in prompts])).eval()


def embedded(prompt: str) -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(len(prompt)))


def draw(seed: int, frames: int = 8, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def diffusers_rollout(student: AnyFlowStudent, noise: Tensor, text: Tensor) -> Tensor:
    """The pipeline's loop with diffusers' own attention, its cache buffers and scheduler-free Euler steps."""
    net = diffusers.AnyFlowFARTransformer3DModel(**MODEL, chunk_partition=list(PARTITION)).eval()
    net.load_state_dict(student.net.state_dict())
    cache = {
        i: {
            "full_cache": torch.zeros(2, 1, 2, 3 * 2 * 16, 12),
            "compressed_cache": torch.zeros(2, 1, 2, 3 * 2 * 4, 12),
        }
        for i in range(2)
    }
    flag = {"num_cached_chunks": 0, "is_cache_step": False}
    out = torch.zeros_like(noise)
    for i, size in enumerate(PARTITION):
        low = sum(PARTITION[:i])
        x = noise[:, low : low + size]
        for t, r in zip(LEVELS, (*LEVELS[1:], 0.0), strict=True):
            times = [torch.full((1, size), 1000 * level) for level in (t, r)]
            u = net(
                x, *times, text, list(PARTITION[: i + 1]), kv_cache=cache, kv_cache_flag=dict(flag), return_dict=False
            )
            x = x + (r - t) * u[0]
        out[:, low : low + size] = x
        if i + 1 < len(PARTITION):
            zero = torch.zeros(1, low + size)
            step = {**flag, "is_cache_step": True}
            past, partition = out[:, : low + size], list(PARTITION[: i + 1])
            net(past, zero, zero, text, partition, kv_cache=cache, kv_cache_flag=step, return_dict=False)
            flag["num_cached_chunks"] += 1
    return out


def test_rollout_is_that_of_diffusers() -> None:
    student, text = make(), embedded("a ball")[None]
    drawn = draw(1)
    starts = {i: sum(PARTITION[:i]) for i in range(len(PARTITION))}

    def noise(block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        assert step == 0  # Euler steps add no noise
        return drawn[:, starts[block] : starts[block] + shape[1]]

    found = roll_clip(student, text, 1, LEVELS, noise, 8)
    torch.testing.assert_close(found, diffusers_rollout(student, drawn, text), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, roll_clip(make(zero_keys=False), text, 1, LEVELS, noise, 8), atol=1e-4)


@torch.no_grad()
def test_teacher_forced_equals_cached_and_blocks_are_causal() -> None:
    student, text = make(), embedded("a ball")[None].expand(2, -1, -1)
    clean, noisy = draw(2, batch=2), draw(3, batch=2)
    levels = torch.tensor([1.0, 0.4, 0.75, 1.0, 0.4]).repeat_interleave(torch.tensor(PARTITION)).expand(2, -1)
    whole = student.teacher_forced(clean, noisy, levels, text)
    cache, parts = student.empty_cache(), []
    for x0, x, t in zip(*(z.split(PARTITION, 1) for z in (clean, noisy, levels)), strict=True):
        parts.append(student.velocity(x, t, text, cache))
        cache = cache if len(parts) == len(PARTITION) else student.commit(x0, text, cache)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    for block in range(1, len(PARTITION)):
        low = sum(PARTITION[:block])
        other_clean, other_noisy = clean.clone(), noisy.clone()
        other_clean[:, low:] += 1
        other_noisy[:, low:] += 1
        other = student.teacher_forced(other_clean, other_noisy, levels, text)
        assert torch.equal(other[:, :low], whole[:, :low])
        assert not torch.allclose(other[:, low:], whole[:, low:])
    touched = clean.clone()
    touched[:, 0] += 1  # the first block is compressed by the end, and still seen
    assert not torch.allclose(student.teacher_forced(touched, noisy, levels, text)[:, -2:], whole[:, -2:], atol=1e-6)


@torch.no_grad()
def test_the_cache_is_a_value() -> None:
    student, text = make(), embedded("a ball")[None]
    cache = student.commit(draw(4, 1), text, student.empty_cache())
    t = torch.ones(1, 2)
    before = student.velocity(draw(5, 2), t, text, cache)
    student.commit(draw(6, 2), text, cache)
    assert torch.equal(student.velocity(draw(5, 2), t, text, cache), before)


def test_gradients_stay_inside_their_block() -> None:
    student, text = make(), embedded("a ball")[None]
    clean, noisy = draw(2).requires_grad_(), draw(3).requires_grad_()
    v = student.teacher_forced(clean, noisy, torch.full((1, 8), 0.75), text)
    v[:, -2:].square().sum().backward()
    assert clean.grad is None
    assert noisy.grad is not None
    assert noisy.grad.abs().amax((0, 2, 3, 4)).nonzero().flatten().tolist() == [6, 7]
    assert any(p.grad is not None and bool(p.grad.any()) for p in student.parameters())


def test_blocks_follow_the_partition_and_end_with_it() -> None:
    student = make()
    assert block_sizes(student, 8) == PARTITION
    text = student.encode_text(["a ball"])
    with pytest.raises(ConfigError, match=r"block 6 is past the 5 blocks \(8 latent frames\)"):
        roll_clip(student, text, 1, LEVELS, SeededNoise([0]), 9)
    with pytest.raises(ConfigError, match=r"block 1 of this student is \[B, 1, 4, 8, 8\]"):
        student.velocity(draw(0, 2), torch.ones(1, 2), text, student.empty_cache())
    with pytest.raises(ConfigError, match="takes no window"):
        student.with_spec(window=3)


def test_clips_can_be_drawn_again_from_a_level() -> None:
    student = make()
    text = student.encode_text(["a ball"])
    latents = draw(7)
    near = roll_clip(student, text, 1, (0.01,), SeededNoise([0]), 8, Start(latents))
    assert (near - latents).abs().max() < 0.2


def test_config_rebuilds_the_student() -> None:
    student = make()
    twin = AnyFlowStudent.from_config(student.config())
    twin.load_state_dict(student.state_dict())
    text = embedded("a ball")[None]
    t = torch.ones(1, 1)
    with torch.no_grad():
        a, b = (s.velocity(draw(1, 1), t, text, s.empty_cache()) for s in (student, twin.eval()))
    assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="no text encoder"):
        twin.encode_text(["a ball"])


def test_a_bundle_round_trip_and_a_few_afd_updates(tmp_path: Path) -> None:
    student = make()
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    made = Bundle(student, codec, LEVELS, ClipForm(64, 64, 12.0, 16), "test")
    save_bundle(made, tmp_path)
    bundle = replace(load_bundle(tmp_path), student=student)
    for a, b in zip(load_bundle(tmp_path).student.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)
    data = TeacherClips(("red ball", "blue ball"), draw(8, batch=2), ((0,), (1,)))
    config = RunConfig(
        objective=AFDConfig(group=2),
        discriminator=DiscriminatorConfig(size=16, width=16, warmup=1, pool=4),
        train=TrainConfig(steps=2, prompts=2, warmup=0),
    )
    objective = build_objective(config.objective, config.train, config, data, bundle)
    state = objective.initial_state(student)
    objective.prepare(state)
    before = [p.detach().clone() for p in state.modules["student"].parameters()]
    for _ in range(3):
        report = objective.step(state)
        state.step += 1
    assert report.phase == "update"
    assert report.values["grad_norm"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, state.modules["student"].parameters(), strict=True))


def test_loads_a_diffusers_folder(tmp_path: Path) -> None:
    student = make()
    student.net.save_pretrained(tmp_path / "transformer")
    loaded = AnyFlowStudent.from_diffusers(tmp_path, 8, 8, student.encode_text)
    assert loaded.spec.partition == PARTITION
    text, t = loaded.encode_text(["a ball"]), torch.ones(1, 1)
    with torch.no_grad():
        a, b = (s.velocity(draw(1, 1), t, text, s.empty_cache()) for s in (student, loaded))
    assert torch.equal(a, b)
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8))
    save_bundle(Bundle(loaded, codec, LEVELS, ClipForm(64, 64, 12.0, 16), "test"), tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").student.config() == loaded.config()
    with pytest.raises(CheckpointError, match="cannot be loaded as AnyFlow-FAR") as caught:
        AnyFlowStudent.from_diffusers(tmp_path / "none", 8, 8)
    assert "\n" not in str(caught.value)


def test_recipes_can_say_where_codec_and_text_are(tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = make()
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8))
    save_bundle(Bundle(student, codec, LEVELS, ClipForm(64, 64, 12.0, 16), "test"), tmp_path / "bundle")
    given = []
    monkeypatch.setattr("understudy.run.start.load_wan_codec", lambda *a: given.append(a) or codec)
    monkeypatch.setattr("understudy.run.start.UMT5Text", lambda *a: given.append(a) or student.encode_text)
    (tmp_path / "recipe.yaml").write_text(
        f"student:\n  start: {tmp_path / 'bundle'}\n  codec: {{kind: wan, path: vae}}\n  text: {{kind: umt5, path: pipe}}\n"
    )
    bundle = load_start(load_recipe(tmp_path / "recipe.yaml"))
    assert bundle.codec is codec
    assert bundle.student.encode_text(["a"]).shape == (1, 5, 8)
    assert given == [
        (Path("vae"), "float32", None),
        (Path("pipe"), Path("runs/text"), 512, "bfloat16", "cpu"),
    ]
    (tmp_path / "recipe.yaml").write_text(f"student:\n  start: {start}\n  text: {{path: pipe}}\n")
    with pytest.raises(ConfigError, match="has a text encoder of its own"):
        load_start(load_recipe(tmp_path / "recipe.yaml"))
