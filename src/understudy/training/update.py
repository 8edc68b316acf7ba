"""One optimiser update of the student, whatever the objective."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from understudy.config import TrainConfig
from understudy.errors import TrainingError
from understudy.training.state import TrainState

Loss = Callable[[slice], tuple[Tensor, dict[str, float]]]
"""A slice of the batch -> (mean loss of the slice, figures to report)."""


def student_update(state: TrainState, train: TrainConfig, loss: Loss, batch: int) -> dict[str, float]:
    """Accumulate the gradient of ``loss`` over micro-batches, clip it, and step the student.

    Raises:
        TrainingError: the loss or the gradient is not finite; the weights are left as they were.
    """
    student, optimiser = state.modules["student"], state.optimisers["student"]
    device = next(student.parameters()).device
    optimiser.zero_grad(set_to_none=True)
    size = -(-batch // train.accumulate)
    values: dict[str, float] = {}
    for low in range(0, batch, size):
        rows = slice(low, min(low + size, batch))
        share = (rows.stop - rows.start) / batch
        with torch.autocast(device.type, torch.bfloat16, enabled=train.bf16):
            part, figures = loss(rows)
        (share * part).backward()
        for name, value in figures.items():
            values[name] = values.get(name, 0.0) + share * value
    norm = nn.utils.clip_grad_norm_(student.parameters(), train.clip).item()
    if not all(map(math.isfinite, (norm, *values.values()))):
        raise TrainingError(
            f"training stopped at step {state.step}: loss {values.get('loss')} and gradient norm {norm} are not finite. "
            "Lower train.lr, or look for damaged clips with `understudy doctor`; the last checkpoint is intact"
        )
    optimiser.step()
    return {**values, "grad_norm": norm}
