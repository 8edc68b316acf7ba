"""VideoReward on a tiny random Qwen2-VL of the same classes."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.discriminators.videoreward.files import load_reward_weights, load_videoreward
from understudy.discriminators.videoreward.model import (
    RATINGS,
    VideoReward,
    VideoRewardSpec,
    canonical_name,
    fitted_size,
    patchify,
    positions,
    sampled_frames,
)
from understudy.errors import CheckpointError, ConfigError
from understudy.objectives.losses import gradient_penalty, paired_loss
from understudy.students.bundle import load_weights

pytest.importorskip("transformers")
pytest.importorskip("peft")

SPEC = VideoRewardSpec(clip_fps=8.0, min_pixels=16 * 16, max_pixels=32 * 32, rank=4, alpha=8)
Make = Callable[..., VideoReward]


@pytest.fixture
def make(qwen_folder: Path) -> Make:
    def build(seed: int = 0, **changes: object) -> VideoReward:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            spec = VideoRewardSpec(**{**SPEC.__dict__, **changes})  # type: ignore[arg-type]
            return load_videoreward(qwen_folder, spec, dtype="float32")

    return build


def clips(batch: int = 2, frames: int = 16, side: tuple[int, int] = (24, 32), seed: int = 0) -> Tensor:
    return torch.rand(batch, frames, 3, *side, generator=torch.Generator().manual_seed(seed))


def awake(network: VideoReward) -> VideoReward:
    """LoRA begins at zero: move it, so that every part has a say."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def test_patches_are_those_of_the_transformers_processor() -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    image = np.random.default_rng(0).integers(0, 256, (3, 56, 84), dtype=np.uint8)
    processor = module.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=112 * 112)
    found = processor(images=[image], return_tensors="pt", input_data_format="channels_first")
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    frame = (torch.from_numpy(image).float() / 255 - mean) / std
    patches, grid = patchify(frame[None, None].expand(1, 2, -1, -1, -1), 14, 2, 2)
    assert list(grid) == found["image_grid_thw"][0].tolist()
    torch.testing.assert_close(patches[0], found["pixel_values"], rtol=0, atol=1e-5)
    single, _ = patchify(frame[None, None], 14, 2, 2)  # an odd last frame is doubled
    assert torch.equal(single, patches)


def test_each_patch_is_two_frames_of_one_place() -> None:
    frames = torch.arange(4 * 3 * 8 * 16, dtype=torch.float32).reshape(1, 4, 3, 8, 16)
    patches, grid = patchify(frames, 4, 2, 2)
    assert grid == (2, 2, 4)
    order = [(t, 0, x, y, z) for t in range(2) for x in range(2) for y in range(2) for z in range(2)]
    for patch, (t, _, x, y, z) in zip(patches[0], order, strict=True):
        top, left = 4 * y, 8 * x + 4 * z
        cube = frames[0, 2 * t : 2 * t + 2, :, top : top + 4, left : left + 4]
        assert torch.equal(patch.reshape(3, 2, 4, 4), cube.transpose(0, 1))


def test_positions_are_those_of_transformers(make: Make) -> None:
    model = make().model
    if "mm_token_type_ids" not in inspect.signature(model.get_rope_index).parameters:
        pytest.skip("this transformers takes other arguments")
    kinds = torch.tensor([[0] * 5 + [2] * 12 + [0] * 4])
    grid = torch.tensor([[2, 4, 6]])
    expected, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, video_grid_thw=grid)
    assert torch.equal(positions(5, (2, 2, 3), 21, torch.device("cpu")), expected[:, 0])


@pytest.mark.parametrize("size", [(480, 832), (64, 64), (392, 504), (28, 2000), (719, 1279)])
def test_sizes_are_those_of_the_transformers_processor(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    budget = (128 * 28 * 28, 256 * 28 * 28)
    found = fitted_size(*size, 28, *budget)
    assert found == module.smart_resize(*size, 28, *budget)
    assert found == (336, 588) or size != (480, 832)


@pytest.mark.parametrize(
    ("frames", "fps", "count"), [(81, 16.0, 10), (16, 8.0, 4), (5, 24.0, 4), (3, 24.0, 2), (1, 24.0, 1), (160, 8.0, 40)]
)
def test_frames_are_spread_over_the_clip(frames: int, fps: float, count: int) -> None:
    found = sampled_frames(frames, fps, 2.0)
    assert len(found) == count
    assert found[0] == 0
    assert found[-1] == (frames - 1 if count > 1 else 0)
    assert found == sorted(set(found))


def test_prepared_clips_are_pixels_in_range(make: Make) -> None:
    prepared = make().prepare(clips(side=(48, 64)))
    assert prepared.shape == (2, 4, 3, 24, 32)
    assert float(prepared.min()) >= -1
    assert float(prepared.max()) <= 1
    untouched = make().prepare(clips(side=(24, 32)))
    assert torch.equal(untouched, clips(side=(24, 32))[:, [0, 5, 10, 15]] * 2 - 1)


@torch.no_grad()
def test_a_score_depends_on_its_own_clip_and_prompt_only(make: Make) -> None:
    network = awake(make(clips_at_once=3))
    video, prompts = clips(3), ["a red ball falls", "ball", "blue ball"]
    whole = network.score(video, prompts)
    assert whole.shape == (3,)
    assert float(whole.std()) > 0
    alone = torch.cat([network.score(video[i : i + 1], prompts[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
    other = network.score(video, ["a red ball falls", "red", "blue ball"])
    assert torch.equal((other - whole).abs() > 1e-6, torch.tensor([False, True, False]))


@torch.no_grad()
def test_time_matters(make: Make) -> None:
    network = awake(make())
    video = clips()
    assert (network.score(video.flip(1), ["a ball"] * 2) - network.score(video, ["a ball"] * 2)).abs().min() > 1e-5


@torch.no_grad()
def test_the_overall_score_is_the_sum_of_the_standardised_ratings(make: Make) -> None:
    parts = [awake(make(dimension=name)).score(clips(), ["a", "ball"]) for name in ("visual", "motion", "text")]
    network = awake(make())
    torch.testing.assert_close(network.score(clips(), ["a", "ball"]), torch.stack(parts).sum(0))
    ratings = network.ratings(network.prepare(clips()), network.encode_text(["a", "ball"]))
    torch.testing.assert_close(parts[1], (ratings[:, 1] - 1.1646) / 1.3811)


@torch.no_grad()
def test_the_ratings_are_read_at_their_tokens(make: Make) -> None:
    network = awake(make())
    text = network.encode_text(["a ball"])
    seen = []
    with network.model.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state)):
        ratings = network.ratings(network.prepare(clips(1)), text)
    ids = network.tokenizer.convert_tokens_to_ids(list(RATINGS))
    tokens = seen[0].shape[1] - text.shape[1] + 1
    at = [text[0].tolist().index(i) + tokens - 1 for i in ids]
    torch.testing.assert_close(ratings[0], network.rm_head(seen[0][0, at]).squeeze(-1))


def test_a_prompt_cannot_write_a_rating_or_a_clip(make: Make) -> None:
    network = make()
    tokens = network.encode_text(["<|VQ_reward|> <|video_pad|> ball"])[0].tolist()
    for token in (*RATINGS, "<|video_pad|>"):
        assert tokens.count(network.tokenizer.convert_tokens_to_ids(token)) == 1


def test_a_template_without_its_tokens_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="template needs"):
        make(template="rate {prompt} <|VQ_reward|>")


def test_scores_can_be_differentiated_by_pixels(make: Make) -> None:
    network = awake(make())
    video = clips().requires_grad_()
    network.score(video, ["a ball"] * 2).sum().backward()
    assert video.grad is not None
    seen = video.grad.abs().amax((0, 2, 3, 4)) > 0
    assert seen.nonzero().flatten().tolist() == [0, 5, 10, 15]


def test_finite_differences_give_a_penalty_with_a_gradient(make: Make) -> None:
    network = awake(make())
    prepared, text = network.prepare(clips()), network.encode_text(["a", "ball"])
    scores = network.logits(prepared, text)
    nudged = network.logits(prepared + 0.05 * torch.randn(prepared.shape), text)
    gradient_penalty(scores, nudged, 0.05).mean().backward()
    norms = [p.grad.norm() for p in network.parameters() if p.requires_grad and p.grad is not None]
    assert torch.stack(norms).sum() > 0


def test_checkpointing_changes_no_gradient(make: Make) -> None:
    found = []
    for checkpointing in (True, False):
        network = awake(make(checkpointing=checkpointing))
        network.score(clips(), ["a", "ball"]).sum().backward()
        found.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_only_lora_and_head_are_trained_and_saved(make: Make) -> None:
    network = make()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert network.state_dict().keys() == trained
    assert all("lora_" in name or name == "rm_head.weight" for name in trained)
    assert not any("visual" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 7  # every linear layer of two language layers


def test_learns_to_tell_two_kinds_of_clips(make: Make) -> None:
    network = make()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 2e-3, (0.5, 0.95))
    ramp = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 3, 24, 32)
    for step in range(30):
        noise = 0.1 * torch.rand(4, 16, 3, 24, 32, generator=generator)
        real, fake = noise + ramp, noise + ramp.flip(0)  # the same pictures, in another order
        prompts = ["a ball"] * 4
        d_real, d_fake = network.score(real, prompts), network.score(fake, prompts)
        loss = paired_loss(d_real, d_fake).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == 0:
            first = float(loss.detach())
    assert float(loss.detach()) < 0.1 < first
    assert bool((d_real > d_fake).all())


def test_a_checkpoint_round_trip(make: Make, tmp_path: Path) -> None:
    network, other = awake(make()), make(seed=1)
    with torch.no_grad():
        expected = network.score(clips(), ["a", "ball"])
        assert not torch.equal(other.score(clips(), ["a", "ball"]), expected)
        load_weights(other, {k: v.clone() for k, v in network.state_dict().items()}, tmp_path)
        assert torch.equal(other.score(clips(), ["a", "ball"]), expected)


def public(name: str, layout: str) -> str:
    """The name a weight has in the published files: peft's prefix, and one of two layouts of Qwen2-VL."""
    name = name.removeprefix("model.")
    if layout == "old":
        name = name if name.startswith(("visual", "rm_head")) else name.replace("language_model.", "model.", 1)
    elif not name.startswith("rm_head"):
        name = f"model.{name}"
    return f"base_model.model.{name}"


@pytest.mark.parametrize("layout", ["old", "new"])
def test_reads_the_public_weights_in_both_layouts(make: Make, qwen_folder: Path, tmp_path: Path, layout: str) -> None:
    network = awake(make())
    state = {public(name, layout): p.detach().clone() for name, p in network.named_parameters()}
    embedding = next(name for name in state if "embed_tokens" in name)
    state[embedding] = state[embedding][:24]  # the public file has fewer rows than the base model
    state["base_model.model.lm_head.weight"] = state[embedding]
    for step, scale in ((5, 0.0), (50, 1.0)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        torch.save({k: v * scale for k, v in state.items()}, tmp_path / f"checkpoint-{step}" / "model.pth")
    loaded = load_videoreward(qwen_folder, SPEC, reward=tmp_path, dtype="float32")
    with torch.no_grad():
        assert torch.equal(loaded.score(clips(), ["a", "ball"]), network.score(clips(), ["a", "ball"]))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["discriminator.pt", "discriminator.safetensors"])
def test_reads_lora_and_head_alone(make: Make, qwen_folder: Path, tmp_path: Path, name: str, nested: bool) -> None:
    network = awake(make())
    state = {public(key, "new"): value for key, value in network.state_dict().items()}
    if name.endswith("pt"):
        torch.save({"discriminator": state, "step": 300} if nested else state, tmp_path / name)
    else:
        save_file({key.replace(".default", ""): value for key, value in state.items()}, tmp_path / name)
    loaded = load_videoreward(qwen_folder, SPEC, weights=tmp_path / name, dtype="float32")
    with torch.no_grad():
        assert torch.equal(loaded.score(clips(), ["a", "ball"]), network.score(clips(), ["a", "ball"]))


def test_wrong_files_name_the_first_wrong_weight(make: Make, tmp_path: Path) -> None:
    network = make()
    state = {public(name, "old"): p.detach().clone() for name, p in network.state_dict().items()}
    file = tmp_path / "discriminator.pt"
    head = state.pop("base_model.model.rm_head.weight")
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r"1 missing and 0 unexpected tensors, first missing 'rm_head.weight'"):
        load_reward_weights(network, tmp_path)
    torch.save({**state, "base_model.model.rm_head.weight": head[:, :3]}, file)
    with pytest.raises(CheckpointError, match=r"'rm_head.weight' has shape \[1, 3\], expected \[1, 32\]"):
        load_reward_weights(network, file)
    torch.save({**state, "base_model.model.rm_head.weight": head, "base_model.model.model.x.lora_A": head}, file)
    with pytest.raises(
        CheckpointError, match=r"0 missing and 1 unexpected tensors, first unexpected 'language_model.x"
    ):
        load_reward_weights(network, file)
    torch.save({**state, "base_model.model.rm_head.weight": head / 0}, file)
    with pytest.raises(CheckpointError, match=r"not finite in 'rm_head\.weight'"):
        load_reward_weights(network, file)


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


def test_files_never_run_code(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": Evil()}, tmp_path / "discriminator.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors") as caught:
        load_reward_weights(make(), tmp_path)
    assert "\n" not in str(caught.value)
    assert "it ran" not in capsys.readouterr().out
    (tmp_path / "discriminator.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError):
        load_reward_weights(make(), tmp_path)
    with pytest.raises(CheckpointError, match="holds no discriminator weights"):
        load_reward_weights(make(), tmp_path / "none")


def test_a_folder_that_is_no_model_is_one_line(qwen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no Qwen2-VL model"):
        load_videoreward(tmp_path, SPEC)
    for file in qwen_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(f"0 unexpected tensors, first missing '{gone}'")):
        load_videoreward(tmp_path, SPEC)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight"),
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("base_model.model.model.language_model.norm.weight", "language_model.norm.weight"),
        ("module.base_model.model.model.visual.merger.ln_q.bias", "visual.merger.ln_q.bias"),
        (
            "base_model.model.model.layers.1.mlp.up_proj.lora_B.default.weight",
            "language_model.layers.1.mlp.up_proj.lora_B.weight",
        ),
        ("rm_head", "rm_head.weight"),
        ("_fsdp_wrapped_module.base_model.model.rm_head.weight", "rm_head.weight"),
        ("base_model.model.lm_head.weight", None),
    ],
)
def test_canonical_names(name: str, expected: str | None) -> None:
    assert canonical_name(name) == expected


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_reads_what_the_public_trainer_leaves(
    make: Make, qwen_folder: Path, tmp_path: Path, layout: str, outputs: int
) -> None:
    """LoRA in one file; head, vision tower and embeddings in another; what is in neither was frozen."""
    network = make()
    network.set_outputs(outputs)
    awake(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "visual" in name or "embed_tokens" in name:
                parameter += 0.1
    state = {public(name, layout): p.detach().clone() for name, p in network.named_parameters()}
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    lora = {name.replace(".default", ""): value for name, value in state.items() if "lora_" in name}
    save_file(lora, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    other = {
        name: v for name, v in state.items() if any(part in name for part in ("rm_head", "visual", "embed_tokens"))
    }
    torch.save(other, folder / "non_lora_state_dict.pth")
    loaded = load_videoreward(qwen_folder, SPEC, reward=tmp_path, dtype="float32")
    with torch.no_grad():
        prepared, text = network.prepare(clips()), network.encode_text(["a", "ball"])
        assert torch.equal(loaded.ratings(prepared, text), network.ratings(prepared, text))
        assert torch.equal(loaded.score(clips(), ["a", "ball"]), network.score(clips(), ["a", "ball"]))
    load_videoreward(qwen_folder, SPEC, reward=tmp_path, headers=True)
    torch.save({name: v for name, v in other.items() if "rm_head" not in name}, folder / "non_lora_state_dict.pth")
    for headers in (False, True):
        with pytest.raises(CheckpointError, match=r"first missing 'rm_head.weight'"):
            load_videoreward(qwen_folder, SPEC, reward=tmp_path, headers=headers)


@torch.no_grad()
def test_each_rating_is_read_by_its_own_row(make: Make) -> None:
    network = make()
    network.set_outputs(3)
    awake(network)
    prepared, text = network.prepare(clips()), network.encode_text(["a", "ball"])
    found, head = network.ratings(prepared, text), network.rm_head.weight.clone()
    network.set_outputs(1)
    for row in range(3):
        network.rm_head.weight.copy_(head[row : row + 1])
        torch.testing.assert_close(network.ratings(prepared, text)[:, row], found[:, row])


def test_reads_a_merged_network_without_lora(make: Make, qwen_folder: Path, tmp_path: Path) -> None:
    network = awake(make())
    merged = {}
    for name, module in network.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            merged[f"{name}.weight"] = (module.base_layer.weight + module.get_delta_weight("default")).detach()
    for name, parameter in network.named_parameters():
        short = name.removeprefix("model.").replace(".base_layer", "")
        if "lora_" not in name:
            merged.setdefault(short, parameter.detach().clone())
    torch.save({public(name, "new"): value for name, value in merged.items()}, tmp_path / "model.pth")
    loaded = load_videoreward(qwen_folder, SPEC, reward=tmp_path / "model.pth", dtype="float32")
    with torch.no_grad():
        found, wanted = (net.score(clips(), ["a", "ball"]) for net in (loaded, network))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    gone = next(name for name in merged if name.endswith("layers.1.mlp.up_proj.weight"))
    del merged[gone]
    torch.save({public(name, "new"): value for name, value in merged.items()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"1 missing and 0 unexpected tensors, first missing '{gone}'")):
        load_videoreward(qwen_folder, SPEC, reward=tmp_path / "model.pth", dtype="float32")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"r": 4, "lora_alpha": 16},
            r"alpha 16, the recipe has 4 and 8: set discriminator\.rank 4 and discriminator\.alpha 16",
        ),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, "over its root"),
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "DoRA"),
        ({"r": 4}, "does not say how strong"),
    ],
)
def test_an_adapter_of_another_strength_is_refused(make: Make, tmp_path: Path, told: dict, words: str) -> None:
    network = make()
    state = {public(key, "new").replace(".default", ""): value for key, value in network.state_dict().items()}
    save_file({name: v for name, v in state.items() if "lora_" in name}, tmp_path / "adapter_model.safetensors")
    torch.save({name: v for name, v in state.items() if "lora_" not in name}, tmp_path / "non_lora_state_dict.pth")
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=words):
        load_reward_weights(network, tmp_path)


def test_headers_of_the_base_model_are_looked_at(qwen_folder: Path, tmp_path: Path) -> None:
    network = load_videoreward(qwen_folder, SPEC, headers=True)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    for file in qwen_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="first missing 'language_model"):
        load_videoreward(tmp_path, SPEC, headers=True)
