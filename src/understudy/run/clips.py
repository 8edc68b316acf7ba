"""The teacher's clips of a run: asked for, kept in the store, read back."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from understudy.collection.collect import CollectReport, Estimate, Job, Policy, plan_jobs
from understudy.collection.collect import collect as collect_jobs
from understudy.collection.damage import damaged, limited
from understudy.collection.exchange import unique
from understudy.collection.ledger import Budget
from understudy.collection.store import ClipRecord, ClipStore
from understudy.errors import ClipError, ConfigError, StoreError
from understudy.recipes.config import DamageConfig, RunConfig
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.start import start_form
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.build import build
from understudy.teachers.world.config import WorldTeacherConfig
from understudy.video.clips import Clip, ClipForm, resample
from understudy.video.ingest.survey import (
    Remark,
    common_step,
    consequence,
    objection,
    rhythm,
    shortlist,
    steady_rates,
    survey,
    too_short,
)

_Progress = Callable[[CollectReport], None]
_Say = Callable[[str], None]


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def build_teacher(config: RunConfig) -> Teacher | JobTeacher:
    """Return the black box that the recipe names; a world's true states go to a sealed folder beside the store."""
    return build(config.teacher, sealed_folder(config))


def sealed_folder(config: RunConfig) -> Path:
    """Return where the embedded world leaves its true states, outside the store; evaluation alone reads them."""
    return config.clips.store.parent / f"{config.clips.store.name}-sealed"


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

    Raises:
        ConfigError: what is to be asked for, or has come so far, is too short for the student; nothing was asked then.
    """
    settings = config.evaluation
    prompts = held_out_prompts(config) if held_out else training_prompts(config)
    per_prompt = settings.reference + settings.floor if held_out else config.clips.per_prompt
    teacher = build_teacher(config)
    jobs, notes = wanted_jobs(teacher, prompts, per_prompt, config.clips.seed)
    if first:
        place = {prompt: number for number, prompt in enumerate(first)}
        jobs.sort(key=lambda job: place.get(job.prompt, -1))  # stable: first takes before second ones
    store = open_store(held_out_store(config) if held_out else config.clips.store)
    report = _ask(
        config,
        teacher,
        jobs,
        store,
        start_form(config),
        on_progress,
        approve,
        policy(config, retry_unsure, keep_refusals),
    )
    return replace(report, notes=(*notes, *report.notes))


def _ask(
    config: RunConfig,
    teacher: Teacher | JobTeacher,
    jobs: Sequence[Job],
    store: ClipStore,
    form: ClipForm | None,
    on_progress: _Progress | None = None,
    approve: Callable[[Estimate], None] | None = None,
    how: Policy | None = None,
) -> CollectReport:
    """Ask for the jobs that are missing, unless their clips would be of no use to a student that draws ``form``."""
    how = how or policy(config)
    if form is not None:
        check_asked_length(config, form)
        if hasattr(teacher, "price"):  # it may charge for more of the same
            reasons = [objection(r.received, form) for r in store if r.teacher == teacher.name and r.status == "done"]
            if len(reasons) >= how.failures and all(reasons):
                raise ConfigError(
                    f"none of the {len(reasons)} clips that {teacher.name} has sent can be trained on, the first "
                    f"{reasons[0]}; nothing was asked"
                )
    return collect_jobs(
        teacher,
        jobs,
        store,
        config.teacher.clip_params(),
        on_progress,
        how,
        config.collection.permission,
        approve,
        lambda received: objection(received, form),
    )


def wanted_jobs(
    teacher: Teacher | JobTeacher, prompts: Sequence[str], per_prompt: int, seed: int
) -> tuple[list[Job], list[str]]:
    """Return the jobs for ``prompts``, and in a line each what a teacher of finished clips does not have.

    Of such a teacher no clip is asked for twice: as many jobs as it has clips.

    Raises:
        ConfigError: it has no clip for any of them.
    """
    jobs = plan_jobs(prompts, per_prompt, seed)
    takes = getattr(teacher, "takes", None)
    if takes is None:
        return jobs, []
    count = len(jobs) // per_prompt
    has = {job.prompt: int(takes(job.prompt)) for job in jobs[:count]}
    absent = [repr(prompt) for prompt, clips in has.items() if not clips]
    where = f"folder {getattr(teacher, 'path', teacher.name)}"
    if len(absent) == count:
        raise ConfigError(
            f"{where} has no clip for any of the {count} prompts, such as {absent[0]}; `understudy doctor` with the "
            "folder says what it has"
        )
    kept = [job for number, job in enumerate(jobs) if number // count < has[job.prompt]]
    notes = [f"{where} has no clip for {len(absent)} of {count} prompts: {shortlist(absent)}"] if absent else []
    if len(kept) < len(jobs) - len(absent) * per_prompt:
        fewer = sum(0 < clips < per_prompt for clips in has.values())
        notes.append(f"{fewer} prompts have fewer than {per_prompt} clips in {where}: {len(kept)} clips in all")
    return kept, notes


def check_asked_length(config: RunConfig, form: ClipForm) -> None:
    """Raise `ConfigError` when what the recipe asks for is too short for the student."""
    frames, fps = _asked_length(config)
    if frames and fps and (why := too_short(frames, fps, form)) is not None:
        raise ConfigError(f"teacher.frames: {why}")


def _asked_length(config: RunConfig) -> tuple[int | None, float | None]:
    """Return the frames and the rate that the recipe asks its teacher for; None where it leaves that to the teacher."""
    if isinstance(config.teacher, WorldTeacherConfig):
        return config.teacher.frames, config.teacher.fps
    asked = config.teacher.clip_params()
    return asked.frames, asked.fps


def forewarning(config: RunConfig) -> list[str]:
    """Return what is known to be wrong with the clips that are to be asked for, before anything is asked."""
    form, fps = start_form(config), _asked_length(config)[1]
    if form is None or fps is None or (said := rhythm(fps, form)) is None:
        return []
    return [f"frame rate: {said}; {consequence([fps], form)}"]


def remarks(config: RunConfig, held_out: bool = False) -> list[Remark]:
    """Return what is to be said of the clips that are there; see `understudy.video.ingest.survey`."""
    came = [(_named(r), r.received) for r in _came(config, held_out)]
    return survey(came, start_form(config), config.clips.fit)


def even_step(config: RunConfig, form: ClipForm) -> int:
    """Return every how many frames the training clips move as evenly as the student's; see `common_step`."""
    return common_step(steady_rates(r.received for r in _came(config, False)), form)


def _came(config: RunConfig, held_out: bool) -> list[ClipRecord]:
    """Return the records of the teacher's clips that are there."""
    path = held_out_store(config) if held_out else config.clips.store
    if not (path / "records.jsonl").is_file():
        return []
    teacher = build_teacher(config).name
    return [record for record in ClipStore(path) if record.status == "done" and record.teacher == teacher]


def _named(record: ClipRecord) -> str:
    """Return what to call a clip: its file, or else its prompt."""
    return str(record.provenance.get("file") or repr(record.prompt))


def open_store(path: Path) -> ClipStore:
    """Return the store to collect into, made when missing; one that cannot be written may still have every clip."""
    try:
        return ClipStore(path, create=True)
    except StoreError:
        if not (path / "records.jsonl").is_file():
            raise
        return ClipStore(path)


def held_out_store(config: RunConfig) -> Path:
    """Return where the teacher's clips for evaluation are kept, apart from those that are trained on."""
    return config.clips.store.parent / f"{config.clips.store.name}-held-out"


def policy(config: RunConfig, retry_unsure: bool = False, keep_refusals: bool = False) -> Policy:
    """Return how the recipe wants its teacher to be asked."""
    settings = config.collection
    return Policy(
        concurrency=settings.concurrency or config.teacher.jobs_at_once,
        per_minute=settings.per_minute,
        poll=settings.poll,
        attempts=settings.attempts,
        timeout=settings.timeout,
        budget=Budget(settings.budget, settings.budget_clips),
        retry_unsure=retry_unsure,
        keep_refusals=keep_refusals,
    )


def collected(
    config: RunConfig,
    prompts: Sequence[str],
    per_prompt: int,
    store_path: Path,
    form: ClipForm | None = None,
    say: _Say = _to_stderr,
) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs for all jobs of ``prompts``, asking the teacher for those not in the store.

    The clips are as they are, or in ``form``. What cannot be read, or is of no use to a student that draws ``form``, is
    left out; ``say`` is told how many and which. A file that came for two jobs of a prompt is one clip.
    """
    teacher, store = build_teacher(config), open_store(store_path)
    jobs, notes = wanted_jobs(teacher, prompts, per_prompt, config.clips.seed)
    needed = form or start_form(config)
    report = _ask(config, teacher, jobs, store, needed)
    if report.unusable:
        notes.append(f"skipped {report.unusable} of {report.total}: {shortlist(report.notes, '; ')}")
    wanted = {(job.prompt, job.seed) for job in jobs}
    records = [r for r in store.records() if r.teacher == teacher.name and (r.prompt, r.seed) in wanted]
    done = unique(sorted((r for r in records if r.status == "done"), key=lambda r: (r.prompt, r.seed)))
    pairs, useless = [], []
    for record in done:
        if why := objection(record.received, needed):
            useless.append(f"{_named(record)} {why} (prompt {record.prompt!r})")
        else:
            pairs.append((record.prompt, store.read(record, form, config.clips.fit)))
    if useless:
        notes.append(f"left out {len(useless)} of {len(done)} clips: {shortlist(useless, '; ')}")
    for line in notes:
        say(line)
    if useless and not pairs:
        raise ClipError(f"none of the {len(done)} clips can be used, the first because: {useless[0]}")
    return pairs


def training_clips(config: RunConfig, form: ClipForm, say: _Say = _to_stderr) -> list[tuple[str, Clip]]:
    """Return the (prompt, clip) pairs to train on: collected, then as few and as damaged as the recipe says."""
    whole = None if config.clips.damage != DamageConfig() else form  # damage is done to the clip as it came
    pairs = collected(config, training_prompts(config), config.clips.per_prompt, config.clips.store, whole, say)
    pairs = damaged(limited(pairs, config.clips.limit, config.seed), config.clips.damage, config.seed)
    if whole is not None:
        return pairs
    size = form.height, form.width
    return [(prompt, resample(clip, form.fps, form.frames, size, config.clips.fit)) for prompt, clip in pairs]


def collect_held_out(config: RunConfig, form: ClipForm | None = None) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs of the held-out prompts, asking the teacher for those still missing."""
    per_prompt = config.evaluation.reference + config.evaluation.floor
    return collected(config, held_out_prompts(config), per_prompt, held_out_store(config), form)
