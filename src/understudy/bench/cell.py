"""One cell of a grid, done in a process of its own: train, measure, write result.json."""

import contextlib
import math
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.bench.long import drift
from understudy.bench.suite import Cell
from understudy.codecs.base import to_frames
from understudy.errors import UnderstudyError
from understudy.evaluation.leak import look_leak, mean_picture
from understudy.evaluation.metrics import ClipSet, measure_in_detail, to_json
from understudy.files import ensure_folder, write_json_atomic
from understudy.objectives.gauges import name_regime
from understudy.pretraining.stages import Stage, distil
from understudy.run.arm import save_arm, train_arm
from understudy.run.checks import check
from understudy.run.clips import even_step, training_clips
from understudy.run.lock import Busy, holding
from understudy.run.log import RunLog
from understudy.run.measure import evaluator
from understudy.run.process import prepare_process
from understudy.run.start import load_start
from understudy.run.stopping import terminable
from understudy.students.bundle import Bundle, load_bundle
from understudy.students.generate import draw_clips
from understudy.students.lora import merged
from understudy.training.data import TeacherClips, teacher_clips
from understudy.training.loop import Arm, Interrupted

RESULT = "result.json"


def work(cell: Cell) -> None:
    """Do ``cell`` and leave its result, or the reason why there is none, in its folder; log.txt has what was said."""
    ensure_folder(cell.folder)
    with (
        (cell.folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            prepare_process(max(1, cell.config.threads))
            with holding(cell.folder), terminable():
                result = do(cell)
        except (Interrupted, KeyboardInterrupt):
            sys.exit(130)
        except Busy as error:  # not the cell's own end: it is tried again
            sys.exit(str(error))
        except UnderstudyError as error:
            result = {"error": " ".join(str(error).split())}
        except Exception as error:  # a row with its reason, not the end of the grid
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        head = {"setting": cell.setting, "row": cell.row, "seed": cell.seed, "digest": cell.digest}
        write_json_atomic(cell.folder / RESULT, {**head, "error": None, **result})


def do(cell: Cell) -> dict[str, Any]:
    """Train and measure ``cell``; return its result as a JSON value."""
    config, began = cell.config, time.perf_counter()
    bundle = load_start(config)
    for line in check(config, bundle) if cell.spec.train else ():
        print(line)
    pairs = training_clips(config, bundle.form)
    data = teacher_clips(pairs, bundle.form, bundle.codec, even_step(config, bundle.form))
    prepared = time.perf_counter()
    if cell.spec.train:
        bundle = _trained(cell, data, bundle)
    trained = time.perf_counter()
    measuring = evaluator(config, bundle)
    clips = measuring.draw(bundle.student)
    block = bundle.student.block_frames * bundle.codec.frames_per_latent
    families, prompts = measure_in_detail(clips, measuring.reference, block)
    result: dict[str, Any] = {
        "updates": config.train.steps if cell.spec.train else 0,
        "teacher_clips": len(pairs),
        "metrics": {family: to_json(metrics) for family, metrics in families.items()},
        "prompts": {prompt: {k: _plain(v) for k, v in values.items()} for prompt, values in prompts.items()},
        "leak": _plain(_leak(cell, bundle, data, clips)),
    }
    if cell.spec.train:
        paired = config.discriminator.loss == "paired"
        result["regime"] = name_regime(RunLog(cell.folder).rows(cell.row), paired)
    elif cell.row == "start":
        floor = measure_in_detail(measuring.drawn_by_teacher(), measuring.reference, block)[0]
        result["teacher"] = {family: to_json(metrics) for family, metrics in floor.items()}
    if cell.long is not None:
        result["long"] = drift(config, bundle, cell.long, teacher=cell.row == "start")
    result["seconds"] = {
        "prepare": prepared - began,
        "train": trained - prepared,
        "measure": time.perf_counter() - trained,
    }
    return result


def _trained(cell: Cell, data: TeacherClips, bundle: Bundle) -> Bundle:
    config = cell.config
    arm = Arm(
        name=cell.row,
        folder=cell.folder / "checkpoints",
        metrics=cell.folder / "metrics.jsonl",
        config_hash=cell.digest,
        checkpoint_every=config.train.checkpoint_every,
        resume="the same bench",
    )
    student, _ = train_arm(config, arm, data, bundle, lambda report, steps: None)
    if (settings := cell.spec.distil) is not None:
        student = distil(
            merged(student),  # type: ignore[arg-type]
            data.latents,
            data.row_prompts,
            settings.levels,
            settings.ode_steps,
            Stage(settings.steps, min(48, len(data.latents)), settings.lr),
            config.seed,
            lambda stage, step, steps, loss: None,
        ).eval()
        bundle = replace(bundle, levels=settings.levels)
    return save_arm(config, bundle, student, cell.name, cell.folder / "student")


def _leak(cell: Cell, bundle: Bundle, data: TeacherClips, clips: ClipSet) -> float:
    """Return the share of the way that the mean picture has gone from the start student's to the teacher's."""
    start = load_bundle(cell.origin)
    texts = [prompt for prompt in clips.prompts for _ in range(2)]
    own = np.stack([clip.frames for group in clips.clips for clip in group])
    first = np.stack([clip.frames for clip in draw_clips(start, texts, list(range(len(texts))))])
    with torch.no_grad():
        teacher = to_frames(bundle.codec.decode(data.latents[:: max(1, len(data.latents) // 64)]))
    pictures = [mean_picture(frames / 255) for frames in (own, first, teacher)]
    return look_leak(pictures[0], pictures[1], pictures[2])


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def finished(cell: Cell) -> Path:
    """Return where the result of ``cell`` is, or will be."""
    return cell.folder / RESULT
