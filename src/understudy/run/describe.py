"""What a run would do, in plain lines, before it does it."""

from collections.abc import Callable
from contextlib import suppress

from understudy import flow
from understudy.codecs.base import latent_frames
from understudy.errors import CheckpointError, UnderstudyError
from understudy.recipes.config import RunConfig
from understudy.run.checks import check as check_run
from understudy.run.clips import build_teacher
from understudy.run.cost import cost_lines
from understudy.run.folder import main_arm
from understudy.run.preflight import OWN_FILES, look, refuse
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.remarks import intake_notes, notes
from understudy.run.start import check_settings, load_start
from understudy.tracking.build import check


def describe(config: RunConfig) -> list[str]:
    """Return in plain lines what ``run`` would do; nothing is written, and a public checkpoint need not be there."""
    check(config.track)
    if config.student.preset is not None:
        return _describe_public(config)
    refuse(config)
    bundle = load_start(config)
    said = check_run(config, bundle)
    spec = bundle.student.spec
    training, held_out = training_prompts(config), held_out_prompts(config)
    parameters = sum(p.numel() for p in bundle.student.parameters())
    batch = config.train.prompts * config.objective.group
    tokens = latent_frames(bundle.codec, bundle.form.frames) * bundle.student.frame_tokens
    warmup = config.objective.warmup(config.discriminator)
    jobs = len(training) * config.clips.per_prompt
    per_held_out = config.evaluation.reference + config.evaluation.floor
    return [
        f"teacher: {build_teacher(config).name}",
        f"training prompts: {len(training)}, clips wanted: {jobs}, store: {config.clips.store}",
        f"held-out prompts: {len(held_out)}, teacher clips for reference: {len(held_out) * per_held_out}",
        f"student: {config.student.start}, {parameters:,} parameters, blocks of {spec.block_frames} latent frame(s), "
        f"sampler levels {', then '.join(', '.join(f'{t:g}' for t in own) for own in flow.level_lists(bundle.levels))}",
        f"update: {batch} rollouts of {tokens} tokens, {config.train.steps} updates"
        + (f" after {warmup} of warm-up" if warmup else ""),
        f"arms: {', '.join([*config.compare, main_arm(config)])}",
        *(f"note: {line}" for line in said),
        f"run folder: {config.out}",
        *(f"note: {line}" for line in notes(config, bundle)),
    ]


def _describe_public(config: RunConfig) -> list[str]:
    """Return what a run from a public checkpoint would cost, and what is still missing for it.

    Raises:
        CheckpointError: something that is there does not fit.
    """
    check_settings(config)
    found = look(config)
    if wrong := [str(item) for item in found if item.ok is False and not item.missing]:
        raise CheckpointError("\n".join(wrong))
    lines = cost_lines(config)
    parts = [item for item in found if item.ok is not True and not item.key.startswith(OWN_FILES)]
    lines += [f"{'not ready' if item.ok is False else 'note'}: {item}" for item in parts]
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
    with suppress(UnderstudyError):  # said above
        lines += [f"note: {line}" for line in intake_notes(config)]
    return [*lines, f"arms: {', '.join([*config.compare, main_arm(config)])}", f"run folder: {config.out}"]
