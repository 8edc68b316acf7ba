"""Groups of the student's own rollouts: K for each of P prompts, which may share the noise of their first blocks.

Shape legend: B = P K rollouts, F latent frames, C channels, h/w latents, T frames, H/W pixels, S sampler levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow
from understudy.codecs.base import Codec
from understudy.objectives import gauges
from understudy.objectives.config import OnPolicyConfig
from understudy.recipes.config import TrainConfig
from understudy.students.base import StudentModule, block_sizes
from understudy.students.rollout import SeededNoise, clips_at_once, roll_chain
from understudy.training.canonical import Rerender
from understudy.training.data import TeacherClips

_DECODED_AT_ONCE = 1 << 20  # latent numbers: 64 clips of the small students, one of Wan's


@dataclass(frozen=True)
class Rollouts:
    """K rollouts for each of P prompts, B = P K.

    Attributes:
        prompts: B texts. index: B prompt indices.
        group: K. shared: first blocks whose noise a group has in common.
        latents: clean latents [B, F, C, h, w].
        states: what the sampler visited on the way [S, B, F, C, h, w], S levels.
        levels: the levels of these states [S, B, F].
        judged: the latents behind ``frames``: the rollouts, or what the start student drew of them.
        frames: what the verdict keeps of the decoded clips [B, ...]; empty where it needs none.
        probes: statistics [B] by name, for the correlation gauges.
    """

    prompts: list[str]
    index: list[int]
    group: int
    shared: int
    latents: Tensor
    states: Tensor
    levels: Tensor
    judged: Tensor
    frames: Tensor
    probes: dict[str, Tensor]

    def opening(self, student: StudentModule) -> int:
        """Return how many latent frames the shared first blocks hold."""
        return sum(block_sizes(student, self.latents.shape[1])[: self.shared])


@dataclass(frozen=True)
class Groups:
    """Draws groups of rollouts.

    Attributes:
        config: size of a group and what it shares. train: prompts of an update, and the type of the arithmetic.
        data: the prompts to draw from, and the length of a clip.
        codec, levels: what decodes clips, and the sampler's levels.
        rerender: draws rollouts again before they are judged; None: they are judged as they are.
    """

    config: OnPolicyConfig
    train: TrainConfig
    data: TeacherClips
    codec: Codec
    levels: flow.Levels
    rerender: Rerender | None

    def shared_blocks(self, update: int) -> int:
        """Return how many first blocks the groups of this update share: spread evenly over the updates."""
        share = self.config.shared_share
        return self.config.shared_blocks if int((update + 1) * share) > int(update * share) or share == 1 else 0

    @torch.no_grad()
    def draw(
        self,
        policy: StudentModule,
        generator: torch.Generator,
        update: int,
        view: Callable[[Tensor], Tensor] | None,
        size: tuple[int, int] | None = None,
    ) -> Rollouts:
        """Return rollouts of ``policy`` for an update, decoded and seen through ``view`` unless that is None.

        ``size`` is (P, K) where it is not the recipe's.
        """
        prompts, group = size or (self.train.prompts, self.config.group)
        shared = self.shared_blocks(update)
        index = [p for p in self.data.pick_prompts(prompts, generator) for _ in range(group)]
        texts = [self.data.prompts[p] for p in index]
        seeds = torch.randint(2**62, (2, len(index)), generator=generator)
        opening = seeds[1].reshape(prompts, group)[:, :1].expand(-1, group).flatten()
        latents, states, levels = self._chain(policy, texts, seeds[0], opening, shared)
        judged = latents
        if view is None:
            return Rollouts(texts, index, group, shared, latents, states, levels, judged, torch.empty(0), {})
        if self.rerender is not None:
            judged = self.rerender(latents, texts, int(torch.randint(2**62, (1,), generator=generator)))
        frames, stats = shown(judged, self.codec, view)
        probes = {k: stats[k] for k in ("brightness", "sharpness")}
        return Rollouts(texts, index, group, shared, latents, states, levels, judged, frames, probes)

    def _chain(
        self, policy: StudentModule, texts: list[str], seeds: Tensor, opening: Tensor, shared: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``roll_chain`` returns for rows with ``seeds`` [B], whose groups share seeds ``opening`` [B]."""
        frames, parts = self.data.latents.shape[1], []
        size = clips_at_once(policy, frames)
        for low in range(0, len(texts), size):
            rows = slice(low, low + size)
            noise = SeededNoise(seeds[rows].tolist(), opening[rows].tolist(), shared)
            with torch.autocast(policy.device.type, torch.bfloat16, enabled=self.train.bf16):
                text = policy.encode_text(texts[rows])
                parts.append(roll_chain(policy, text, len(texts[rows]), self.levels, noise, frames))
        latents, states, levels = zip(*parts, strict=True)
        return torch.cat(latents), torch.cat(states, 1), torch.cat(levels, 1)


@torch.no_grad()
def shown(latents: Tensor, codec: Codec, view: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Decode [N, F, C, h, w]; return what ``view`` keeps of the clips and trivial statistics [N] of them.

    A few at a time, fewer if they are large: decoded clips take a thousand times the memory of what is kept.
    """
    batch = min(64, max(1, _DECODED_AT_ONCE // latents[0].numel()))
    frames, stats = [], []
    for part in latents.split(batch):
        clips = codec.decode(part).clamp(0, 1)
        frames.append(view(clips))
        stats.append(gauges.statistics(clips[:, ::4]))
    return torch.cat(frames), {name: torch.cat([values[name] for values in stats]) for name in stats[0]}
