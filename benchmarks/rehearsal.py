"""The whole path of a Wan recipe on a CPU: from files as they lie on a user's disk to a trained student that others load.

    python benchmarks/rehearsal.py FOLDER [--size tiny|1.3b] [--text-layers 1] [--judge-layers 2] [--json FILE]

Files of the public names and shapes are written with random weights, in the layouts that the public repositories give out:
a Self-Forcing `.pt`, `Wan2.1_VAE.pth`, `models_t5_umt5-xxl-enc-bf16.pth` with its tokenizer, a Qwen2-VL folder, VideoReward
as its trainer leaves it, and tiny clips (16x16, nine frames). Then a user's commands, one process each: doctor, a dry run,
train, `kill -9`, the same command again, generate, evaluate, and every export, read back. Said of each: CPU seconds and the
most memory that its process held, beside the estimate of the dry run. Nothing is learned: the weights are noise.
"""

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from understudy.codecs.wan_files import diffusers_name
from understudy.discriminators.videoreward.files import load_videoreward
from understudy.discriminators.videoreward.model import RATINGS, VideoRewardSpec
from understudy.students.bundle import load_bundle
from understudy.students.checkpoints.adapter import with_adapter
from understudy.students.checkpoints.layout import WanSizes, shapes
from understudy.students.checkpoints.read import read_checkpoint
from understudy.students.umt5_files import transformers_name
from understudy.video.clips import Clip, write_mp4

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ("a red ball falls", "a blue ball falls", "a red ball", "a blue ball")
CHAT = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|endoftext|>")


@dataclass(frozen=True)
class Size:
    """Widths of all parts; depth of the text encoder and the discriminator's base is an option, for a CPU's sake."""

    wan: WanSizes
    vae: int
    text: dict[str, int]
    judge: dict[str, int]
    vision: dict[str, int]
    rank: int


SIZES = {
    "tiny": Size(
        WanSizes(dim=256, ffn_dim=512, heads=2, layers=2, text_dim=64),
        4,
        {"vocab_size": 64, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4},
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        {"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2},
        4,
    ),
    "1.3b": Size(
        WanSizes(dim=1536, ffn_dim=8960, heads=12, layers=30),
        96,
        {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64},
        {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
        {"embed_dim": 1280, "hidden_size": 1536, "depth": 2, "num_heads": 16},
        16,
    ),
}


def drawn(shapes_by_name: Mapping[str, Iterable[int]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return small random weights; scales of norms are near one, so that numbers stay in range."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, shape in shapes_by_name.items():
        size = tuple(shape)
        near = 1.0 if len(size) == 1 and name.endswith(("weight", "gamma")) else 0.0
        found[name] = (near + 0.02 * torch.randn(size, generator=generator)).to(dtype)
    return found


def original_names(theirs: Iterable[str], candidates: Iterable[str], to: Any) -> dict[str, str]:
    """Return the original name of every weight that a library calls otherwise, out of ``candidates``."""
    wanted = set(theirs)
    found = {to(name): name for name in candidates if to(name) in wanted}
    if missing := wanted - found.keys():
        raise SystemExit(f"no original name is known for {sorted(missing)[:3]}")
    return found


def vae_candidates() -> Iterable[str]:
    """Yield every name that a weight of Wan's own autoencoder can have, and more."""
    tails = [f"residual.{n}.{end}" for n in (0, 2, 3, 6) for end in ("gamma", "weight", "bias")]
    ends = [
        *tails,
        *(f"{part}.{end}" for part in ("shortcut", "resample.1", "time_conv") for end in ("weight", "bias")),
    ]
    attention = ("norm.gamma", "to_qkv.weight", "to_qkv.bias", "proj.weight", "proj.bias")
    for part, stack in (("encoder", "downsamples"), ("decoder", "upsamples")):
        yield from (f"{part}.{stack}.{index}.{end}" for index in range(16) for end in ends)
        yield from (f"{part}.middle.{index}.{end}" for index in (0, 2) for end in tails)
        yield from (f"{part}.middle.1.{end}" for end in attention)
        yield from (
            f"{part}.{name}" for name in ("conv1.weight", "conv1.bias", "head.0.gamma", "head.2.weight", "head.2.bias")
        )
    yield from (f"conv{number}.{end}" for number in (1, 2) for end in ("weight", "bias"))


def text_candidates(layers: int) -> Iterable[str]:
    """Yield every name that a weight of Wan's own T5 encoder has."""
    inside = (
        "norm1",
        "norm2",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.o",
        "pos_embedding.embedding",
        "ffn.gate.0",
        "ffn.fc1",
        "ffn.fc2",
    )
    yield from (f"blocks.{layer}.{name}.weight" for layer in range(layers) for name in inside)
    yield from ("token_embedding.weight", "norm.weight")


def tokenizer(folder: Path, special: Iterable[str]) -> None:
    """Write a tokenizer that knows the words of the prompts."""
    import tokenizers
    import transformers

    words = ["<unk>", "</s>", *special, *sorted({word for prompt in PROMPTS for word in prompt.split()})]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.add_tokens(list(special), special_tokens=True)
    wrapped.save_pretrained(folder)


def write_files(folder: Path, size: Size, text_layers: int, judge_layers: int) -> None:
    """Write every file that the recipe names."""
    import diffusers
    import transformers

    wan = folder / "Wan2.1-T2V-1.3B"
    wan.mkdir(parents=True)
    student = {f"model.{name}": tensor for name, tensor in drawn(shapes(size.wan), torch.float32).items()}
    torch.save({"generator_ema": student}, folder / "self_forcing_dmd.pt")
    del student
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(base_dim=size.vae).state_dict()
        config = transformers.UMT5Config(num_layers=text_layers, **size.text)
        text = transformers.UMT5EncoderModel(config).state_dict()
    text.pop("encoder.embed_tokens.weight", None)
    names = original_names(vae, vae_candidates(), diffusers_name)
    torch.save(drawn({names[key]: value.shape for key, value in vae.items()}, torch.float32), wan / "Wan2.1_VAE.pth")
    names = original_names(text, text_candidates(text_layers), transformers_name)
    weights = drawn({names[key]: value.shape for key, value in text.items()}, torch.bfloat16)
    torch.save(weights, wan / "models_t5_umt5-xxl-enc-bf16.pth")
    del weights
    tokenizer(wan / "google" / "umt5-xxl", ())
    judge = transformers.Qwen2VLConfig(
        text_config={**size.judge, "num_hidden_layers": judge_layers, "max_position_embeddings": 4096},
        vision_config={**size.vision, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
        video_token_id=2 + CHAT.index("<|video_pad|>"),
        vision_start_token_id=2 + CHAT.index("<|vision_start|>"),
        vision_end_token_id=2 + CHAT.index("<|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1] if size.rank == 4 else [16, 24, 24], "rope_theta": 1e6}
    judge.text_config.rope_parameters = rope
    torch.manual_seed(0)
    transformers.Qwen2VLModel(judge).to(torch.bfloat16).save_pretrained(folder / "Qwen2-VL-2B-Instruct")
    tokenizer(folder / "Qwen2-VL-2B-Instruct", (*CHAT, *RATINGS))
    write_reward(folder, size.rank)
    write_clips(folder / "clips")


def write_reward(folder: Path, rank: int) -> None:
    """Write VideoReward as its trainer leaves it: LoRA in one file, the head in another, the rest was frozen."""
    spec = VideoRewardSpec(clip_fps=16.0, rank=rank, alpha=2 * rank)
    network = load_videoreward(folder / "Qwen2-VL-2B-Instruct", spec, headers=True)
    named = {name: parameter.shape for name, parameter in network.named_parameters() if parameter.requires_grad}
    lora = {f"base_model.model.{key.replace('.default', '')}": shape for key, shape in named.items() if "lora_" in key}
    place = folder / "VideoReward" / "checkpoint-1"
    place.mkdir(parents=True)
    save_file(drawn(lora, torch.bfloat16), place / "adapter_model.safetensors")
    torch.save(
        drawn({"base_model.model.rm_head.weight": named["rm_head.weight"]}, torch.bfloat16),
        place / "non_lora_state_dict.pth",
    )
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
    (place / "adapter_config.json").write_text(json.dumps(settings))


def write_clips(folder: Path) -> None:
    """Write four clips of every prompt: a square that moves."""
    folder.mkdir()
    rows = []
    for number, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(4)):
        frames = np.full((9, 16, 16, 3), 40, dtype=np.uint8)
        for t in range(9):
            frames[t, t : t + 4, number % 12 : number % 12 + 4] = (200, 60, 12 * number)
        write_mp4(folder / f"{number}.mp4", Clip(frames, 16.0))
        rows.append((f"{number}.mp4", prompt))
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "prompt"), *rows])
    (folder / "train.txt").write_text("\n".join(PROMPTS[:2]) + "\n")
    (folder / "held_out.txt").write_text("\n".join(PROMPTS[2:]) + "\n")


def write_recipe(folder: Path, size: Size) -> Path:
    """Write the recipe: the public one, on these files, as small as it goes."""
    wan = str(folder / "Wan2.1-T2V-1.3B")
    own = {
        "base": str(ROOT / "recipes" / "selfforcing_1.3b.yaml"),
        "name": "rehearsal",
        "out": str(folder / "run"),
        "device": "cpu",
        "teacher": {"kind": "folder", "path": str(folder / "clips")},
        "prompts": {
            "kind": "file",
            "train": str(folder / "clips" / "train.txt"),
            "held_out": str(folder / "clips" / "held_out.txt"),
        },
        "clips": {"store": str(folder / "store"), "limit": None},
        "student": {
            "start": str(folder / "self_forcing_dmd.pt"),
            "size": [16, 16],
            "frames": 9,
            "codec": {"kind": "wan", "path": wan, "dtype": "float32"},
            "text": {"kind": "umt5", "path": wan, "cache": str(folder / "text")},
            "lora": {"rank": size.rank, "alpha": size.rank},
        },
        "discriminator": {
            "path": str(folder / "Qwen2-VL-2B-Instruct"),
            "reward": str(folder / "VideoReward"),
            "rank": size.rank,
            "alpha": 2 * size.rank,
            "warmup": 1,
            "pool": 2,
            "min_pixels": 784,
            "max_pixels": 784,
        },
        "objective": {"group": 2},
        "train": {"steps": 3, "prompts": 1, "accumulate": 2, "checkpoint_every": 1},
        "evaluation": {"prompts": 2, "rollouts": 2, "reference": 2, "floor": 2},
    }
    path = folder / "rehearsal.yaml"
    path.write_text(yaml.safe_dump(own))
    return path


@dataclass
class Phases:
    """Runs commands one after the other and keeps what each took."""

    found: dict[str, dict[str, object]]

    def __call__(self, name: str, *arguments: object, kill_at: Path | None = None) -> str:
        """Run one command; with ``kill_at``, kill it as soon as that folder holds something. Return what it said."""
        command = [sys.executable, "-m", "understudy", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        while kill_at is not None and process.poll() is None:
            if any(kill_at.glob("*/state.json")):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        said = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0) if process.returncode is None else (0, 0, None)
        code = os.waitstatus_to_exitcode(status) if used is not None else process.returncode
        wanted = -signal.SIGKILL if kill_at is not None else 0
        if code != wanted:
            raise SystemExit(f"{name} ended with {code}, expected {wanted}:\n{said[-2000:]}")
        took = (
            {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "peak_gib": round(used.ru_maxrss / 2**20, 2)}
            if used
            else {}
        )
        self.found[name] = took
        print(f"{name}: {took}", flush=True)
        return said


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], within: float = 0.0) -> None:
    """Stop unless both hold the same weights [D, D_in]."""
    if first.keys() != second.keys():
        raise SystemExit(f"names differ: {sorted(first.keys() ^ second.keys())[:3]}")
    worst = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    if worst > within:
        raise SystemExit(f"weights differ by up to {worst}")


def exports(folder: Path, phases: Phases) -> None:
    """Export the run in every format and read each back."""
    places = {
        "diffusers": "student-diffusers",
        "selfforcing": "student.pt",
        "comfyui": "student.safetensors",
        "lora": "adapter-peft",
        "lora-diffusers": "adapter-diffusers",
        "lora-comfyui": "adapter.safetensors",
        "bundle": "student-bundle",
    }
    for to, name in places.items():
        phases(f"export {to}", "export", folder / "run", folder / name, "--to", to)
    wanted = load_bundle(folder / "run").student.state_dict()
    for to in ("diffusers", "selfforcing", "comfyui"):
        same(read_checkpoint(folder / places[to]).tensors, wanted)
    same(load_bundle(folder / places["bundle"]).student.state_dict(), wanted)
    base = read_checkpoint(folder / "self_forcing_dmd.pt")
    for to in ("lora", "lora-diffusers", "lora-comfyui"):
        inside = "pytorch_lora_weights.safetensors" if to == "lora-diffusers" else ""
        same(with_adapter(base, folder / places[to] / inside).tensors, wanted, within=1e-5)


def main() -> None:
    """Write the files, run the commands, print and keep what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder; 1.3b takes 20 GB")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--text-layers", type=int, default=1)
    parser.add_argument("--judge-layers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size, folder = SIZES[options.size], options.folder.resolve()
    write_files(folder, size, options.text_layers, options.judge_layers)
    recipe, phases = write_recipe(folder, size), Phases({})
    phases("doctor", "doctor", recipe)
    said = phases("dry run", "train", recipe, "--dry-run")
    estimate = re.search(r"estimated memory: ([\d.]+) GiB", said)
    phases("train, killed", "train", recipe, kill_at=folder / "run" / "checkpoints" / "afd")
    phases("resume", "train", recipe)
    phases("generate", "generate", folder / "run", PROMPTS[0], "--out", folder / "drawn")
    phases("evaluate", "evaluate", folder / "run")
    exports(folder, phases)
    found = {"size": options.size, "estimated_gib": float(estimate[1]) if estimate else None, "phases": phases.found}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
