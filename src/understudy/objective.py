"""The maths of adversarial flow distillation (AFD, 2605.26105): pure functions, per-sample values, no models.

Shapes: scores and weights are [B] (or [P, K] for P prompts with K rollouts each); velocities are [B, F, C, h, w].
Parents: the paired discriminator of GAD (2511.10643), the forward-process update of DiffusionNFT (2509.16117).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy import flow


def paired_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the Bradley-Terry loss -log sigmoid(D(x^T, y) - D(x^, y)) per pair [B] of the same prompt."""
    return F.softplus(fake - real)


def gradient_penalty(score: Tensor, perturbed: Tensor, sigma: float) -> Tensor:
    """Return the finite-difference R1/R2 penalty ((D(x + sigma e) - D(x)) / sigma)^2 per clip [B] (R3GAN, 2501.05441)."""
    return ((perturbed - score) / sigma).square()


def advantage(scores: Tensor, scope: str = "group", epsilon: float = 1e-6) -> Tensor:
    """Return (score - mean) / std for scores [P, K] of K rollouts for each of P prompts.

    The mean is the prompt's when K > 1, else the batch's. ``scope`` "group" also takes the std per prompt, "batch" over
    the whole batch (the paper's choice). Where all scores agree the advantage is 0.
    """
    dtype, scores = scores.dtype, scores.double()  # in single precision equal scores can miss their own mean
    centred = scores - (scores.mean(dim=1, keepdim=True) if scores.shape[1] > 1 else scores.mean())
    if scope == "group" and scores.shape[1] > 1:
        spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    else:
        spread = centred.square().mean().sqrt()
    # Asked this way round, a broken score stays NaN and stops the run instead of passing for agreement.
    return torch.where(spread <= epsilon, 0.0, centred / spread).to(dtype)


def weight(advantages: Tensor, limit: float) -> Tensor:
    """Return w = clip(A, +-limit) / (2 limit) + 1/2 in [0, 1]; limit 5 is the paper's clip(A, +-5)/10 + 1/2."""
    return advantages.clamp(-limit, limit) / (2 * limit) + 0.5


def saturated_share(weights: Tensor) -> Tensor:
    """Return the share of weights at 0 or 1: the gauge of a clip limit that is too small for its advantages."""
    return ((weights <= 0) | (weights >= 1)).float().mean()


def frame_error(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference per latent frame [B, F] of [B, F, C, h, w]."""
    return (a - b).square().flatten(2).mean(dim=2)


def forward_process_loss(v: Tensor, v_old: Tensor, target: Tensor, w: Tensor, beta: float) -> Tensor:
    """Return the positive/negative forward-process loss per latent frame [B, F], divided by beta.

    v+ = (1 - beta) v_old + beta v and v- = (1 + beta) v_old - beta v are each compared with the target velocity of the
    student's own noised rollout, weighted by w and 1 - w (DiffusionNFT, equation 5). At v = v_old the value does not
    depend on w and the gradient is (2 w - 1) grad |v - v*|^2 whatever beta is, because of the division: lambda of a
    prior beside it keeps its meaning when beta changes. The minimiser is v_old + (2 w - 1) (v* - v_old) / beta.
    """
    positive = (1 - beta) * v_old + beta * v
    negative = (1 + beta) * v_old - beta * v
    w = w[:, None]
    return (w * frame_error(positive, target) + (1 - w) * frame_error(negative, target)) / beta


def positive_loss(v: Tensor, target: Tensor, w: Tensor) -> Tensor:
    """Return the ablation without a negative branch: weighted flow matching on own rollouts, per frame [B, F]."""
    return w[:, None] * frame_error(v, target)


def level_weight(levels: Tensor, space: str) -> Tensor:
    """Return the factor [B, F] that turns a velocity-space error into the chosen space.

    "velocity" is 1 (the paper). "x0" is t^2 / (t + 0.1): the error of x_0, divided by t + 0.1, which leans on high noise.
    No adaptive x0 weighting: its denominator blows up on few-step students (Astrolabe, 2603.17051).
    """
    if space == "velocity":
        return torch.ones_like(levels)
    return levels.square() / (levels + 0.1)


def noised_state(x0: Tensor, noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_t and the target velocity of the student's own clean rollout [B, F, C, h, w] at levels [B, F]."""
    return flow.interpolate(x0, noise, levels), flow.velocity_target(x0, noise)
