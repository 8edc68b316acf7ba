"""Making the start students that ship with the package: ``python -m understudy.pretraining start``.

Clips of the physics-poor world train a codec, a flow-matching base, and few-step students distilled from it. About an
hour on one core; quickstart users never need it.
"""

import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from pydantic import Field, ValidationError
from torch import Tensor

from understudy.codecs.base import CodecModule, to_tensor
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import ConfigError, UnderstudyError
from understudy.pretraining.stages import CodecLoss, Stage, distil, pretrain, train_codec
from understudy.recipes.section import Section
from understudy.recipes.shipped import locate
from understudy.students.bundle import Bundle, ClipForm, load_bundle, save_bundle
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.teachers.base import ClipParams
from understudy.teachers.world import grammar
from understudy.teachers.world.teacher import WorldTeacher


class CodecStage(Section):
    """One stage of codec training; see ``CodecLoss`` for the weights."""

    clips: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)
    square: float
    jitter: float
    noise: float


class StartConfig(Section):
    """How the start students are made."""

    kind: Literal["start"] = "start"
    out: Path = Path("runs/start")
    seed: int = 0
    threads: int = Field(1, ge=1)
    clips: int = Field(6000, gt=0)
    """Physics-poor clips in the student's own look."""
    foreign_clips: int = Field(1200, gt=0)
    """Clips in another look, for the codec alone: it must take what teachers send."""
    told_share: float = Field(0.2, ge=0, le=1)
    """Share of prompts that name a material or a place, without effect: the words are known, their physics is not."""
    size: int = 48
    fps: float = 12.0
    frames: int = 16
    families: tuple[str, ...] = ("drop", "throw", "bounce")
    colours: tuple[str, ...] = ("red", "yellow", "green", "blue")
    codec: tuple[CodecStage, ...] = Field(min_length=1)
    codec_from: str | None = None
    """Take the codec of this bundle (a folder or builtin:frame) instead of training one by ``codec``."""
    pretrain_steps: tuple[int, ...] = Field(min_length=1)
    """Steps of each pass; a pass starts from the average of the one before."""
    pretrain_batch: int = Field(64, gt=0)
    pretrain_lr: float = 2e-3
    matrix_lr: float = 4e-3
    distil_clips: int = Field(gt=0)
    distil_steps: int = Field(gt=0)
    distil_lr: float = 8e-4
    ode_steps: int = Field(12, gt=0)
    levels: tuple[float, ...] = (1.0, 0.5)
    students: dict[str, int] = Field({"frame": 1, "block": 2})
    """Name and latent frames per block of each student to distil."""


def main(argv: list[str] | None = None) -> int:
    """Make the start students of the recipe named on the command line."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m understudy.pretraining RECIPE, as in start")
        make(StartConfig.model_validate(yaml.safe_load(locate(arguments[0]).read_text(encoding="utf-8"))))
    except (UnderstudyError, OSError, ValidationError, yaml.YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def make(config: StartConfig) -> None:
    """Make and save every student of ``config`` under ``config.out``."""
    torch.set_num_threads(config.threads)
    began = time.perf_counter()

    def report(stage: str, step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step + 1 == steps:
            print(f"{time.perf_counter() - began:6.0f} s  {stage} {step}/{steps} loss {loss:.4f}", flush=True)

    prompts, house = _clips(config, "house", config.clips, 0)
    codec: CodecModule
    if config.codec_from is None:
        _, film = _clips(config, "film", config.foreign_clips, 10**6)
        codec = _codec(config, house, film, report)
    else:
        codec = load_bundle(config.codec_from).codec
    with torch.no_grad():
        latents = torch.cat([codec.encode(part.float() / 255) for part in house.split(100)])
    torch.manual_seed(config.seed)
    spec = TransformerSpec(
        height=config.size // 8,
        width=config.size // 8,
        max_frames=config.frames // 2,
        vocabulary=vocabulary(),
    )
    base = CausalVideoTransformer(spec)
    form = ClipForm(config.size, config.size, config.fps, config.frames)
    for index, steps in enumerate(config.pretrain_steps):
        stage = Stage(steps, config.pretrain_batch, config.pretrain_lr, config.matrix_lr)
        base = pretrain(base.requires_grad_(True), latents, prompts, stage, config.seed + index, report)
        note = f"recipe start: base after pass {index + 1} of {len(config.pretrain_steps)}, not distilled"
        save_bundle(Bundle(base.eval(), codec, (1.0, 0.75, 0.5, 0.25), form, note), config.out / "base", half=True)
    count = config.distil_clips
    for name, block in config.students.items():
        student = CausalVideoTransformer(TransformerSpec(**{**base.config(), "block_frames": block}))
        student.load_state_dict(base.state_dict())
        stage = Stage(config.distil_steps, 48, config.distil_lr)
        distilled = distil(
            student,
            latents[:count],
            prompts[:count],
            config.levels,
            config.ode_steps,
            stage,
            config.seed,
            report,
        )
        bundle = Bundle(distilled.eval(), codec, config.levels, form, f"recipe start: {name}")
        save_bundle(bundle, config.out / name, half=True)


def vocabulary() -> tuple[str, ...]:
    """Return every word of the world's grammar."""
    told = grammar.scenes(
        grammar.FAMILIES,
        grammar.COLOURS,
        materials=(None, *grammar.MATERIALS),
        places=(None, *grammar.PLACES),
    )
    words = {word for scene in told for text in grammar.paraphrases(scene) for word in re.findall(r"[a-z0-9']+", text)}
    return tuple(sorted(words))


def _codec(config: StartConfig, house: Tensor, film: Tensor, report) -> SmallCodec:  # type: ignore[no-untyped-def]
    torch.manual_seed(config.seed)
    codec = SmallCodec(SmallCodecSpec())
    for stage in config.codec:
        frames = torch.cat([house[: stage.clips], film])
        weights = CodecLoss(stage.square, stage.jitter, stage.noise)
        train_codec(codec, frames, Stage(stage.steps, stage.batch, stage.lr), weights, config.seed, report)
    return codec.eval().requires_grad_(False)


def _clips(config: StartConfig, look: str, count: int, first_seed: int) -> tuple[list[str], Tensor]:
    """Return prompts and uint8 clips [N, T, 3, H, W] of the physics-poor world."""
    jobs = [(config, look, first_seed + i) for i in range(count)]
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        drawn = list(pool.map(_draw, jobs, chunksize=50))
    frames = np.stack([frames for _, frames in drawn])
    return [prompt for prompt, _ in drawn], (to_tensor(frames) * 255).round().to(torch.uint8)


def _draw(job: tuple[StartConfig, str, int]) -> tuple[str, np.ndarray]:
    config, look, seed = job
    rng = np.random.default_rng(seed)
    plain, told = _texts(config.families, config.colours)
    prompt = str(rng.choice(told if rng.random() >= 1 - config.told_share else plain))
    teacher = WorldTeacher(look, config.size, config.fps, config.frames, poor=True)
    return prompt, teacher.draw(prompt, seed, ClipParams())[0].frames


_TEXTS: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[list[str], list[str]]] = {}


def _texts(families: tuple[str, ...], colours: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return all plain prompts, and all with those that name a material or a place; worked out once per process."""
    if (families, colours) not in _TEXTS:
        plain = grammar.scenes(families, colours)
        told = grammar.scenes(families, colours, materials=(None, *grammar.MATERIALS), places=(None, *grammar.PLACES))
        _TEXTS[families, colours] = grammar.prompts(list(plain), 99, 0), grammar.prompts(list(told), 99, 0)
    return _TEXTS[families, colours]
