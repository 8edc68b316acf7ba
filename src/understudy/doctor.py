"""What could go wrong, looked for before it does: in the machine, a recipe, a clip store, a student or a run folder."""

import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from understudy.advice import advise, look_at
from understudy.collection.store import ClipRecord, ClipStore, record_key
from understudy.discriminators.clip_cnn.config import DiscriminatorConfig
from understudy.errors import PromptRejected, UnderstudyError
from understudy.flow import level_lists
from understudy.objectives.gauges import ADVICE, name_regime
from understudy.objectives.reference import departures, load_reference
from understudy.reading import JSON_BYTES, line_object, read_json, read_limited
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.recipes.shipped import locate
from understudy.run.checks import problems
from understudy.run.clips import build_teacher, check_asked_length, forewarning, wanted_jobs
from understudy.run.folder import config_hash, main_arm
from understudy.run.log import RunLog
from understudy.run.preflight import OWN_FILES, look
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.remarks import cut_notes, intake_notes
from understudy.run.start import load_start
from understudy.students.bundle import BUILTIN, Bundle, ClipForm, load_bundle
from understudy.students.generate import own_and_hasty
from understudy.teachers.base import ClipParams, JobTeacher, Teacher
from understudy.teachers.folder.check import check_folder, holds_clips
from understudy.teachers.folder.config import FolderTeacherConfig
from understudy.teachers.folder.teacher import FolderTeacher
from understudy.teachers.world import grammar
from understudy.teachers.world.teacher import WorldTeacher
from understudy.training.checkpoint import checkpoints, verify_checkpoint
from understudy.video.clips import Clip, Fit, decode_mp4, encode_mp4, is_long_enough
from understudy.video.ingest.guard import probe
from understudy.video.ingest.survey import Remark, objection, played, survey
from understudy.video.ingest.tars import VIDEO_SUFFIXES

_PACKAGES: Final = (
    "av", "matplotlib", "numpy", "pillow", "pydantic", "pymunk", "pyyaml", "rich", "safetensors", "tyro",
)  # fmt: skip
_GIB: Final = 2**30
_LOOKED_AT: Final = 64  # clips, for advice on the method
_SHOWN: Final = 3  # of many problems of one sort


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        ok: True: fine; None: a warning; False: this will fail.
        what: what was looked at.
        advice: what was found, and what to do about it.
    """

    ok: bool | None
    what: str
    advice: str

    def __str__(self) -> str:
        """Return ``ok``, ``warn`` or ``fail`` with the rest, on one line."""
        word = {True: "ok", None: "warn", False: "fail"}[self.ok]
        return f"{word:<5} {self.what}: {' '.join(self.advice.split())}"


Findings = Iterator[Finding]


def diagnose(target: str | None) -> list[Finding]:
    """Look at ``target`` (a recipe, store, student, checkpoint or run; None: this machine) and say what is there.

    Nothing is raised for what is wrong with the target, and nothing is written but a temporary file.
    """
    if target is None:
        return _guarded("environment", _environment())
    if target.startswith(BUILTIN):
        return _guarded(target, _student(target))
    path = Path(target)
    if not path.exists() or (path / "recipe.yaml").is_file():
        with suppress(UnderstudyError):
            path = locate(path)
    if not path.exists():
        return [Finding(False, target, "does not exist; give a recipe, clip store, bundle, checkpoint or run folder")]
    if path.is_file():
        look = _clip_file if path.suffix.lower() in VIDEO_SUFFIXES else _recipe
        return _guarded(target, look(path))
    kinds: tuple[tuple[str, Callable[[Path], Findings]], ...] = (
        ("records.jsonl", _store),
        ("state.json", _checkpoint),
        ("config.yaml", _run),
        ("config.json", lambda folder: _student(str(folder))),
    )
    for name, check in kinds:
        if (path / name).exists():
            return _guarded(target, check(path))
    if checkpoints(path):
        return _guarded(target, _arm(path, None))
    if holds_clips(path):
        return _guarded(target, _remarked(check_folder(path)))
    names = ", ".join(name for name, _ in kinds)
    said = f"is no clip store, checkpoint, run or bundle (none of {names} is in it), nor does it hold clips"
    return [Finding(False, target, said)]


def missing_clips(config: RunConfig) -> tuple[int, int]:
    """Return how many training clips are neither in the store nor refused, and how many are wanted."""
    keys = _wanted(config)
    return len(keys - {record.key for record in _records(config)}), len(keys)


def _wanted(config: RunConfig) -> set[str]:
    """Return the keys of the training clips, as a collection asks for them."""
    teacher = build_teacher(config)
    jobs, _ = wanted_jobs(teacher, training_prompts(config), config.clips.per_prompt, config.clips.seed)
    asked = asdict(config.teacher.clip_params())
    return {record_key(teacher.name, job.prompt, asked, job.seed) for job in jobs}


def _records(config: RunConfig) -> list[ClipRecord]:
    """Return the records of the recipe's store, none when there is no store yet."""
    if not (config.clips.store / "records.jsonl").is_file():
        return []
    return ClipStore(config.clips.store).records()


def _guarded(what: str, findings: Findings) -> list[Finding]:
    """Return ``findings``; what the looking itself raises is a finding too."""
    found: list[Finding] = []
    try:
        found.extend(findings)  # keeps what came before an error
    except UnderstudyError as error:
        found += [Finding(False, what, line) for line in str(error).splitlines() or ["failed"]]
    except Exception as error:  # a diagnosis has to go on whatever it meets
        found.append(Finding(False, what, f"cannot be used ({type(error).__name__}: {error})"))
    return found


# --- the machine ------------------------------------------------------------------------------------------------


def _environment() -> Findings:
    yield Finding(sys.version_info >= (3, 11), "python", f"{platform.python_version()}; 3.11 or newer is needed")
    yield _torch()
    for name in _PACKAGES:
        try:
            yield Finding(True, name, version(name))
        except PackageNotFoundError:
            yield Finding(False, name, f"is not installed; run: pip install {name}")
    yield from _guarded("threads", iter([_threads()]))
    yield from _guarded("mp4 encoder", _encoder())
    yield from _guarded("physics", _physics())
    yield from _folder(Path(), "working folder")


def _torch() -> Finding:
    devices = f"{torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "no GPU, which is fine"
    return Finding(True, "torch", f"{torch.__version__}, {devices}")


def _threads() -> Finding:
    cores, threads = _cores(), torch.get_num_threads()
    if threads > cores:
        return Finding(None, "threads", f"torch would use {threads} on {cores} cores; set OMP_NUM_THREADS={cores}")
    return Finding(True, "threads", f"torch would use {threads} by itself, {cores} cores are free to use")


def _cores() -> int:
    """Return the cores this process may use: by affinity, and by the quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such system, or no quota ("max")
        return cores


def _encoder() -> Findings:
    frames = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    decoded = decode_mp4(encode_mp4(Clip(frames, 8.0)))
    yield Finding(decoded.length == 2, "mp4 encoder", "libx264 writes and PyAV reads")


def _physics() -> Findings:
    teacher = WorldTeacher(size=16, frames=2)
    scene = next(grammar.scenes(grammar.FAMILIES, grammar.COLOURS))
    clip, _ = teacher.draw(grammar.paraphrases(scene)[0], 0, ClipParams())
    yield Finding(clip.length == 2, "physics", "pymunk moves and the embedded world draws")


def _folder(path: Path, what: str) -> Findings:
    """Say whether ``path``, or the folder it would be made in, can be written and has space."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        yield Finding(False, what, f"{path} cannot be made: {place} is a file")
        return
    try:
        with tempfile.TemporaryFile(dir=place) as file:  # asking for permission says nothing about a read-only disk
            file.write(b"x")
    except OSError as error:
        yield Finding(False, what, f"{place} cannot be written: {(error.strerror or str(error)).lower()}")
        return
    free = shutil.disk_usage(place).free / _GIB
    ok = True if free >= 2 else None if free >= 0.2 else False
    yield Finding(ok, what, f"{path} can be written, {free:.1f} GiB free" + ("" if ok else "; free some space"))


# --- a recipe ---------------------------------------------------------------------------------------------------


def _recipe(path: Path) -> Findings:
    config = load_recipe(path)
    yield Finding(True, "recipe", f"{path} is valid: {config.name}")
    teacher: list[Teacher | JobTeacher] = []
    yield from _guarded("teacher", _teacher(config, teacher))
    yield from _guarded("prompts", _prompts(config, teacher[0] if teacher else None))
    bundle: list[Bundle] = []
    looks = look(config)
    for item in looks:
        if item.key.startswith(OWN_FILES):
            continue  # looked at above
        yield Finding(item.ok, item.key, item.said)
    if all(item.ok is not False for item in looks):
        yield from _guarded("start student", _start(config, bundle))
    form = bundle[0].form if bundle else None
    yield from _guarded("clip store", _recipe_store(config, form))
    if bundle:
        yield from _guarded("method", _method(config, bundle[0]))
    yield from _folder(config.out, "run folder")
    yield from _folder(config.clips.store, "store folder")
    for ok, what, advice in [*_device_hints(config), *_hints(config), *(_fit(config, bundle[0]) if bundle else ())]:
        yield Finding(ok, what, advice)


def _teacher(config: RunConfig, found: list[Teacher | JobTeacher]) -> Findings:
    found.append(build_teacher(config))
    yield Finding(True, "teacher", f"{found[0].name}; terms: {found[0].terms}")
    if isinstance(found[0], FolderTeacher):
        yield Finding(True, "clip folder", f"{len(found[0].prompts())} prompts from {found[0].source}")
    for note in intake_notes(config):
        yield Finding(None, "note", note)


def _prompts(config: RunConfig, teacher: Teacher | JobTeacher | None) -> Findings:
    training, held_out = training_prompts(config), held_out_prompts(config)
    for what, prompts in (("training prompts", training), ("held-out prompts", held_out)):
        refused = [reason for prompt in prompts if (reason := _refusal(teacher, prompt))]
        for reason in refused[:_SHOWN]:
            yield Finding(None, what, reason)
        if refused:
            ok = False if len(refused) == len(prompts) else None
            yield Finding(ok, what, f"the teacher refuses {len(refused)} of {len(prompts)}; change or remove them")
        else:
            yield Finding(True, what, f"{len(prompts)}, none of them refused")
    if len(training) < config.train.prompts:
        yield Finding(None, "train.prompts", f"{config.train.prompts} per update, but only {len(training)} to train on")
    if len(held_out) < config.evaluation.prompts:
        yield Finding(None, "evaluation.prompts", f"{config.evaluation.prompts}, but only {len(held_out)} are held out")


def _refusal(teacher: Teacher | JobTeacher | None, prompt: str) -> str | None:
    """Say why ``teacher`` refuses ``prompt``, as far as that can be told without asking for a clip."""
    if isinstance(teacher, WorldTeacher):
        try:
            grammar.parse(prompt)
        except PromptRejected as error:
            return str(error)
    if isinstance(teacher, FolderTeacher) and prompt not in teacher.prompts():
        return f"folder {teacher.path} has no clip for prompt {prompt!r}"
    return None


def _recipe_store(config: RunConfig, form: ClipForm | None) -> Findings:
    missing, wanted = missing_clips(config)
    where = config.clips.store
    if missing:
        advice = f"{missing} of {wanted} clips are still to be collected into {where}: `understudy collect` or `train`"
        yield Finding(None, "clip store", advice)
    else:
        yield Finding(True, "clip store", f"all {wanted} clips are settled in {where}")
    keys = _wanted(config)
    records = [record for record in _records(config) if record.key in keys]
    if missing:
        yield from _guarded("teacher", _asked(config, form))
    yield from _surveyed(records, form, config.clips.fit)


def _asked(config: RunConfig, form: ClipForm | None) -> Findings:
    """Say of the clips that are still to come whether they will be of use, before anything is asked of anybody."""
    if isinstance(config.teacher, FolderTeacherConfig):
        yield from _remarked(check_folder(config.teacher.path, form, config.clips.fit, config.teacher.listing))
    elif form is not None:
        for line in forewarning(config):
            yield Finding(None, "frame rate", line)
        check_asked_length(config, form)


def _start(config: RunConfig, bundle: list[Bundle]) -> Findings:
    """Load the start student into ``bundle``, which outlives a later finding's error."""
    bundle.append(load_start(config))
    yield from _describe(bundle[0])
    encoder = bundle[0].student.text_encoder
    for note in cut_notes(encoder, training_prompts(config), held_out_prompts(config)):
        yield Finding(None, "prompts", note)


def _method(config: RunConfig, bundle: Bundle) -> Findings:
    """Say which method suits the student and the clips that are there."""
    keys, form = _wanted(config), bundle.form
    records = [r for r in _records(config) if r.key in keys and r.status == "done" and not objection(r.received, form)]
    if not records:
        return
    store = ClipStore(config.clips.store)
    clips: dict[str, list[np.ndarray]] = {}
    for record in sorted(records, key=lambda r: r.prompt)[:_LOOKED_AT]:
        clips.setdefault(record.prompt, []).append(store.read(record, form, config.clips.fit).frames)
    prompts = list(clips)[:16]
    own, hasty = own_and_hasty(bundle, prompts, list(range(len(prompts))))
    steps = max(len(levels) for levels in level_lists(bundle.levels))
    for line in advise(look_at(clips, own, hasty, steps, len(records), bundle.student.block_frames)):
        yield Finding(True, "method", line)


Hint = tuple[bool | None, str, str]


def _device_hints(config: RunConfig) -> Iterable[Hint]:
    try:
        kind = torch.device(config.device).type
    except RuntimeError:
        yield False, "device", f"{config.device!r} is no device of torch; use cpu or cuda"
        return
    if kind == "cuda" and not torch.cuda.is_available():
        yield False, "device", f"{config.device}, but torch sees no GPU; use --device cpu"
    if kind == "cpu" and config.train.bf16:
        yield None, "train.bf16", "is slow and coarse on a CPU; it is meant for GPUs"
    if config.threads > _cores():
        yield None, "threads", f"{config.threads} on {_cores()} cores; more threads than cores can be ten times slower"


def _hints(config: RunConfig) -> Iterable[Hint]:
    """Yield what is allowed but rarely meant."""
    train, judge, objective = config.train, config.discriminator, config.objective
    if train.warmup >= train.steps:
        yield None, "train.warmup", f"{train.warmup} of {train.steps} updates: the learning rate never gets to train.lr"
    yield from objective.hints(judge)


def _fit(config: RunConfig, bundle: Bundle) -> Iterable[Hint]:
    """Yield what does not fit between the recipe and its start student."""
    spec, form, judge = bundle.student.spec, bundle.form, config.discriminator
    if spec.window and spec.window < spec.sink + 2 * spec.block_frames:
        yield (
            None,
            "student.window",
            f"{spec.window} latent frames hold the sink ({spec.sink}) and one block ({spec.block_frames}): a block "
            "does not see the one before it",
        )
    for key, problem in problems(config, bundle):
        yield False, key, problem
    if not isinstance(judge, DiscriminatorConfig):
        return
    if judge.size > min(form.height, form.width):
        yield None, "discriminator.size", f"{judge.size} is above the student's {form.height}x{form.width} pixels"


# --- clips ------------------------------------------------------------------------------------------------------


def _clip_file(path: Path) -> Findings:
    facts = probe(path)
    yield Finding(True, "clip", f"{facts.frames} frames of {facts.width}x{facts.height} at {facts.fps:g} fps")
    yield from _remarked(survey([(path.name, facts.to_json())], None))


def _remarked(remarks: Iterable[Remark]) -> Findings:
    """Yield what is said of clips as findings."""
    for remark in remarks:
        yield Finding(remark.ok, remark.what, remark.text)


def _surveyed(records: Iterable[ClipRecord], form: ClipForm | None, fit: Fit = "crop") -> Findings:
    """Say what the clips of these records have in common and what a discriminator could win by."""
    yield from _lengths(records, form)
    named = [(str(r.provenance.get("file") or repr(r.prompt)), r.received) for r in records if r.status == "done"]
    yield from _remarked(survey(named, form, fit))


def _store(path: Path) -> Findings:
    store = ClipStore(path)
    records = store.records()
    done = [record for record in records if record.status == "done"]
    prompts, teachers = {record.prompt for record in done}, sorted({record.teacher for record in records})
    yield Finding(
        True if done else None,
        "clip store",
        f"{len(done)} clips of {len(prompts)} prompts by {', '.join(teachers) or 'nobody'}",
    )
    refused = [record for record in records if record.status != "done"]
    if refused:
        yield Finding(None, "refused", f"{len(refused)} requests, the first because: {refused[0].reason}")
    problems = store.verify()
    for problem in problems[:_SHOWN]:
        yield Finding(None if "safe to delete" in problem else False, "clip", problem)
    if len(problems) > _SHOWN:
        yield Finding(None, "clips", f"{len(problems) - _SHOWN} more problems like these")
    if not problems:
        yield Finding(True, "clips", f"all {len({record.clip for record in done})} files are whole and unchanged")
    yield from _surveyed(done, None)
    yield from _folder(path, "store folder")


def _lengths(records: Iterable[ClipRecord], form: ClipForm | None) -> Findings:
    """Say how long the clips are, and which are too short for a student that draws ``form``."""
    known = [(played(record.received), record) for record in records if record.status == "done"]
    lengths = [(span, record) for span, record in known if span is not None]
    if not lengths:
        return
    span, shortest = min(lengths, key=lambda pair: pair[0])
    clips = f"the shortest has {shortest.received['frames']} frames at {shortest.received['fps']} fps ({span:.2f} s)"
    if form is None:
        yield Finding(True, "clip length", clips)
        return
    needed = form.frames / form.fps
    short = [record for seconds, record in lengths if not is_long_enough(seconds, form.fps, form.frames)]
    if short:
        advice = (
            f"{len(short)} clips are shorter than the student's {needed:.2f} s, one of {short[0].prompt!r}; {clips}"
        )
        yield Finding(False, "clip length", f"{advice}; ask the teacher for longer ones")
    else:
        yield Finding(True, "clip length", f"{clips}, the student draws {needed:.2f} s")


# --- students and runs ------------------------------------------------------------------------------------------


def _student(name: str) -> Findings:
    yield from _describe(load_bundle(name))


def _describe(bundle: Bundle) -> Findings:
    spec, form = bundle.student.spec, bundle.form
    count = sum(parameter.numel() for parameter in bundle.student.parameters())
    window = f"window {spec.window}, sink {spec.sink}" if spec.window else "no window"
    yield Finding(
        True,
        "student",
        f"{bundle.source}: {count:,} finite weights, {spec.block_frames} latent frame(s) a block, {window}, draws "
        f"{form.frames} frames of {form.width}x{form.height} at {form.fps:g} fps",
    )


def _checkpoint(folder: Path) -> Findings:
    problems = verify_checkpoint(folder)
    for problem in problems:
        yield Finding(False, "checkpoint", problem)
    if not problems:
        yield Finding(True, "checkpoint", f"step {_head(folder).get('step')}, whole, all values finite")


def _head(folder: Path) -> dict[str, Any]:
    head = read_json(folder / "state.json")
    return head if isinstance(head, dict) else {}


def _run(folder: Path) -> Findings:
    config: RunConfig | None = None
    try:
        config = load_recipe(folder / "config.yaml")
        yield Finding(True, "config", f"{config.name}, seed {config.seed}")
    except UnderstudyError as error:
        yield from (Finding(False, "config", line) for line in str(error).splitlines())
    wanted = config_hash(config) if config else None
    arms = sorted(path for path in folder.glob("checkpoints/*") if path.is_dir())
    for arm in arms:
        yield from _guarded(f"arm {arm.name}", _arm(arm, wanted))
    students = [folder / "student", *sorted(folder.glob("arms/*"))]
    for student in students:
        if student.is_dir():
            yield from _guarded(f"student {student.name}", _student(str(student)))
    if not (folder / "student").is_dir():
        yield Finding(None, "student", "there is none yet; run `understudy train` with the same recipe to go on")
    yield from _guarded("metrics", _metrics(folder / "metrics.jsonl"))
    if config is not None:
        yield from _guarded("gauges", _gauges(folder, config))
    for name in ("progress.json", "summary.json"):
        if (folder / name).exists():
            yield from _guarded(name, _json(folder / name))
    finished = (folder / "summary.json").is_file()
    yield Finding(True if finished else None, "run", "finished" if finished else "not finished yet")
    yield from _folder(folder, "run folder")


def _arm(folder: Path, config_hash: str | None) -> Findings:
    """Look at the checkpoints of one arm; only the newest whole one is needed to go on."""
    found, what = checkpoints(folder), f"arm {folder.name}"
    problems = {path: verify_checkpoint(path) for path in found}
    whole = [path for path in found if not problems[path]]
    for path in found:
        for problem in problems[path]:
            yield Finding(
                None if whole else False, what, f"{problem}; {'an older one is whole' if whole else 'none is whole'}"
            )
    if not found:
        yield Finding(None, what, "no checkpoint; training starts at the beginning")
    if not whole:
        return
    head = _head(whole[-1])
    if config_hash is not None and head.get("config") != config_hash:
        yield Finding(False, what, f"{whole[-1].name} belongs to another configuration than config.yaml: move it away")
    else:
        yield Finding(True, what, f"step {head.get('step')} is whole, all values finite")


def _metrics(path: Path) -> Findings:
    if not path.is_file():
        yield Finding(None, "metrics", "no metrics.jsonl yet")
        return
    data = read_limited(path, 1 << 30)
    lines = data.split(b"\n")
    torn = lines.pop()  # empty when the last line has its end
    bad = [number for number, line in enumerate(lines, start=1) if not _is_object(line)]
    if bad:
        yield Finding(
            None, "metrics", f"line {bad[0]} of {path.name} is no JSON object ({len(bad)} such lines); remove it"
        )
    if torn and not _is_object(torn):
        yield Finding(None, "metrics", "the last line is cut short: its writer was stopped; going on repairs it")
    if b"NaN" in data or b"Infinity" in data:
        yield Finding(None, "metrics", "some values are not finite: the run diverged; lower train.lr")
    yield Finding(True, "metrics", f"{len(lines) - len(bad)} lines")


def _has_reference(config: RunConfig) -> bool:
    """Return whether the curves of healthy runs that ship say anything about this run."""
    afd = config.objective.arm == "afd"
    small = config.discriminator.kind == "clip_cnn" and config.student.start == "builtin:frame"
    return afd and small and config.train.steps == RunConfig().train.steps  # the rate's decay depends on them


def _gauges(folder: Path, config: RunConfig) -> Findings:
    """Name the regime of a run's discriminator; hold its gauges against healthy runs' if it is of the quickstart's kind."""
    rows = RunLog(folder).rows(main_arm(config))
    regime, why = name_regime(rows, paired=config.discriminator.loss == "paired")
    if regime == "informative":
        yield Finding(True, "regime", f"{regime}, {why}")
    elif regime != "unknown":
        yield Finding(None, "regime", f"{regime}, {why}: {ADVICE[regime]}; see docs/tuning.md")
    if not _has_reference(config):
        return
    found = departures(rows, load_reference())
    for line in found:
        yield Finding(None, "gauges", f"{line}; see docs/tuning.md")
    if rows and not found:
        yield Finding(True, "gauges", "all curves are like those of healthy runs")


def _is_object(line: bytes) -> bool:
    return line_object(line) is not None


def _json(path: Path) -> Findings:
    if _is_object(read_limited(path, JSON_BYTES)):
        yield Finding(True, path.name, "whole")
    else:
        yield Finding(False, path.name, "is damaged; remove it and run the same command again")
