"""One optimiser update of the student, whatever the objective."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from understudy.errors import TrainingError
from understudy.recipes.config import TrainConfig
from understudy.training.state import TrainState

Parts = Iterator[tuple[Tensor, dict[str, float]]]
"""(loss, figures to report) of one part of a slice of the batch after the other; they add up to the slice's mean."""
Loss = Callable[[slice], Parts]
"""A slice of the batch -> its loss; each part's gradient is taken, and its memory freed, before the next is asked for."""


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
        parts = loss(rows)
        while True:
            with torch.autocast(device.type, torch.bfloat16, enabled=train.bf16):
                part = next(parts, None)
            if part is None:
                break
            (share * part[0]).backward()
            for name, value in part[1].items():
                values[name] = values.get(name, 0.0) + share * value
            del part
    norm = nn.utils.clip_grad_norm_(student.parameters(), train.clip).item()
    if not all(map(math.isfinite, (norm, *values.values()))):
        raise TrainingError(
            f"training stopped at step {state.step}: loss {values.get('loss')} and gradient norm {norm} are not finite. "
            "Lower train.lr, or look for damaged clips with `understudy doctor`; the last checkpoint is intact"
        )
    optimiser.step()
    return {**values, "grad_norm": norm}
