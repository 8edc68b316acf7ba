"""The teacher's clips of a run: asked for, kept in the store, read back."""

from collections.abc import Callable, Sequence
from pathlib import Path

from understudy.clips import Clip, ClipForm
from understudy.collection.collect import CollectReport, Estimate, Policy, plan_jobs
from understudy.collection.collect import collect as collect_jobs
from understudy.collection.damage import damaged, limited
from understudy.collection.ledger import Budget
from understudy.collection.store import ClipStore
from understudy.errors import StoreError
from understudy.recipes.config import DamageConfig, RunConfig
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.build import build

_Progress = Callable[[CollectReport], None]


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
        open_store(held_out_store(config) if held_out else config.clips.store),
        config.teacher.clip_params(),
        on_progress,
        policy(config, retry_unsure, keep_refusals),
        config.collection.permission,
        approve,
    )


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
    config: RunConfig, prompts: Sequence[str], per_prompt: int, store_path: Path, form: ClipForm | None = None
) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs for all jobs of ``prompts``, asking the teacher for those not in the store.

    The clips are as they are, or in ``form``.
    """
    teacher, store = build_teacher(config), open_store(store_path)
    jobs = plan_jobs(prompts, per_prompt, config.clips.seed)
    collect_jobs(teacher, jobs, store, config.teacher.clip_params(), None, policy(config), config.collection.permission)
    wanted = {(job.prompt, job.seed) for job in jobs}
    records = [r for r in store.records() if r.teacher == teacher.name and (r.prompt, r.seed) in wanted]
    done = sorted((r for r in records if r.status == "done"), key=lambda r: (r.prompt, r.seed))
    return [(r.prompt, store.read(r, form)) for r in done]


def training_clips(config: RunConfig, form: ClipForm) -> list[tuple[str, Clip]]:
    """Return the (prompt, clip) pairs to train on: collected, then as few and as damaged as the recipe says."""
    whole = None if config.clips.damage != DamageConfig() else form  # damage is done to the clip as it came
    pairs = collected(config, training_prompts(config), config.clips.per_prompt, config.clips.store, whole)
    return damaged(limited(pairs, config.clips.limit, config.seed), config.clips.damage, config.seed)


def collect_held_out(config: RunConfig, form: ClipForm | None = None) -> list[tuple[str, Clip]]:
    """Return (prompt, clip) pairs of the held-out prompts, asking the teacher for those still missing."""
    per_prompt = config.evaluation.reference + config.evaluation.floor
    return collected(config, held_out_prompts(config), per_prompt, held_out_store(config), form)
