"""Health gauges of a discriminator, computed every step, and the regime they name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from understudy.objectives.losses import saturated_share

INFORMATIVE: Final = (0.6, 0.97)
"""Pair accuracies between which the discriminator's verdicts say something."""

ADVICE: Final = {
    "informative": "it still ranks, and is not always right",
    "hacked": "clips that please it need not be better: raise discriminator.lr or discriminator.steps",
    "saturated": "the student has caught up, or discriminator.lr or discriminator.warmup is too low",
    "memorised": "it knows its clips by heart: more clips, discriminator.redraws or noise, or fewer discriminator.steps",
    "too strong": "what is left to rank may be trifles: lower discriminator.lr or raise discriminator.noise",
    "unstable": "its steps are too large: lower discriminator.lr",
}
"""What each regime that `name_regime` names means, and what to change."""


def pair_accuracy(real: Tensor, fake: Tensor) -> float:
    """Return the share of pairs [B] with D(real) > D(fake)."""
    return float((real > fake).float().mean())


def name_regime(rows: Sequence[Mapping[str, Any]], paired: bool = True) -> tuple[str, str]:
    """Name the regime of a run from its recorded steps, and say why in words.

    ``paired``: whether its loss is the paired one; the unpaired one is twice as large when it guesses.

    "unstable": in its warm-up the discriminator did worse than guessing for a while, so its steps are too large. All
    others look at the last third of the updates. "hacked": the student's clips outrank the teacher's, or have caught up with
    them in the eyes of a discriminator that learns nothing: they climb a verdict that no longer means anything.
    "saturated": the discriminator cannot tell the sides apart, nor does it rest because it can. "memorised": it can on
    the clips it trains on, not on others. "too strong": it is always right, and what is left to rank are trifles.
    "informative" else; "unknown" without a discriminator.
    """
    updates = [row for row in rows if row.get("phase") == "update" and row.get("pair_accuracy") is not None]
    late = updates[-max(1, len(updates) // 3) :]
    if not late:
        return "unknown", "no discriminator took part"
    guessing = math.log(2) if paired else 2 * math.log(2)
    worst = _worst_mean([float(row["d_loss"]) for row in rows if row.get("phase") == "warm-up" and "d_loss" in row])
    if worst > 1.1 * guessing:
        return "unstable", f"loss {worst:.2f} over ten steps of its warm-up, where guessing has {guessing:.2f}"
    accuracy = sum(float(row["pair_accuracy"]) for row in late) / len(late)
    others = [float(row["unseen_accuracy"]) for row in late if row.get("unseen_accuracy") is not None]
    unseen = sum(others) / len(others) if others else accuracy
    said = f"pair accuracy {accuracy:.2f} over the last {len(late)} updates"
    said += f", {unseen:.2f} on clips it never trained on" if others else ""
    begun = [float(row["pair_accuracy"]) for row in updates[:5]]
    fell = sum(begun) / len(begun) - accuracy
    if all(row.get("d_rate") == 0 for row in late) and fell > 0.1:
        return "hacked", f"{said}, {fell:.2f} less than at first although the discriminator does not learn"
    if accuracy < 0.4:
        return "hacked", said
    if accuracy > 0.9 and unseen < INFORMATIVE[0]:
        return "memorised", said
    rested = sum(float(row.get("d_rested") or 0) for row in late) / len(late)
    if unseen < INFORMATIVE[0] and rested < 0.5:
        return "saturated", said
    said += f"; it rested in {rested:.0%} of them" if rested else ""
    return ("too strong" if min(accuracy, unseen) > INFORMATIVE[1] else "informative"), said


def _worst_mean(losses: Sequence[float], steps: int = 10) -> float:
    """Return the largest mean of so many consecutive losses; minus infinity if there are fewer, infinity for a NaN."""
    means = [sum(losses[i : i + steps]) / steps for i in range(len(losses) - steps + 1)]
    return max((mean if math.isfinite(mean) else math.inf for mean in means), default=-math.inf)


def controlled_rate(
    rate: float, accuracy: float, band: tuple[float, float], limits: tuple[float, float], factor: float = 1.2
) -> float:
    """Return the discriminator's next learning rate: up while its pair accuracy is below ``band``, down above.

    Never outside ``limits``; the factor is applied once per discriminator step.
    """
    if accuracy < band[0]:
        rate *= factor
    elif accuracy > band[1]:
        rate /= factor
    return min(max(rate, limits[0]), limits[1])


def correlation(scores: Tensor, statistic: Tensor) -> float:
    """Return the mean within-group correlation of scores [P, K] with a statistic [P, K], in [-1, 1].

    A probe: if rewards follow brightness or blur, the discriminator ranks the picture, not the motion.
    """
    a = scores - scores.mean(1, keepdim=True)
    b = statistic - statistic.mean(1, keepdim=True)
    scale = (a.square().mean(1) * b.square().mean(1)).sqrt()
    usable = scale > 1e-12
    if not bool(usable.any()):
        return 0.0
    return float(((a * b).mean(1)[usable] / scale[usable]).mean())


def of_rewards(scores: Tensor, weights: Tensor, probes: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the gauges of rewards [P, K], the weights made of them, and their correlation with trivial ``probes`` [P K]."""
    grouped = scores.shape[1] > 1
    return {
        "score_spread": float(scores.std(dim=1).mean()) if grouped else float(scores.std()),
        "saturated": float(saturated_share(weights)),
        **{f"corr_{name}": correlation(scores, values.reshape(scores.shape)) for name, values in probes.items()},
    }


def statistics(clips: Tensor) -> dict[str, Tensor]:
    """Return trivial statistics [B] of clips [B, T, 3, H, W] in [0, 1]: what a lazy discriminator would look at."""
    grey = clips.mean(2)
    centre = grey.mean((1, 2, 3))
    horizontal, vertical = grey.diff(dim=-1), grey.diff(dim=-2)
    laplace = grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2] + grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1]
    laplace = laplace - 4 * grey[..., 1:-1, 1:-1]
    colour = (clips - clips.mean(2, keepdim=True)).square().mean((1, 2, 3, 4)).sqrt()
    corner = max(1, clips.shape[-1] // 5)
    return {
        "brightness": centre,
        "contrast": grey.std(dim=(1, 2, 3)),
        "saturation": colour,
        "sharpness": horizontal.square().mean((1, 2, 3)) + vertical.square().mean((1, 2, 3)),
        "fine_grain": laplace.abs().flatten(1).median(dim=1).values,
        "corner": grey[..., :corner, -corner:].mean((1, 2, 3)) - centre,
        "flicker": grey.diff(dim=1).abs().mean((1, 2, 3)),
    }


@torch.no_grad()
def shortcut_probe(teacher: Tensor, student: Tensor) -> dict[str, float]:
    """Return how well each trivial statistic alone separates the two sides: AUC in [1/2, 1], per statistic.

    Both sides are canonical clips [B, T, 3, H, W] in [0, 1].
    """
    real, fake = statistics(teacher), statistics(student)
    result = {}
    for name in real:
        wins = (real[name][:, None] > fake[name][None]).float() + 0.5 * (
            real[name][:, None] == fake[name][None]
        ).float()
        result[name] = max(float(wins.mean()), 1 - float(wins.mean()))
    return result


def shortcut_warning(probe: dict[str, float], limit: float = 0.9) -> str | None:
    """Return a warning in words if a trivial statistic separates teacher from student, else None."""
    name, auc = max(probe.items(), key=lambda item: item[1])
    if auc < limit:
        return None
    return (
        f"{name} alone tells teacher from student (AUC {auc:.2f}): the discriminator may learn the container instead of "
        "the motion; set discriminator.rerender to a sampler level, or raise discriminator.noise"
    )
