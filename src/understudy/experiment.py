"""A whole run from its description: collect, evaluate the start, train the arms, evaluate, report."""

import ctypes
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import __version__, flow
from understudy.baselines import build_objective
from understudy.clips import Clip, ClipForm, write_mp4
from understudy.codecs.base import latent_frames, to_frames, to_tensor
from understudy.codecs.wan import load_wan_codec
from understudy.collection.collect import CollectReport, Estimate, Policy, plan_jobs
from understudy.collection.collect import collect as collect_jobs
from understudy.collection.damage import damaged, limited
from understudy.collection.ledger import Budget
from understudy.collection.store import ClipStore
from understudy.config import AFDConfig, DamageConfig, RunConfig, WorldPromptsConfig
from understudy.discriminators.gauges import shortcut_warning
from understudy.errors import CheckpointError, ConfigError, UnderstudyError
from understudy.evaluation.metrics import ClipSet, Reference, measure, prepare, to_json
from understudy.evaluation.redraw import in_own_look
from understudy.evaluation.report import write_report
from understudy.files import ensure_folder, write_json_atomic, write_text_atomic
from understudy.mp4 import FragmentedMp4, Frames
from understudy.prompts import prompt_id, read_prompts
from understudy.recipes import dump, load_recipe
from understudy.runlog import RunLog, verdicts
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle, load_bundle, save_bundle
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import public_bundle
from understudy.students.cost import cost_lines
from understudy.students.generate import draw_clips, draw_long_clip, read_given, stream_clip
from understudy.students.lora import has_adapter, merged, save_adapter
from understudy.students.umt5 import UMT5Text
from understudy.teachers.base import ClipParams, JobTeacher, Teacher
from understudy.teachers.build import build, clip_params
from understudy.teachers.world import grammar
from understudy.training.data import TeacherClips, teacher_clips
from understudy.training.loop import Arm, Interrupted, train

__all__ = [
    "ClipParams",
    "Interrupted",
    "build_teacher",
    "collect",
    "describe",
    "evaluate",
    "generate",
    "held_out_prompts",
    "run",
    "stream",
    "training_prompts",
]

_EVALUATION_SEED = 10_000
_Progress = Callable[[CollectReport], None]


def build_teacher(config: RunConfig) -> Teacher | JobTeacher:
    """Return the black box that the recipe names; a world's true states go to a sealed folder beside the store."""
    return build(config.teacher, sealed_folder(config))


def sealed_folder(config: RunConfig) -> Path:
    """Return where the embedded world leaves its true states, outside the store; evaluation alone reads them."""
    return config.clips.store.parent / f"{config.clips.store.name}-sealed"


def _world_scenes(prompts: WorldPromptsConfig) -> tuple[list[grammar.Scene], list[grammar.Scene]]:
    """Split every family's scenes into training and held-out ones by the draw that the recipe names."""
    rng = np.random.default_rng(prompts.split)
    training: list[grammar.Scene] = []
    held_out: list[grammar.Scene] = []
    for family in prompts.families:
        places, materials = prompts.places or (None,), prompts.materials or (None,)
        scenes = list(grammar.scenes((family,), prompts.colours, prompts.sizes, materials=materials, places=places))
        count = max(1, round(prompts.held_out * len(scenes)))
        if count >= len(scenes):
            raise ConfigError(
                f"prompts leave {len(scenes)} scene(s) of {family!r}, too few to hold any out: add colours or sizes"
            )
        held = set(rng.permutation(len(scenes))[:count].tolist())
        training += [scene for i, scene in enumerate(scenes) if i not in held]
        held_out += [scene for i, scene in enumerate(scenes) if i in held]
    return training, held_out


def training_prompts(config: RunConfig) -> list[str]:
    """Return the prompts to collect and train on."""
    if isinstance(config.prompts, WorldPromptsConfig):
        return grammar.prompts(_world_scenes(config.prompts)[0], config.prompts.per_scene, 0)
    return read_prompts(config.prompts.train)


def held_out_prompts(config: RunConfig) -> list[str]:
    """Return the prompts for evaluation; none is among the training prompts.

    Raises:
        ConfigError: a held-out prompt is trained on, or there is none.
    """
    if isinstance(config.prompts, WorldPromptsConfig):
        prompts = grammar.prompts(_world_scenes(config.prompts)[1], 99, 1)
    else:
        prompts = read_prompts(config.prompts.held_out)
        if seen := sorted(set(prompts) & set(read_prompts(config.prompts.train))):
            raise ConfigError(f"held-out prompt {seen[0]!r} is also a training prompt: remove it from one of the files")
    order = np.random.default_rng(2).permutation(len(prompts))
    return [prompts[i] for i in sorted(order[: config.evaluation.prompts])]


def collect(
    config: RunConfig,
    on_progress: _Progress | None = None,
    approve: Callable[[Estimate], None] | None = None,
    held_out: bool = False,
    retry_unsure: bool = False,
    first: Sequence[str] = (),
    keep_refusals: bool = False,
) -> CollectReport:
    """Collect the training clips, or those for evaluation, that are still missing; see `understudy.collection`.

    With ``first``, prompts in an order of their own, further clips of those are asked for in that order, after one clip
    of every prompt that has none: what a budget is spent on first.
    """
    settings = config.evaluation
    prompts = held_out_prompts(config) if held_out else training_prompts(config)
    per_prompt = settings.reference + settings.floor if held_out else config.clips.per_prompt
    jobs = plan_jobs(prompts, per_prompt, config.clips.seed)
    if first:
        place = {prompt: number for number, prompt in enumerate(first)}
        jobs.sort(key=lambda job: place.get(job.prompt, -1))  # stable: first takes before second ones
    return collect_jobs(
        build_teacher(config),
        jobs,
        ClipStore(held_out_store(config) if held_out else config.clips.store, create=True),
        clip_params(config.teacher),
        on_progress,
        policy(config, retry_unsure, keep_refusals),
        config.collection.permission,
        approve,
    )


def held_out_store(config: RunConfig) -> Path:
    """Return where the teacher's clips for evaluation are kept, apart from those that are trained on."""
    return config.clips.store.parent / f"{config.clips.store.name}-held-out"


def policy(config: RunConfig, retry_unsure: bool = False, keep_refusals: bool = False) -> Policy:
    """Return how the recipe wants its teacher to be asked."""
    settings = config.collection
    return Policy(
        concurrency=settings.concurrency or (2 if config.teacher.kind in ("api", "comfyui") else 1),
        per_minute=settings.per_minute,
        poll=settings.poll,
        attempts=settings.attempts,
        timeout=settings.timeout,
        budget=Budget(settings.budget, settings.budget_clips),
        retry_unsure=retry_unsure,
        keep_refusals=keep_refusals,
    )


def collected(
    config: RunConfig, prompts: Sequence[str], per_prompt: int, store_path: Path, form: ClipForm | None = None
) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs for all jobs of ``prompts``, asking the teacher for those not in the store.

    The clips are as they are, or in ``form``.
    """
    teacher, store = build_teacher(config), ClipStore(store_path, create=True)
    jobs = plan_jobs(prompts, per_prompt, config.clips.seed)
    collect_jobs(teacher, jobs, store, clip_params(config.teacher), None, policy(config), config.collection.permission)
    wanted = {(job.prompt, job.seed) for job in jobs}
    records = [r for r in store.records() if r.teacher == teacher.name and (r.prompt, r.seed) in wanted]
    done = sorted((r for r in records if r.status == "done"), key=lambda r: (r.prompt, r.seed))
    return [(r.prompt, store.read(r, form)) for r in done]


@dataclass(frozen=True)
class Evaluator:
    """Held-out prompts, the teacher's clips of them in the student's form, and where results go.

    ``teacher`` holds other clips than ``reference``: a floor measured against itself would flatter the teacher.
    """

    config: RunConfig
    bundle: Bundle
    prompts: tuple[str, ...]
    reference: Reference
    teacher: ClipSet
    folder: Path

    def student(self, name: str, student: StudentModule) -> dict[str, Any]:
        """Measure a student on all held-out prompts, with the same seeds for every arm."""
        return self._measure(name, self.draw(student))

    def draw(self, student: StudentModule) -> ClipSet:
        """Return a student's clips of all held-out prompts."""
        per_prompt = self.config.evaluation.rollouts
        texts = [prompt for prompt in self.prompts for _ in range(per_prompt)]
        clips = draw_clips(
            replace(self.bundle, student=student), texts, [_EVALUATION_SEED + i for i in range(len(texts))]
        )
        groups = tuple(tuple(clips[i : i + per_prompt]) for i in range(0, len(clips), per_prompt))
        return ClipSet(self.prompts, groups)

    def teacher_floor(self) -> dict[str, Any]:
        """Measure the teacher's own clips through the student's codec: what the measuring itself costs."""
        return self._measure("teacher", self.drawn_by_teacher())

    def drawn_by_teacher(self) -> ClipSet:
        """Return teacher clips through the student's codec, none of them in the reference."""
        groups = tuple(tuple(_round_trip(clip, self.bundle) for clip in clips) for clips in self.teacher.clips)
        return ClipSet(self.prompts, groups)

    def _measure(self, name: str, clips: ClipSet) -> dict[str, Any]:
        student = self.bundle.student
        metrics = to_json(
            measure(clips, self.reference, block=student.block_frames * self.bundle.codec.frames_per_latent)
        )
        folder = ensure_folder(self.folder / "clips" / name)
        shown = (
            np.linspace(0, len(self.prompts) - 1, min(self.config.evaluation.shown, len(self.prompts)))
            .round()
            .astype(int)
        )
        for index in shown:
            for i, clip in enumerate(clips.clips[index][:2]):
                write_mp4(folder / f"{prompt_id(self.prompts[index])}-{i}.mp4", clip)
        texts = {prompt_id(self.prompts[index]): self.prompts[index] for index in shown}
        write_json_atomic(self.folder / "clips" / "prompts.json", texts)
        return metrics


def _round_trip(clip: Clip, bundle: Bundle) -> Clip:
    """Return the clip through the student's codec."""
    with torch.no_grad():
        frames = to_tensor(clip.frames)[None].to(bundle.codec.device)
        return Clip(to_frames(bundle.codec.decode(bundle.codec.encode(frames)))[0], clip.fps)


def training_clips(config: RunConfig, form: ClipForm) -> list[tuple[str, Clip]]:
    """Return the (prompt, clip) pairs to train on: collected, then as few and as damaged as the recipe says."""
    whole = None if config.clips.damage != DamageConfig() else form  # damage is done to the clip as it came
    pairs = collected(config, training_prompts(config), config.clips.per_prompt, config.clips.store, whole)
    return damaged(limited(pairs, config.clips.limit, config.seed), config.clips.damage, config.seed)


def collect_held_out(config: RunConfig, form: ClipForm | None = None) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs of the held-out prompts, asking the teacher for those still missing."""
    per_prompt = config.evaluation.reference + config.evaluation.floor
    return collected(config, held_out_prompts(config), per_prompt, held_out_store(config), form)


def evaluator(config: RunConfig, bundle: Bundle) -> Evaluator:
    """Return what measures students of the recipe, asking the teacher for the reference clips still missing."""
    settings, form = config.evaluation, bundle.form
    pairs = collect_held_out(config, form)
    by_prompt: dict[str, list[Clip]] = {}
    for prompt, clip in pairs:
        by_prompt.setdefault(prompt, []).append(clip)
    if not by_prompt:
        raise ConfigError("the teacher delivered no clip of any held-out prompt: nothing can be evaluated")
    prompts = tuple(by_prompt)
    reference = ClipSet(prompts, tuple(tuple(by_prompt[prompt][settings.floor :]) for prompt in prompts))
    floor = ClipSet(prompts, tuple(tuple(by_prompt[prompt][: settings.floor]) for prompt in prompts))
    return Evaluator(config, bundle, prompts, prepare(in_own_look(reference)), floor, config.out)


def load_start(config: RunConfig) -> Bundle:
    """Return the start student with the recipe's levels, window and sink, on its device."""
    codec, text = config.student.codec, config.student.text
    if config.student.dtype != "float32" and not (config.student.lora and config.train.bf16):
        raise ConfigError(
            f"student.dtype {config.student.dtype} is for frozen weights under autocast: set student.lora and train.bf16, "
            "or leave it float32"
        )
    placed = None if codec is None else load_wan_codec(codec.path, codec.dtype, codec.tile)
    if config.student.preset is not None or names_public_checkpoint(config.student.start):
        bundle = public_bundle(config.student, placed)
    elif config.student.size is not None or config.student.frames is not None:
        raise ConfigError(
            "student.size and student.frames are for public checkpoints: a bundle has a clip form of its own"
        )
    else:
        bundle = load_bundle(config.student.start, placed)
    if text is not None:
        bundle.student.use_text(UMT5Text(text.path, text.cache, text.length, text.dtype, config.device))
    if config.student.window is not None or config.student.sink is not None:
        bundle = bundle.with_window(config.student.window, config.student.sink)
    levels = bundle.levels if config.student.levels is None else config.student.levels
    for own in flow.level_lists(levels):
        if not own or own[0] != 1 or any(a <= b for a, b in zip(own, (*own[1:], 0.0), strict=True)):
            raise ConfigError(f"student.levels {list(own)} must fall from 1 and stay above 0")
    bundle.to(config.device)
    return replace(bundle, levels=levels)


def run(config: RunConfig) -> Path:
    """Do the whole run, or what is left of it; return its folder.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; what is done is kept and the same command goes on.
        ConfigError: the folder holds a run of another configuration.
    """
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    out = ensure_folder(config.out)
    _claim(config)
    log = RunLog(out)
    bundle = load_start(config)
    with log.timed("collecting teacher clips", "collect"):
        pairs = training_clips(config, bundle.form)
        measuring = evaluator(config, bundle)
        data = teacher_clips(pairs, bundle.form, bundle.codec)
        log.keep("clips", len(pairs))
    with log.timed("measuring the start student and the teacher", "evaluate"):
        log.once("start", lambda: measuring.student("start", bundle.student))
        log.once("teacher", measuring.teacher_floor)
    main = main_arm(config)
    for name in [*config.compare, main]:
        if name in log.results:
            continue
        with log.timed(f"training {name}", name):
            trained = _train_arm(config, name, data, bundle, log)
        folder = out / "student" if name == main else out / "arms" / name
        student = merged(trained)
        if has_adapter(trained):
            save_adapter(trained, folder / "adapter", config.student.start)
        save_bundle(replace(bundle, student=student, source=f"{name} of {config.name}, seed {config.seed}"), folder)
        student.to(getattr(torch, config.student.dtype))  # what was merged is kept in full, and drawn as it was trained
        with log.timed(f"measuring {name}", "evaluate"):
            log.once(name, lambda name=name, student=student: measuring.student(name, student))  # type: ignore[misc]
    _summarise(config, log)
    write_report(out)
    log.say(f"report: {out / 'report.html'}")
    return out


def keep_freed_memory() -> None:
    """Let glibc keep freed buffers instead of returning them: a tenth of a training step was page faults."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library: nothing is lost but that tenth
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def main_arm(config: RunConfig) -> str:
    """Return the name of the run's own arm in records and reports."""
    kind: str = config.objective.kind
    if isinstance(config.objective, AFDConfig) and config.objective.reward == "random":
        kind = "random"
    return f"{kind}-main" if kind in config.compare else kind


def _train_arm(config: RunConfig, name: str, data: TeacherClips, bundle: Bundle, log: RunLog) -> StudentModule:
    """Train one arm from the start student to its end and return its averaged weights."""
    compared = config.compare.get(name)
    settings = config.objective if compared is None else compared.objective
    lr = config.train.lr if compared is None or compared.lr is None else compared.lr
    objective = build_objective(settings, config.train.model_copy(update={"lr": lr}), config, data, bundle)
    arm = Arm(
        name=name,
        folder=config.out / "checkpoints" / name,
        metrics=log.metrics,
        config_hash=config_hash(config),
        checkpoint_every=config.train.checkpoint_every,
        resume="the same command",
    )
    with log.steps(name) as on_step:
        state, probe = train(objective, bundle.student, arm, on_step)
    if probe:
        log.keep("probe", probe)
        if warning := shortcut_warning(probe):
            log.note(warning)
            log.keep("warnings", [warning])
    for line in verdicts(log.rows(name), config.discriminator.loss == "paired"):
        log.note(f"{name}: {line}")
    return state.policy("ema").eval()


def config_hash(config: RunConfig) -> str:
    """Return a hash of what decides a run's results: everything but where it is written and on how many threads."""
    values = config.model_dump(mode="json", exclude={"out", "threads", "device", "collection"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _claim(config: RunConfig) -> None:
    """Write the resolved config into the run folder, or check that the one there is the same run."""
    path = config.out / "config.yaml"
    if path.is_file() and config_hash(load_recipe(path, ())) != config_hash(config):
        raise ConfigError(
            f"{config.out} holds a run of another configuration: give another --out, or remove the folder"
        )
    write_text_atomic(path, dump(config))


def _summarise(config: RunConfig, log: RunLog) -> None:
    """Write summary.json from what the log kept."""
    main = main_arm(config)
    named = ("start", "teacher", main)
    warmup = config.discriminator.warmup if main == "afd" else 0
    write_json_atomic(
        config.out / "summary.json",
        {
            "name": config.name,
            "objective": main,
            "start": log.results["start"],
            "end": log.results[main],
            "teacher_floor": log.results["teacher"],
            "arms": {name: values for name, values in log.results.items() if name not in named},
            "seconds": {**log.seconds, "total": sum(log.seconds.values())},
            "steps": config.train.steps,
            "warmup_steps": warmup,
            "seed": config.seed,
            "version": __version__,
            "probe": log.kept.get("probe", {}),
            "warnings": log.kept.get("warnings", []),
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {config.device}",
            "teacher": build_teacher(config).name,
            "teacher_clips": log.kept.get("clips", 0),
        },
    )


def evaluate(run_folder: Path) -> dict[str, Any]:
    """Measure a finished run's student again, rewrite summary.json, and return it.

    Raises:
        CheckpointError: the folder holds no finished run.
    """
    if not (run_folder / "config.yaml").is_file() or not (run_folder / "student" / "config.json").is_file():
        raise CheckpointError(f"{run_folder} holds no finished run: run `understudy train` with its recipe first")
    config = load_recipe(run_folder / "config.yaml", ()).model_copy(update={"out": run_folder})
    log = RunLog(run_folder)
    bundle = load_start(config)
    measuring = evaluator(config, bundle)
    main = main_arm(config)
    for name in ("start", *config.compare, main):
        folder = run_folder / "student" if name == main else run_folder / "arms" / name
        student = bundle.student if name == "start" else load_bundle(folder, bundle.codec).student.to(config.device)
        log.results.pop(name, None)
        log.once(name, lambda name=name, student=student: measuring.student(name, student))  # type: ignore[misc]
    log.results.pop("teacher", None)
    log.once("teacher", measuring.teacher_floor)
    _summarise(config, log)
    summary: dict[str, Any] = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def generate(
    bundle: str,
    prompts: Sequence[str],
    out: Path,
    seconds: float | None,
    seed: int,
    per_prompt: int,
    window: int | None,
    sink: int | None,
    threads: int,
    switches: Sequence[tuple[float, str]] = (),
    given: Path | None = None,
) -> list[Path]:
    """Write ``per_prompt`` mp4 files for every prompt into ``out`` and return their paths.

    Raises:
        ConfigError: there is no prompt, or the length needs a window.
    """
    if not prompts:
        raise ConfigError("there are no prompts: give them as arguments or with --prompts FILE")
    student, first = _generator(bundle, window, sink, threads, given)
    length = seconds if seconds is not None else student.form.frames / student.form.fps
    ensure_folder(out)
    paths = []
    for prompt in prompts:
        for take in range(per_prompt):
            clip = draw_long_clip(student, prompt, seed + take, length, switches, first)
            path = out / f"{prompt_id(prompt)}-{seed + take}.mp4"
            write_mp4(path, clip)
            paths.append(path)
    return paths


def stream(
    bundle: str,
    prompt: str,
    seconds: float | None,
    seed: int,
    window: int | None,
    sink: int | None,
    threads: int,
    switches: Sequence[tuple[float, str]] = (),
    given: Path | None = None,
) -> Iterator[bytes]:
    """Yield one clip as fragmented mp4, a piece for every block as it is drawn; ``seconds`` None goes on for ever."""
    student, first = _generator(bundle, window, sink, threads, given)
    blocks = stream_clip(student, prompt, seed, math.inf if seconds is None else seconds, switches, first)
    writer = FragmentedMp4(student.form.height, student.form.width, student.form.fps)
    header = writer.header
    for frames in blocks:  # nothing is written before the first block is there: an error leaves no half video
        yield header + writer.push(frames)
        header = b""


def _generator(
    bundle: str, window: int | None, sink: int | None, threads: int, given: Path | None
) -> tuple[Bundle, Frames | None]:
    """Return the student to generate with and the frames it goes on from."""
    if threads:
        torch.set_num_threads(threads)
    student = load_bundle(bundle).with_window(window, sink)
    return student, None if given is None else read_given(given, student.form)


def describe(config: RunConfig) -> list[str]:
    """Return in plain lines what ``run`` would do; nothing is written, and a public checkpoint need not be there."""
    if config.student.preset is not None:
        return _describe_public(config)
    bundle = load_start(config)
    spec = bundle.student.spec
    training, held_out = training_prompts(config), held_out_prompts(config)
    parameters = sum(p.numel() for p in bundle.student.parameters())
    batch = config.train.prompts * config.objective.group
    tokens = latent_frames(bundle.codec, bundle.form.frames) * bundle.student.frame_tokens
    jobs = len(training) * config.clips.per_prompt
    per_held_out = config.evaluation.reference + config.evaluation.floor
    return [
        f"teacher: {build_teacher(config).name}",
        f"training prompts: {len(training)}, clips wanted: {jobs}, store: {config.clips.store}",
        f"held-out prompts: {len(held_out)}, teacher clips for reference: {len(held_out) * per_held_out}",
        f"student: {config.student.start}, {parameters:,} parameters, blocks of {spec.block_frames} latent frame(s), "
        f"sampler levels {', then '.join(', '.join(f'{t:g}' for t in own) for own in flow.level_lists(bundle.levels))}",
        f"update: {batch} rollouts of {tokens} tokens, {config.train.steps} updates"
        + (f" after {config.discriminator.warmup} discriminator steps" if main_arm(config) == "afd" else ""),
        f"arms: {', '.join([*config.compare, main_arm(config)])}",
        f"run folder: {config.out}",
    ]


def _describe_public(config: RunConfig) -> list[str]:
    """Return what a run from a public checkpoint would cost, and what is still missing for it."""
    lines = cost_lines(config)
    asked: dict[str, Callable[[], object]] = {
        "teacher": lambda: build_teacher(config).name,
        "training prompts": lambda: len(training_prompts(config)),
        "held-out prompts": lambda: len(held_out_prompts(config)),
    }
    for what, ask in asked.items():
        try:
            lines.append(f"{what}: {ask()}")
        except UnderstudyError as error:
            lines.append(f"{what}: not ready ({error})")
    return [*lines, f"arms: {', '.join([*config.compare, main_arm(config)])}", f"run folder: {config.out}"]
