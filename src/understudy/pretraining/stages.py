"""Making a start student: codec, flow-matching pre-training on a physics-poor source, few-step distillation.

These are the stages a user's own few-step causal student has behind it. Distillation is ODE regression as in CausVid
(2412.07772, section 4.2): integrate the pre-trained student's probability-flow ODE from noise with the clip's clean past
as context, then regress the student's prediction at the few-step sampler's levels onto the end points.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy import flow
from understudy.codecs.small import SmallCodec
from understudy.students.transformer.model import CausalVideoTransformer
from understudy.training.state import average_into

Report = Callable[[str, int, int, float], None]
"""(stage, step, steps, loss)."""


@dataclass(frozen=True)
class Stage:
    """Length and rate of one stage: optimiser ``steps``, ``batch`` clips each, learning rates."""

    steps: int
    batch: int
    lr: float
    matrix_lr: float = 0.0


@dataclass(frozen=True)
class CodecLoss:
    """The codec's loss: L1 + ``square`` x L2 + L1 of edges; ``jitter`` share of re-coloured clips, latent ``noise``."""

    square: float
    jitter: float
    noise: float


def train_codec(codec: SmallCodec, frames: Tensor, stage: Stage, weights: CodecLoss, seed: int, report: Report) -> None:
    """Fit the codec to uint8 clips [N, T, 3, H, W]; brightness, contrast and tint are jittered so it takes any look."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(codec.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    pair = codec.frames_per_latent
    codec.train()
    for step in range(stage.steps):
        _set_rate(optimiser, stage.lr, step, stage.steps)
        rows = torch.randint(len(frames), (stage.batch,), generator=generator)
        first = torch.randint(frames.shape[1] // pair, (stage.batch,), generator=generator) * pair
        x = torch.stack([frames[r, f : f + pair] for r, f in zip(rows, first, strict=True)]).float() / 255
        gain = 1 + 0.3 * (torch.rand(len(x), 1, 3, 1, 1, generator=generator) - 0.5)
        lift = 0.2 * (torch.rand(len(x), 1, 1, 1, 1, generator=generator) - 0.5)
        jittered = (x * gain + lift).clamp(0, 1)
        x = torch.where(torch.rand(len(x), 1, 1, 1, 1, generator=generator) < weights.jitter, jittered, x)
        latents = codec.encode(x)
        out = codec.decode(latents + weights.noise * torch.randn(latents.shape, generator=generator))
        difference = out - x
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        loss = difference.abs().mean() + weights.square * difference.square().mean() + edges
        _update(optimiser, loss, codec)
        report("codec", step, stage.steps, loss.item())
    codec.eval()


def pretrain(
    student: CausalVideoTransformer,
    latents: Tensor,
    prompts: Sequence[str],
    stage: Stage,
    seed: int,
    report: Report,
    block_choices: Sequence[int] = (1, 2),
) -> CausalVideoTransformer:
    """Teacher-forced flow matching on latents [N, F, C, h, w]; returns the exponential moving average.

    Every batch draws its block size from ``block_choices``, so one base serves frame-wise and block-wise students.
    Hidden matrices are trained by Muon, everything else by AdamW: the plateau before the student draws moving objects
    is much shorter.
    """
    generator = torch.Generator().manual_seed(seed)
    optimisers = _muon_and_adamw(student, stage)
    average = copy.deepcopy(student).requires_grad_(False)
    f = latents.shape[1]
    for step in range(stage.steps):
        for optimiser, rate in zip(optimisers, (stage.matrix_lr, stage.lr), strict=True):
            _set_rate(optimiser, rate, step, stage.steps)
        rows = torch.randint(len(latents), (stage.batch,), generator=generator)
        block = block_choices[int(torch.randint(len(block_choices), (1,), generator=generator))]
        levels = flow.draw_continuous((stage.batch, f // block), shift=2.0, generator=generator)
        levels = levels.repeat_interleave(block, dim=1)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        noisy = flow.interpolate(clean, noise, levels)
        model = with_block(student, block)
        v = model.teacher_forced(clean, noisy, levels, model.encode_text([prompts[i] for i in rows]))
        loss = F.mse_loss(v, flow.velocity_target(clean, noise))
        _update(optimisers, loss, student)
        average_into(average, student, min(0.995, step / (step + 20)))
        report("pretrain", step, stage.steps, loss.item())
    return average


def with_block(student: CausalVideoTransformer, block_frames: int) -> CausalVideoTransformer:
    """Return a view of ``student`` (same parameters) that draws ``block_frames`` latent frames together."""
    if student.block_frames == block_frames:
        return student
    return student.with_spec(block_frames=block_frames)


@torch.no_grad()
def ode_pairs(
    student: CausalVideoTransformer,
    latents: Tensor,
    prompts: Sequence[str],
    levels: Sequence[float],
    ode_steps: int,
    seed: int,
    report: Report,
    batch: int = 64,
) -> tuple[Tensor, Tensor]:
    """Return the ODE's states at ``levels`` [L, N, F, C, h, w] and its end points [N, F, C, h, w], clean past given.

    Euler steps on a warped grid that contains every sampler level.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = sorted({*flow.sampler_levels(ode_steps, 2.0), *levels}, reverse=True)
    states = torch.empty(len(levels), *latents.shape)
    ends = torch.empty(latents.shape)
    for low in range(0, len(latents), batch):
        clean = latents[low : low + batch]
        text = student.encode_text(prompts[low : low + batch])
        x = torch.randn(clean.shape, generator=generator)
        for t, after in zip(grid, [*grid[1:], 0.0], strict=True):
            if t in levels:
                states[list(levels).index(t), low : low + batch] = x
            x = x + (after - t) * student.teacher_forced(clean, x, torch.full(clean.shape[:2], t), text)
        ends[low : low + batch] = x
        report("ode pairs", low, len(latents), 0.0)
    return states, ends


def distil(
    student: CausalVideoTransformer,
    latents: Tensor,
    prompts: Sequence[str],
    levels: Sequence[float],
    ode_steps: int,
    stage: Stage,
    seed: int,
    report: Report,
) -> CausalVideoTransformer:
    """Return ``student`` distilled to the few-step sampler at ``levels`` by ODE regression on clips [N, F, C, h, w]."""
    states, ends = ode_pairs(student, latents, prompts, levels, ode_steps, seed, report)
    generator = torch.Generator().manual_seed(seed + 1)
    student = copy.deepcopy(student).requires_grad_(True)
    average = copy.deepcopy(student).requires_grad_(False)
    optimiser = torch.optim.AdamW(student.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    count, f = latents.shape[:2]
    block = student.block_frames
    table = torch.tensor(levels, dtype=torch.float32)
    for step in range(stage.steps):
        _set_rate(optimiser, stage.lr, step, stage.steps)
        rows = torch.randint(count, (stage.batch,), generator=generator)
        which = torch.randint(len(levels), (stage.batch, f // block), generator=generator).repeat_interleave(block, 1)
        noisy = states[which, rows[:, None], torch.arange(f)]
        t = table[which]
        v = student.teacher_forced(latents[rows], noisy, t, student.encode_text([prompts[i] for i in rows]))
        loss = F.mse_loss(flow.x0_from_velocity(noisy, v, t), ends[rows])
        _update(optimiser, loss, student)
        average_into(average, student, min(0.98, step / (step + 5)))
        report("distil", step, stage.steps, loss.item())
    return average


def _muon_and_adamw(student: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    matrices = [
        p for n, p in student.named_parameters() if n.startswith("layers.") and p.ndim == 2 and "table" not in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in student.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=stage.matrix_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.0)]


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    """Warm up over 2 % of the stage, hold, and decay linearly to a tenth over the last 40 %."""
    factor = min(1.0, (step + 1) / max(1, steps // 50), 0.1 + 0.9 * (steps - step) / (0.4 * steps))
    for group in optimiser.param_groups:
        group["lr"] = rate * factor


def _update(
    optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], loss: Tensor, module: nn.Module
) -> None:
    optimisers = [optimisers] if isinstance(optimisers, torch.optim.Optimizer) else optimisers
    module.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
