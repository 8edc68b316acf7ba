"""Adversarial flow distillation: one step, in the order of the paper (2605.26105).

Departures from it that full-parameter training of a small student needed: the prior policy may be a slow average instead
of the frozen start, groups may share the noise of their first blocks, the old policy follows quickly. Each is a setting.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy import flow, objective
from understudy.codecs.base import Codec
from understudy.config import AFDConfig, DiscriminatorConfig, TrainConfig
from understudy.discriminators import gauges
from understudy.discriminators.canonical import levels_below, rerender
from understudy.discriminators.clip_cnn import ClipCnn, ClipCnnSpec
from understudy.students.base import StudentModule, block_sizes
from understudy.students.rollout import SeededNoise, roll_clip
from understudy.training.data import TeacherClips
from understudy.training.state import StepReport, TrainState, average_into, set_rate
from understudy.training.update import Loss, student_update


@dataclass(frozen=True)
class Rollouts:
    """K rollouts for each of P prompts, B = P K.

    Attributes:
        prompts: B texts. index: B prompt indices.
        latents: clean latents [B, F, C, h, w].
        frames: decoded clips as the discriminator sees them [B, T, 3, s, s] in [-1, 1].
        probes: statistics [B] by name, for the correlation gauges.
    """

    prompts: list[str]
    index: list[int]
    latents: Tensor
    frames: Tensor
    probes: dict[str, Tensor]


class AFD:
    """The objective behind ``kind: afd``. It holds no state of its own beyond fixed inputs: that is in ``TrainState``."""

    def __init__(
        self,
        config: AFDConfig,
        train: TrainConfig,
        discriminator: DiscriminatorConfig,
        data: TeacherClips,
        codec: Codec,
        levels: flow.Levels,
        seed: int,
    ) -> None:
        self.config, self.train, self.judge = config, train, discriminator
        self.data, self.codec, self.levels, self.seed = data, codec, levels, seed
        self.warmup = discriminator.warmup if config.reward == "discriminator" else 0
        self.steps = self.warmup + train.steps
        self._teacher_frames = torch.empty(0)
        self._start: StudentModule

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        modules = {name: copy.deepcopy(student) for name in ("student", "ema", "old", "prior")}
        for name in ("ema", "old", "prior"):
            modules[name].requires_grad_(False)
        judge = self.judge
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            spec = ClipCnnSpec(judge.size, judge.width, judge.noise, judge.skip_frames, vocabulary=student.vocabulary)
            network = ClipCnn(spec).to(student.device)
        optimisers: dict[str, torch.optim.Optimizer] = {
            "student": torch.optim.AdamW(
                modules["student"].parameters(),
                self.train.lr,
                (0.9, 0.98),
                weight_decay=self.train.weight_decay,
            ),
            "discriminator": torch.optim.AdamW(network.parameters(), judge.lr, (0.5, 0.95), weight_decay=1e-4),
        }
        generator = torch.Generator().manual_seed(self.seed)
        return TrainState({**modules, "discriminator": network}, optimisers, generator)

    def prepare(self, state: TrainState, start: StudentModule) -> dict[str, float]:
        """Bring the teacher's clips to canonical form; return the shortcut probe against start rollouts.

        Deterministic, so it is repeated on resume instead of being saved.
        """
        self._start = start
        network = _network(state)
        latents = self._redrawn(self.data.latents, self.data.row_prompts, self.seed)
        self._teacher_frames = network.prepare(self._decode(latents))
        generator = torch.Generator().manual_seed(self.seed)
        own = self._roll(start, network, generator, prompts=8, group=4, shared=self._shared_blocks(0))
        rows = self.data.pick_rows(own.index, generator)
        return gauges.shortcut_probe((self._teacher_frames[rows] + 1) / 2, (own.frames + 1) / 2)

    def step(self, state: TrainState) -> StepReport:
        """Do one step: a discriminator-only one during warm-up, else rollouts, verdict, update."""
        network, old = _network(state), state.policy("old")
        if state.step < self.warmup:
            return self._warm_up(state, network, old)
        update = state.step - self.warmup
        shared = self._shared_blocks(update)
        own = self._roll(old, network, state.generator, self.train.prompts, self.config.group, shared)
        values: dict[str, float] = {}
        if self.config.reward == "discriminator":
            for _ in range(self.judge.steps):
                values = self._discriminate(state, network, own.frames, own.prompts, own.index, self.judge.lr)
            scores = self._scores(network, own).unflatten(0, (-1, self.config.group))
        else:
            scores = torch.randn(self.train.prompts, self.config.group, generator=state.generator)
        advantages = objective.advantage(scores, self.config.scope)
        weights = objective.weight(advantages, self.config.limit).flatten()
        values |= self._gauges(scores, weights, own)
        set_rate(
            state.optimisers["student"],
            self.train.lr,
            update,
            self.train.steps,
            self.train.warmup,
            self.train.decay,
        )
        values |= student_update(state, self.train, self._loss(state, own, weights, shared), len(weights))
        average_into(state.modules["ema"], state.modules["student"], min(self.train.ema, update / (update + 5)))
        average_into(old, state.modules["student"], min(self.config.old_decay, 0.02 * update))
        if self.config.prior_policy == "slow":
            average_into(state.modules["prior"], state.modules["ema"], 0.97)
        return StepReport(state.step, "update", values)

    def _shared_blocks(self, update: int) -> int:
        """Return how many first blocks the groups of this update share: spread evenly over the updates."""
        share = self.config.shared_share
        return self.config.shared_blocks if int((update + 1) * share) > int(update * share) or share == 1 else 0

    @torch.no_grad()
    def _roll(
        self,
        policy: StudentModule,
        network: ClipCnn,
        generator: torch.Generator,
        prompts: int,
        group: int,
        shared: int,
    ) -> Rollouts:
        index = [p for p in self.data.pick_prompts(prompts, generator) for _ in range(group)]
        texts = [self.data.prompts[p] for p in index]
        seeds = torch.randint(2**62, (2, len(index)), generator=generator)
        opening = seeds[1].reshape(prompts, group)[:, :1].expand(-1, group).flatten()
        noise = SeededNoise(seeds[0].tolist(), opening.tolist(), shared)
        text = policy.encode_text(texts)
        latents = roll_clip(policy, text, len(index), self.levels, noise, self.data.latents.shape[1])
        judged = latents
        if self.judge.rerender_own:
            judged = self._redrawn(latents, texts, int(torch.randint(2**62, (1,), generator=generator)))
        clips = self._decode(judged)
        stats = gauges.statistics(clips[:, ::4])
        return Rollouts(
            texts, index, latents, network.prepare(clips), {k: stats[k] for k in ("brightness", "sharpness")}
        )

    def _redrawn(self, latents: Tensor, prompts: list[str], seed: int) -> Tensor:
        """Return clips [N, F, C, h, w] drawn again by the start student, as they are if the recipe asks for none."""
        level = self.judge.rerender
        if level is None:
            return latents
        return rerender(self._start, latents, prompts, levels_below(level, self.levels), seed)

    def _decode(self, latents: Tensor, batch: int = 64) -> Tensor:
        """Decode [N, F, C, h, w] into clips [N, T, 3, H, W] clamped to [0, 1]."""
        with torch.no_grad():
            return torch.cat([self.codec.decode(part).clamp(0, 1) for part in latents.split(batch)])

    def _warm_up(self, state: TrainState, network: ClipCnn, start: StudentModule) -> StepReport:
        group, prompts = self.config.group, self.train.prompts
        if "pool_frames" not in state.tensors:
            parts = [
                self._roll(start, network, state.generator, prompts, group, self._shared_blocks(0))
                for _ in range(-(-self.judge.pool // (prompts * group)))
            ]
            state.tensors["pool_frames"] = torch.cat([part.frames for part in parts])
            state.tensors["pool_index"] = torch.tensor([i for part in parts for i in part.index])
        frames, index = state.tensors["pool_frames"], state.tensors["pool_index"]
        rows = torch.randint(len(frames), (prompts * group,), generator=state.generator)
        chosen = index[rows].tolist()
        texts = [self.data.prompts[p] for p in chosen]
        values = self._discriminate(state, network, frames[rows], texts, chosen, self.judge.lr or 5e-4)
        if state.step + 1 == self.warmup:
            del state.tensors["pool_frames"], state.tensors["pool_index"]
        return StepReport(state.step, "warm-up", values)

    def _discriminate(
        self,
        state: TrainState,
        network: ClipCnn,
        fake: Tensor,
        prompts: list[str],
        index: list[int],
        lr: float,
    ) -> dict[str, float]:
        """One discriminator step on pairs of the same prompt; returns its gauges."""
        judge, generator = self.judge, state.generator
        real = self._teacher_frames[self.data.pick_rows(index, generator)]
        both = torch.cat([real, fake])
        both = both + judge.noise * _noise(both, generator)
        text = network.encode_text(prompts).repeat(2, 1)
        scores = network.logits(both, text)
        d_real, d_fake = scores.detach().chunk(2)
        health = gauges.health(d_real, d_fake, d_fake[None])
        paired = objective.paired_loss(*scores.chunk(2)).mean()
        values = {"d_loss": paired.item(), "pair_accuracy": health.accuracy, "margin": health.margin}
        running = 0.8 * state.tensors.get("accuracy", torch.tensor(0.5)) + 0.2 * health.accuracy
        state.tensors["accuracy"] = running
        if float(running) > judge.ceiling:
            return {**values, "d_rested": 1.0}
        nudged = network.logits(both + judge.sigma * _noise(both, generator), text)
        penalty = objective.gradient_penalty(scores, nudged, judge.sigma).mean()
        optimiser = state.optimisers["discriminator"]
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        (paired + judge.penalty * penalty).backward()
        optimiser.step()
        return {**values, "d_rested": 0.0, "d_penalty": penalty.item()}

    @torch.no_grad()
    def _scores(self, network: ClipCnn, own: Rollouts) -> Tensor:
        """Return the reward [B]: the verdict without instance noise, which would only blur the ranking."""
        return network.logits(own.frames, network.encode_text(own.prompts))

    def _gauges(self, scores: Tensor, weights: Tensor, own: Rollouts) -> dict[str, float]:
        shape = scores.shape
        probes = {f"corr_{k}": gauges.correlation(scores, v.reshape(shape)) for k, v in own.probes.items()}
        return {
            "score_spread": float(scores.std(dim=1).mean()) if shape[1] > 1 else float(scores.std()),
            "saturated": float(objective.saturated_share(weights)),
            **probes,
        }

    def _loss(self, state: TrainState, own: Rollouts, weights: Tensor, shared: int) -> Loss:
        """Return the loss of a slice of the batch; noise and levels are drawn here, so slices see one draw."""
        config, generator = self.config, state.generator
        b, f = own.latents.shape[:2]
        student, old, prior = (state.policy(name) for name in ("student", "old", "prior"))
        sizes = block_sizes(student, f)
        groups = b // config.group if shared else b
        if config.levels == "sampler":
            levels = flow.draw_levels(self.levels, (groups, len(sizes)), generator)
        else:
            levels = flow.draw_continuous((groups, len(sizes)), generator=generator)
        noise = torch.randn((groups, *own.latents.shape[1:]), generator=generator)
        repeat = b // groups
        levels = flow.per_frame(levels, sizes).repeat_interleave(repeat, 0).to(own.latents)
        noise = noise.repeat_interleave(repeat, 0).to(own.latents)
        noisy, target = objective.noised_state(own.latents, noise, levels)
        scale = objective.level_weight(levels, config.space)
        scale[:, : sum(sizes[:shared])] = 0

        def loss(rows: slice) -> tuple[Tensor, dict[str, float]]:
            clean, x, t, texts = own.latents[rows], noisy[rows], levels[rows], own.prompts[rows]
            v = student.teacher_forced(clean, x, t, student.encode_text(texts))
            with torch.no_grad():
                v_old = old.teacher_forced(clean, x, t, old.encode_text(texts))
                v_prior = prior.teacher_forced(clean, x, t, prior.encode_text(texts))
            policy = objective.forward_process_loss(v, v_old, target[rows], weights[rows], config.beta)
            pull = objective.frame_error(v, v_prior)
            drift = (scale[rows] * pull).mean()
            total = (scale[rows] * policy).mean() + config.prior * drift
            return total, {"loss": total.item(), "drift": drift.item()}

        return loss


def _network(state: TrainState) -> ClipCnn:
    network = state.modules["discriminator"]
    assert isinstance(network, ClipCnn)
    return network


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
