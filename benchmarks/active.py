"""Active against uniform collection at equal cost, on the embedded world.

    python benchmarks/active.py --seed 0 --json FILE [--prompts 24] [--more 24] [--updates 20]

Both arms start with one clip of each of ``--prompts`` prompts. A discriminator warmed up on those ranks the prompts by
their margins: how much better it finds the teacher's clip than rollouts of the start student. Then each arm buys ``--more``
further clips: the uniform arm the same number for every prompt, the active arm ``--each`` for those with the largest
margins, as `understudy collect --active` does. AFD is trained on each arm's clips from the same start, and measured on
held-out prompts. Also printed: how the ranking agrees with the student's true law error (rank correlation over prompts).
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from understudy.codecs.base import to_frames
from understudy.discriminators.base import Discriminator
from understudy.evaluation.law import law_error
from understudy.evaluation.parse import track
from understudy.objectives.build import build_objective
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.run.active import prompt_margins
from understudy.run.clips import build_teacher
from understudy.run.margins import furthest_first
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.run.start import load_start
from understudy.students.bundle import Bundle
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.transformer.model import CausalVideoTransformer
from understudy.teachers.base import ClipParams
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.physics import Law
from understudy.training.data import teacher_clips
from understudy.training.state import TrainState
from understudy.video.clips import Clip, decode_mp4

ROLLOUTS = 4


@torch.no_grad()
def rollouts(bundle: Bundle, student: CausalVideoTransformer, prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Return latents [P * ROLLOUTS, F, C, h, w] of the student's rollouts, prompt by prompt."""
    texts = [prompt for prompt in prompts for _ in range(ROLLOUTS)]
    parts = []
    for low in range(0, len(texts), 64):
        text = student.encode_text(texts[low : low + 64])
        noise = SeededNoise([seed + low + i for i in range(len(text.tokens))])
        frames = bundle.form.frames // bundle.codec.frames_per_latent
        parts.append(roll_clip(student, text, len(text.tokens), bundle.levels, noise, frames))
    return torch.cat(parts)


@torch.no_grad()
def law_errors(bundle: Bundle, latents: torch.Tensor, prompts: Sequence[str]) -> np.ndarray:
    """Return the mean law error in pixels of each prompt's rollouts [P]."""
    errors = []
    for i in range(len(latents)):
        scene = parse(prompts[i // ROLLOUTS])
        frames = to_frames(bundle.codec.decode(latents[i : i + 1]))[0]
        errors.append(law_error(track(frames, scene), scene, Law(), bundle.form.fps).error)
    return np.array(errors).reshape(-1, ROLLOUTS).mean(1)


def trained(
    config: RunConfig, bundle: Bundle, takes: Mapping[str, int], steps: int | None = None
) -> tuple[TrainState, list[tuple[str, Clip]]]:
    """Return the state after ``steps`` (None: all) on so many clips of every prompt, and the clips."""
    teacher = build_teacher(config)
    pairs = [
        (p, decode_mp4(teacher.generate(p, 7 + i, ClipParams()))) for p, count in takes.items() for i in range(count)
    ]
    data = teacher_clips(pairs, bundle.form, bundle.codec)
    objective = build_objective(config.objective, config.train, config, data, bundle)
    state = objective.initial_state(bundle.student)
    objective.prepare(state)
    for _ in range(objective.steps if steps is None else steps):
        objective.step(state)
        state.step += 1
    return state, pairs


def main() -> None:
    """Run one seed and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--more", type=int, default=24)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, seed = time.monotonic(), options.seed
    overrides = {
        "seed": seed,
        "discriminator.warmup": options.warmup,
        "discriminator.pool": 128,
        "train.steps": options.updates,
        "prompts.per_scene": 2,
    }
    config = load_recipe("quickstart", [(key, str(value)) for key, value in overrides.items()])
    bundle = load_start(config)
    rng = np.random.default_rng(seed)
    prompts = [training_prompts(config)[i] for i in rng.permutation(len(training_prompts(config)))]
    prompts = prompts[: options.prompts]
    state, pairs = trained(config, bundle, dict.fromkeys(prompts, 1), options.warmup)
    network = state.modules["discriminator"].eval()
    assert isinstance(network, Discriminator)
    found = prompt_margins(bundle, bundle.student, network, config.discriminator, pairs, ROLLOUTS, 1000 * seed)
    errors = law_errors(bundle, rollouts(bundle, bundle.student, prompts, 1000 * seed), prompts)
    rank = [np.argsort(np.argsort(values)) for values in ([found[p] for p in prompts], errors)]
    result: dict[str, object] = {
        **{name: value for name, value in vars(options).items() if name != "json"},
        "rank_correlation": round(float(np.corrcoef(rank[0], rank[1])[0, 1]), 3),
    }
    furthest = furthest_first(found)[: options.more // options.each]
    arms = {
        "uniform": dict.fromkeys(prompts, 1 + options.more // options.prompts),
        "active": {prompt: 1 + (options.each if prompt in furthest else 0) for prompt in prompts},
    }
    assert len({sum(takes.values()) for takes in arms.values()}) == 1
    held = held_out_prompts(config)
    result["start"] = law_errors(bundle, rollouts(bundle, bundle.student, held, 5), held).round(3).tolist()
    print(result["rank_correlation"], round(time.monotonic() - began), "s", flush=True)
    for arm, takes in arms.items():
        end, _ = trained(config, bundle, takes)
        student = end.policy("ema").eval()
        result[arm] = law_errors(bundle, rollouts(bundle, student, held, 5), held).round(3).tolist()
        print(arm, round(float(np.mean(result[arm])), 3), round(time.monotonic() - began), "s", flush=True)
    result["seconds"] = round(time.monotonic() - began)
    if options.json:
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
