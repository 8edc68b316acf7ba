"""Everything a run is, in one place: saving and loading it is the whole of resume."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from understudy.recipes.config import LoraConfig, TrainConfig
from understudy.students.base import StudentModule
from understudy.students.lora import adapted, fork, on_base


@dataclass
class TrainState:
    """The mutable state of a run.

    Attributes:
        step: steps done, warm-up steps of the discriminator included.
        modules: "student" (trained), "ema" (the one that is evaluated and shipped), and what the objective adds: "old",
            "prior", "discriminator".
        optimisers: by the name of the module they train.
        tensors: replay pools, such as frames [N, T, 3, s, s] of N stored rollouts.
        generator: the one source of randomness of training.
    """

    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    generator: torch.Generator
    step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def policy(self, name: str) -> StudentModule:
        """Return the student behind a name: "student", "ema", "old", "prior"."""
        module = self.modules[name]
        assert isinstance(module, StudentModule)
        return module


@dataclass(frozen=True)
class StepReport:
    """What one step did: its number, its phase ("warm-up" or "update"), and named figures."""

    step: int
    phase: str
    values: Mapping[str, float]


def policies(
    start: StudentModule, lora: LoraConfig | None, seed: int, *names: str, reference: str | None = None
) -> dict[str, nn.Module]:
    """Return "student", to be trained, and frozen policies ``names`` that begin as it does.

    With ``lora`` all are adapters on the start student's own weights, and ``reference`` is those weights alone; without,
    all are copies.
    """
    student = copy.deepcopy(start).requires_grad_(True) if lora is None else adapted(start, lora, seed)
    modules: dict[str, nn.Module] = {"student": student}
    for name in names:
        modules[name] = on_base(start) if lora is not None and name == reference else fork(student)
    return modules


def new_state(
    start: StudentModule,
    train: TrainConfig,
    seed: int,
    lora: LoraConfig | None,
    *names: str,
    reference: str | None = None,
) -> TrainState:
    """Return the state before the first step of a student that begins as ``start``, with ``policies`` of ``names``."""
    modules = policies(start, lora, seed, *names, reference=reference)
    optimiser = adamw(modules["student"], train.lr, (0.9, 0.98), train.weight_decay)
    return TrainState(modules, {"student": optimiser}, torch.Generator().manual_seed(seed))


def adamw(module: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over what wants a gradient in ``module``."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr, betas, weight_decay=weight_decay)


@torch.no_grad()
def average_into(slow: nn.Module, fast: nn.Module, decay: float) -> None:
    """Move every parameter of ``slow`` that it does not share towards ``fast``: decay * slow + (1 - decay) * fast."""
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        if a is not b:
            a.lerp_(b, 1 - decay)


def set_rate(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int, warmup: int, decay: float) -> None:
    """Set the learning rate for ``step`` of ``steps``: linear warm-up, constant, linear decay over the last share."""
    tail = max(1.0, decay * steps)
    factor = min(1.0, (step + 1) / max(1, warmup), (steps - step) / tail)
    for group in optimiser.param_groups:
        group["lr"] = rate * factor
