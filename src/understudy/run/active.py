"""Where a finished run's student is furthest from the teacher, in the eyes of the run's discriminator.

Shape legend: N clips, F latent frames, C channels, h/w latents.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from understudy.collection.store import ClipStore
from understudy.discriminators.base import Discriminator
from understudy.discriminators.build import build_discriminator
from understudy.discriminators.config import JudgeConfig
from understudy.errors import CheckpointError, ConfigError
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.run.clips import build_teacher, even_step
from understudy.run.folder import main_arm
from understudy.run.margins import furthest_first, margins
from understudy.run.prompts import training_prompts
from understudy.run.start import load_start
from understudy.students.base import StudentModule
from understudy.students.bundle import Bundle, load_bundle, load_weights, read_tensors
from understudy.students.rollout import SeededNoise, clips_at_once, roll_clip
from understudy.training.canonical import levels_below, rerender
from understudy.training.checkpoint import checkpoints, verify_checkpoint
from understudy.training.data import teacher_clips
from understudy.video.clips import Clip

_WEIGHTS = "module.discriminator."


def ranked_prompts(config: RunConfig, run: Path, rollouts: int = 4) -> list[str]:
    """Return the prompts of ``config`` whose clips are in its store, those with the largest margin first.

    Args:
        config: the collection's recipe.
        run: folder of a finished run with a discriminator; its student is judged.
        rollouts: of the student, for each prompt.

    Raises:
        CheckpointError: the run is not finished, or its checkpoint is gone or damaged.
        ConfigError: it had no discriminator, or the store has no clip yet.
    """
    if not (run / "config.yaml").is_file() or not (run / "student" / "config.json").is_file():
        raise CheckpointError(f"{run} holds no finished run: run `understudy train` with its recipe first")
    judged = load_recipe(run / "config.yaml", ())
    start = load_start(judged)
    network = load_discriminator(judged, run, start)
    store, teacher = ClipStore(config.clips.store), build_teacher(config)
    wanted = set(training_prompts(config))
    pairs = [
        (r.prompt, store.read(r, start.form))
        for r in store
        if r.teacher == teacher.name and r.prompt in wanted and r.clip
    ]
    if not pairs:
        raise ConfigError(f"{config.clips.store} has no clip of these prompts yet: collect one of each before --active")
    student = load_bundle(run / "student", start.codec).student.to(judged.device)
    return furthest_first(prompt_margins(start, student, network, judged.discriminator, pairs, rollouts, judged.seed))


def load_discriminator(config: RunConfig, run: Path, start: Bundle) -> Discriminator:
    """Return the discriminator of the finished run in folder ``run``, as its newest checkpoint has it.

    Raises:
        CheckpointError: there is no whole checkpoint.
        ConfigError: the run's objective has no discriminator.
    """
    folder = run / "checkpoints" / main_arm(config)
    found = checkpoints(folder)
    if not found or (problems := verify_checkpoint(found[-1])):
        raise CheckpointError(f"{folder} has no whole checkpoint{f' ({problems[0]})' if found else ''}; train again")
    path = found[-1] / "state.safetensors"
    tensors = {key.removeprefix(_WEIGHTS): t for key, t in read_tensors(path).items() if key.startswith(_WEIGHTS)}
    if not tensors:
        raise ConfigError(f"{run} was trained by {config.objective.kind}, which has no discriminator: give another run")
    step = even_step(config, start.form)
    network = build_discriminator(config.discriminator, start.form.fps, start.student.vocabulary, step)
    load_weights(network, tensors, path)
    return network.to(config.device).eval()


@torch.no_grad()
def prompt_margins(
    start: Bundle,
    student: StudentModule,
    network: Discriminator,
    judge: JudgeConfig,
    pairs: Sequence[tuple[str, Clip]],
    rollouts: int,
    seed: int,
) -> dict[str, float]:
    """Return how much better ``network`` finds the teacher's clips than ``rollouts`` of ``student``, prompt by prompt.

    Both sides are brought to the form that the discriminator was trained on, drawn again by the start student included.
    """
    data = teacher_clips(pairs, start.form, start.codec)
    texts = [prompt for prompt in data.prompts for _ in range(rollouts)]
    frames, parts = data.latents.shape[1], []
    size = clips_at_once(student, frames)
    for low in range(0, len(texts), size):
        some = texts[low : low + size]
        noise = SeededNoise([seed + low + i for i in range(len(some))])
        parts.append(roll_clip(student, student.encode_text(some), len(some), start.levels, noise, frames))

    def scores(latents: Tensor, prompts: list[str], again: bool) -> dict[str, list[float]]:
        """Return the scores of latents [N, F, C, h, w] by prompt."""
        if again and judge.rerender is not None:
            levels = levels_below(judge.rerender, start.levels)
            latents = rerender(start.student, latents, prompts, levels, seed)
        found: dict[str, list[float]] = {}
        for low in range(0, len(prompts), 16):
            some = prompts[low : low + 16]
            clips = start.codec.decode(latents[low : low + 16]).clamp(0, 1)
            for prompt, score in zip(some, network.score(clips, some).tolist(), strict=True):
                found.setdefault(prompt, []).append(score)
        return found

    return margins(scores(data.latents, data.row_prompts, True), scores(torch.cat(parts), texts, judge.rerender_own))
