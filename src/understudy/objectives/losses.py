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


def unpaired_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return binary cross-entropy -log sigmoid(D(x^T)) - log sigmoid(-D(x^)) per clip pair [B]: the unpaired ablation."""
    return F.softplus(-real) + F.softplus(fake)


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


def tilted_weight(advantages: Tensor, temperature: float) -> Tensor:
    """Return w = exp(A / temperature) over its mean per prompt [P, K]: the density ratio of the best policy nearby.

    Of all policies the one with the largest reward less ``temperature`` times its KL divergence from the old one draws a
    clip exp(A / temperature) times as often, up to a factor per prompt (AWR, 1910.00177; FlowAWR, 2606.30376).
    """
    return torch.softmax(advantages / temperature, dim=1) * advantages.shape[1]


def rectified_loss(v: Tensor, v_old: Tensor, target: Tensor, w: Tensor) -> Tensor:
    """Return the error [B, F] against v_old + (w - 1) (v* - v_old), w [B] of mean 1 per prompt.

    Its mean over the old policy's clips is minimal at E[w v* | x_t], the velocity of the policy that draws them w times as
    often: v_old is E[v* | x_t], so taking 1 from w only takes away variance. The idea is FlowAWR's (2606.30376), the
    derivation and the baseline of 1 are ours.
    """
    return frame_error(v, v_old + (w - 1).reshape(-1, *(1,) * (v.ndim - 1)) * (target - v_old))


def reward_covariance(x0: Tensor, advantages: Tensor) -> Tensor:
    """Return the covariance [P, F, C, h, w] of clips [P K, F, C, h, w] with their advantages [P, K] of mean 0 per prompt.

    Where a prompt's clips would have to go, all together, for a little more reward: the shared direction of DiffusionART
    (2610.12572).
    """
    p, k = advantages.shape
    return torch.einsum("pk,pk...->p...", advantages, x0.unflatten(0, (p, k))) / k


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


def clipped_ratio_loss(log_ratio: Tensor, advantages: Tensor, limit: float) -> Tensor:
    """Return -min(r A, clip(r, 1 +- limit) A) [B, F] for log r [B, F] and A [B] (PPO 1707.06347, GRPO 2402.03300).

    At r = 1 its gradient is -A grad log pi: the policy gradient. Where the ratio has already gone past the limit in the
    direction that A asks for, the gradient is 0.
    """
    ratio, a = log_ratio.exp(), advantages[:, None]
    return -torch.minimum(ratio * a, ratio.clamp(1 - limit, 1 + limit) * a)


def distribution_matching_target(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Return where distribution matching sends own clips [B, F, C, h, w] (DMD, 2311.18828, equations 7 and 8).

    ``real`` and ``fake`` are the two scores' predictions of x_0 from the same noised clip. The step is their difference
    over the mean distance of the clip to ``real``, so that its size does not depend on the noise level.
    """
    distance = (x0 - real).abs().flatten(1).mean(1).clamp(min=1e-6)
    return x0 - (fake - real) / distance.reshape(-1, *(1,) * (x0.ndim - 1))


def moved(x0: Tensor, gradient: Tensor, step: float) -> Tensor:
    """Return clips [B, F, C, h, w] moved by RMS ``step`` along their gradient; where that is 0 they stay."""
    size = gradient.square().flatten(1).mean(1).sqrt().reshape(-1, *(1,) * (x0.ndim - 1))
    return x0 + torch.where(size > 0, step * gradient / size.clamp(min=1e-30), 0.0)


def straight_through(value: Tensor, through: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``through`` (of the same shape), as if the step between were the identity."""
    return value.detach() + (through - through.detach())
