"""A few dozen seeded steps of every objective against committed curves: nothing may change what a step computes unnoticed.

``pytest tests/direction/test_replay.py --curves=rewrite`` makes the curves anew, where a change of them is meant;
``--curves=exact`` asks for the same bits, which one machine gives before and after a move of code.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.config import (
    AFDConfig,
    GANConfig,
    InputGradientConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
    ScoreMatchingConfig,
    SFTConfig,
    TiltConfig,
)

CURVES = Path(__file__).resolve().parents[1] / "data" / "replay"
STEPS = 24  # updates; warm-up comes before them
TOLERANCE = 2e-3  # of a curve's largest value; other processors round otherwise
JUMPS = {"pair_accuracy", "unseen_accuracy", "d_rested", "saturated", "d_rate"}  # counts: rounding may tip one over

PLAIN: dict[str, Any] = {"warmup": 4, "pool": 16, "redraws": 2, "held_out": 0.2}
OTHER: dict[str, Any] = {**PLAIN, "loss": "unpaired", "controller": "rate", "rerender_own": False, "steps": 1}
GROUP = {"group": 4}
KINDS: dict[str, tuple[ObjectiveConfig, dict[str, Any], dict[str, Any]]] = {
    "afd": (AFDConfig(**GROUP, shared_share=0.5), PLAIN, {}),
    "afd-positive": (AFDConfig(**GROUP, branches="positive", space="velocity"), PLAIN, {}),
    "afd-rectified": (AFDConfig(**GROUP, branches="rectified", prior_policy="start"), PLAIN, {"accumulate": 2}),
    "afd-by-block": (
        AFDConfig(**GROUP, by_block=True, context="noisy", levels="continuous", scope="batch"),
        OTHER,
        {"accumulate": 3},
    ),
    "afd-random": (AFDConfig(**GROUP, reward="random"), PLAIN, {}),
    "gan": (GANConfig(**GROUP), PLAIN, {}),
    "grpo": (PolicyGradientConfig(**GROUP), PLAIN, {"accumulate": 2}),
    "dmd": (ScoreMatchingConfig(**GROUP, score_warmup=4), PLAIN, {}),
    "input-gradient": (InputGradientConfig(**GROUP), PLAIN, {}),
    "tilt": (TiltConfig(**GROUP), OTHER, {}),
    "sft": (SFTConfig(**GROUP), PLAIN, {}),
    "sft-rerendered": (SFTConfig(**GROUP, rerender=True, redraws=2, levels="continuous"), PLAIN, {}),
}


def replayed(lab: Callable[..., Any], kind: str) -> dict[str, list[float]]:
    """Return every figure of every step, and one number for the weights of every module: their sum in random signs."""
    settings, judge, train = KINDS[kind]
    run = lab(settings, {"steps": STEPS, "lr": 1e-3, **train}, judge, clear=False, seed=7)
    curves: dict[str, list[float]] = {f"probe.{name}": [value] for name, value in run.probe.items()}
    for _ in range(run.objective.steps):
        for name, value in run.advance()[0].values.items():
            curves.setdefault(name, []).append(float(value))
        for name, module in run.state.modules.items():
            flat = torch.cat([p.detach().double().flatten() for p in module.parameters()])
            signs = torch.randint(2, flat.shape, generator=torch.Generator().manual_seed(3)) * 2.0 - 1
            curves.setdefault(f"weights.{name}", []).append(float(flat @ signs.double()))
    return curves


@pytest.mark.parametrize("kind", KINDS)
def test_a_seeded_run_follows_its_curves(lab, kind, request) -> None:
    path, how = CURVES / f"{kind}.json", request.config.getoption("--curves", "near")
    found = replayed(lab, kind)
    if how == "rewrite":
        path.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in found.items()) + "\n}\n")
    expected = json.loads(path.read_text())
    assert found.keys() == expected.keys()
    for name, curve in expected.items():
        assert len(found[name]) == len(curve), name
        if how == "exact":
            assert found[name] == curve, name
        elif name not in JUMPS:
            scale = max(map(abs, curve))
            assert found[name] == pytest.approx(curve, rel=0, abs=TOLERANCE * scale + 1e-6), name


def test_every_objective_has_its_curves() -> None:
    assert {path.stem for path in CURVES.glob("*.json")} == set(KINDS)
