"""Three dozen seeded steps of every objective against committed curves: no change of what a step computes goes unnoticed.

The quick test follows the first few of them. All is computed in double precision: in single precision a discriminator
under Adam turns rounding into other signs of its first steps, so that no two kinds of processor would agree for long.
``pytest tests/direction/test_replay.py --curves=rewrite`` makes the curves anew, where a change of them is meant;
``--curves=exact`` asks for the same bits, which one machine gives before and after a move of code.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.config import ObjectiveSection
from understudy.objectives.dmd.config import ScoreMatchingConfig
from understudy.objectives.experimental.input_gradient.config import InputGradientConfig
from understudy.objectives.experimental.tilt.config import TiltConfig
from understudy.objectives.gan.config import GANConfig
from understudy.objectives.grpo.config import PolicyGradientConfig
from understudy.objectives.sft.config import SFTConfig
from understudy.students.base import StudentModule

CURVES = Path(__file__).resolve().parents[1] / "data" / "replay"
STEPS, QUICK = 36, 5  # the warm-up included
WARMUP = 2
# Of a curve's largest value, by length: weights moved by 1e-14 move the figures by 4e-10 there and by 5e-4.
TOLERANCE = {QUICK: 1e-6, STEPS: 1e-2}
JUMPS = {"pair_accuracy", "unseen_accuracy", "d_rested", "saturated", "d_rate"}  # counts: rounding may tip one over

PLAIN: dict[str, Any] = {
    "size": 8,
    "width": 8,
    "warmup": WARMUP,
    "pool": 6,
    "redraws": 2,
    "lr": 5e-3,
    "held_out": 0.2,
    "ceiling": 1.0,
}
OTHER: dict[str, Any] = {**PLAIN, "steps": 1, "penalty": 0.5}
AGAIN: dict[str, Any] = {**OTHER, "loss": "unpaired", "controller": "rate", "rerender_own": False, "penalty": 0.0}
GROUP = {"group": 3}
KINDS: dict[str, tuple[ObjectiveSection, dict[str, Any], dict[str, Any]]] = {
    "afd": (AFDConfig(**GROUP, shared_share=0.5), PLAIN, {}),
    "afd-positive": (AFDConfig(**GROUP, branches="positive", space="velocity"), OTHER, {}),
    "afd-rectified": (AFDConfig(**GROUP, branches="rectified", prior_policy="start"), OTHER, {"accumulate": 2}),
    "afd-by-block": (
        AFDConfig(**GROUP, by_block=True, context="noisy", levels="continuous", scope="batch"),
        AGAIN,
        {"accumulate": 3},
    ),
    "afd-random": (AFDConfig(**GROUP, reward="random"), PLAIN, {}),
    "gan": (GANConfig(**GROUP), OTHER, {}),
    "grpo": (PolicyGradientConfig(**GROUP), OTHER, {"accumulate": 2}),
    "dmd": (ScoreMatchingConfig(**GROUP, score_warmup=WARMUP), PLAIN, {}),
    "input-gradient": (InputGradientConfig(**GROUP), OTHER, {}),
    "tilt": (TiltConfig(**GROUP), AGAIN, {}),
    "sft": (SFTConfig(**GROUP), PLAIN, {}),
    "sft-rerendered": (SFTConfig(**GROUP, rerender=True, redraws=2, levels="continuous"), PLAIN, {}),
}


Curve = list[float | None]


def replayed(lab: Callable[..., Any], student: StudentModule, kind: str, steps: int) -> dict[str, Curve]:
    """Return every figure at every step, and one number for the weights of every module: their sum in random signs."""
    settings, judge, train = KINDS[kind]
    train = {"steps": STEPS - WARMUP, "warmup": 3, "lr": 1e-3, **train}
    run = lab(settings, train, judge, seed=7, student=student)
    rows: list[dict[str, float]] = []
    for _ in range(steps):
        rows.append({name: float(value) for name, value in run.advance()[0].values.items()})
        for name, module in run.state.modules.items():
            flat = torch.cat([p.detach().double().flatten() for p in module.parameters()])
            signs = torch.randint(2, flat.shape, generator=torch.Generator().manual_seed(3)) * 2.0 - 1
            rows[-1][f"weights.{name}"] = float(flat @ signs.double())
    names = dict.fromkeys(name for row in rows for name in row)
    curves: dict[str, Curve] = {name: [row.get(name) for row in rows] for name in names}
    return {**{f"probe.{name}": [value] for name, value in run.probe.items()}, **curves}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "steps", [pytest.param(QUICK, id="quick"), pytest.param(STEPS, id="whole", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_seeded_run_follows_its_curves(lab, real_student, kind, steps, request) -> None:
    path, how = CURVES / f"{kind}.json", request.config.getoption("--curves", "near")
    if how == "rewrite":
        whole = replayed(lab, real_student, kind, STEPS)
        path.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in whole.items()) + "\n}\n")
    found, expected = replayed(lab, real_student, kind, steps), json.loads(path.read_text())
    assert found.keys() <= expected.keys()
    for name, curve in expected.items():
        there = found.get(name, [None] * steps)
        if how == "exact":
            assert there == curve[:steps], name
        elif name not in JUMPS:
            near = TOLERANCE[steps] * max(abs(value) for value in curve if value is not None) + 1e-9
            assert numbers(there) == pytest.approx(numbers(curve[:steps]), rel=0, abs=near, nan_ok=True), name


def numbers(curve: Curve) -> list[float]:
    return [math.nan if value is None else value for value in curve]


def test_every_objective_has_its_curves() -> None:
    assert {path.stem for path in CURVES.glob("*.json")} == set(KINDS)
