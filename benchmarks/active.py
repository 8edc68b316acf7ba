"""Active against uniform collection at equal cost, on the embedded world.

    python benchmarks/active.py --seed 0 --json FILE [--first 16] [--more 16] [--updates 20]

Both arms start with clips of the same ``--first`` prompts. A discriminator warmed up on those ranks the remaining training
prompts by rollouts of the start student; the active arm asks for the ``--more`` it likes least, the uniform arm for a random
draw. Then AFD is trained on each arm's clips from the same start, and measured on held-out prompts. Also printed: how the
ranking agrees with the student's true law error (rank correlation over the remaining prompts), which is what it hopes for.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from understudy.baselines import build_objective
from understudy.clips import decode_mp4
from understudy.codecs.base import to_frames
from understudy.config import RunConfig
from understudy.discriminators.active import choose_prompts
from understudy.discriminators.canonical import levels_below, rerender
from understudy.evaluation.law import law_error
from understudy.evaluation.parse import track
from understudy.experiment import build_teacher, held_out_prompts, load_start, training_prompts
from understudy.recipes import load_recipe
from understudy.students.bundle import Bundle
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.students.transformer import CausalVideoTransformer
from understudy.teachers.base import ClipParams
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.physics import Law
from understudy.training.afd import AFD
from understudy.training.data import teacher_clips

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


def trained(config: RunConfig, bundle: Bundle, prompts: Sequence[str], steps: int | None = None) -> tuple[AFD, object]:
    """Return the objective and its state after ``steps`` (None: all) on one teacher clip for each prompt."""
    teacher = build_teacher(config)
    pairs = [(prompt, decode_mp4(teacher.generate(prompt, 7, ClipParams()))) for prompt in prompts]
    data = teacher_clips(pairs, bundle.form, bundle.codec)
    objective = build_objective(config.objective, config.train, config, data, bundle)
    assert isinstance(objective, AFD)
    state = objective.initial_state(bundle.student)
    objective.prepare(state, bundle.student)
    for _ in range(objective.steps if steps is None else steps):
        objective.step(state)
        state.step += 1
    return objective, state


def main() -> None:
    """Run one seed and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=16)
    parser.add_argument("--more", type=int, default=16)
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
    config = load_recipe("recipes/quickstart.yaml", [(key, str(value)) for key, value in overrides.items()])
    bundle = load_start(config)
    rng = np.random.default_rng(seed)
    prompts = [training_prompts(config)[i] for i in rng.permutation(len(training_prompts(config)))]
    first, rest = prompts[: options.first], prompts[options.first :]
    _, state = trained(config, bundle, first, options.warmup)
    network = state.modules["discriminator"].eval()
    own = rollouts(bundle, bundle.student, rest, 1000 * seed)
    texts = [prompt for prompt in rest for _ in range(ROLLOUTS)]
    with torch.no_grad():
        seen = rerender(bundle.student, own, texts, levels_below(config.discriminator.rerender, bundle.levels), seed)
        scores = (
            torch.cat(
                [
                    network.score(bundle.codec.decode(part).clamp(0, 1), texts[64 * i : 64 * i + len(part)])
                    for i, part in enumerate(seen.split(64))
                ]
            )
            .numpy()
            .reshape(-1, ROLLOUTS)
        )
    errors = law_errors(bundle, own, rest)
    rank = [np.argsort(np.argsort(values)) for values in (-scores.mean(1), errors)]
    result: dict[str, object] = {
        "seed": seed,
        "first": options.first,
        "more": options.more,
        "updates": options.updates,
        "remaining": len(rest),
        "rank_correlation": round(float(np.corrcoef(rank[0], rank[1])[0, 1]), 3),
    }
    picked = {
        "uniform": rest[: options.more],
        "active": choose_prompts({p: s.tolist() for p, s in zip(rest, scores, strict=True)}, options.more),
    }
    held = held_out_prompts(config)
    result["start"] = law_errors(bundle, rollouts(bundle, bundle.student, held, 5), held).round(3).tolist()
    print(result["rank_correlation"], round(time.monotonic() - began), "s", flush=True)
    for arm, more in picked.items():
        _, end = trained(config, bundle, [*first, *more])
        student = end.policy("ema").eval()
        result[arm] = law_errors(bundle, rollouts(bundle, student, held, 5), held).round(3).tolist()
        print(arm, round(float(np.mean(result[arm])), 3), round(time.monotonic() - began), "s", flush=True)
    result["seconds"] = round(time.monotonic() - began)
    if options.json:
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
