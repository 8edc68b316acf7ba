"""Adversarial flow distillation: one step, in the order of the paper (2605.26105).

Departures from it that full-parameter training of a small student needed: the prior policy may be a slow average instead
of the frozen start, groups may share the noise of their first blocks, the old policy follows quickly. Each is a setting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from understudy import flow, objective
from understudy.codecs.base import Codec
from understudy.config import AFDConfig, JudgeConfig, LoraConfig, OnPolicyConfig, TrainConfig
from understudy.discriminators import gauges
from understudy.discriminators.base import Discriminator
from understudy.discriminators.build import build_discriminator
from understudy.discriminators.canonical import levels_below, rerender, rerender_often
from understudy.students.base import StudentModule, block_sizes, by_block, in_parallel
from understudy.students.rollout import SeededNoise, clips_at_once, roll_chain
from understudy.training.data import TeacherClips
from understudy.training.state import StepReport, TrainState, average_into, policies, set_rate
from understudy.training.update import Loss, Parts, student_update

_DECODED_AT_ONCE = 1 << 20  # latent numbers: 64 clips of the small students, one of Wan's


@dataclass(frozen=True)
class Rollouts:
    """K rollouts for each of P prompts, B = P K.

    Attributes:
        prompts: B texts. index: B prompt indices.
        latents: clean latents [B, F, C, h, w].
        states: what the sampler visited on the way [S, B, F, C, h, w], S levels.
        levels: the levels of these states [S, B, F].
        judged: the latents behind ``frames``: the rollouts, or what the start student drew of them.
        frames: decoded clips as the discriminator sees them [B, T', 3, H', W'] in [-1, 1].
        probes: statistics [B] by name, for the correlation gauges.
    """

    prompts: list[str]
    index: list[int]
    latents: Tensor
    states: Tensor
    levels: Tensor
    judged: Tensor
    frames: Tensor
    probes: dict[str, Tensor]


Settings = TypeVar("Settings", bound=OnPolicyConfig)


class OnPolicy(Generic[Settings]):
    """What all objectives on own rollouts share: rollouts, discriminator, averages; the update itself is ``learn``.

    It holds no state of its own beyond fixed inputs: that is in ``TrainState``.
    """

    def __init__(
        self,
        config: Settings,
        train: TrainConfig,
        discriminator: JudgeConfig,
        data: TeacherClips,
        codec: Codec,
        levels: flow.Levels,
        seed: int,
        fps: float,
        lora: LoraConfig | None = None,
    ) -> None:
        self.config, self.train, self.judge, self.fps, self.lora = config, train, discriminator, fps, lora
        self.data, self.codec, self.levels, self.seed = data, codec, levels, seed
        self._seen, self._unseen = data.split(discriminator.held_out, seed)
        self.warmup = self.warmup_steps
        self.steps = self.warmup + train.steps
        self._teacher_frames = torch.empty(0)
        self._start: StudentModule

    @property
    def adversarial(self) -> bool:
        """Whether there is a discriminator to train."""
        return True

    @property
    def _drawings(self) -> int:
        """How often each teacher clip is there: clips as they are would be the same each time."""
        return 1 if self.judge.rerender is None else self.judge.redraws

    @property
    def warmup_steps(self) -> int:
        """Steps before the student moves."""
        return self.judge.warmup if self.adversarial else 0

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Update the student once on its rollouts, whose first ``shared`` blocks a group has in common."""
        raise NotImplementedError

    def initial_state(self, student: StudentModule) -> TrainState:
        """Return the state before the first step."""
        fixed = "prior" if self.config.prior_policy == "start" else None
        modules = policies(student, self.lora, self.seed, "ema", "old", "prior", reference=fixed)
        judge = self.judge
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_discriminator(judge, self.fps, student.vocabulary).to(student.device)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimisers: dict[str, torch.optim.Optimizer] = {
            "student": torch.optim.AdamW(
                [p for p in modules["student"].parameters() if p.requires_grad],
                self.train.lr,
                (0.9, 0.98),
                weight_decay=self.train.weight_decay,
            ),
            "discriminator": torch.optim.AdamW(trained, judge.lr, (0.5, 0.95), weight_decay=1e-4),
        }
        modules["discriminator"] = network
        return TrainState(modules, optimisers, torch.Generator().manual_seed(self.seed))

    def prepare(self, state: TrainState, start: StudentModule) -> dict[str, float]:
        """Bring the teacher's clips to canonical form; return the shortcut probe against start rollouts.

        Deterministic, so it is repeated on resume instead of being saved.
        """
        self._start = start
        network = network_of(state)
        drawn, level = self.data.latents, self.judge.rerender
        if level is not None:
            levels = levels_below(level, self.levels)
            drawn = rerender_often(start, drawn, self.data.row_prompts, levels, self.seed, self._drawings)
        self._teacher_frames = self._shown(drawn, network)[0]
        generator = torch.Generator().manual_seed(self.seed)
        own = self._roll(start, network, generator, prompts=8, group=4, shared=self._shared_blocks(0))
        return gauges.shortcut_probe(
            (self._shown_by_teacher(self.data, own.index, generator) + 1) / 2, (own.frames + 1) / 2
        )

    def _shown_by_teacher(self, clips: TeacherClips, index: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw one of the teacher's ``clips`` for every prompt index, as the discriminator sees it [B, T', 3, H', W']."""
        return self._teacher_frames[clips.pick_drawings(index, self._drawings, generator)]

    def step(self, state: TrainState) -> StepReport:
        """Do one step: a discriminator-only one during warm-up, else rollouts, verdict, update."""
        network, old = network_of(state), state.policy("old")
        if state.step < self.warmup:
            return self._warm_up(state, network, old)
        update = state.step - self.warmup
        shared = self._shared_blocks(update)
        own = self._roll(old, network, state.generator, self.train.prompts, self.config.group, shared)
        values: dict[str, float] = {}
        if self.adversarial:
            values |= self._gauge_unseen(state, network, own)
            for _ in range(self.judge.steps):
                values |= self._discriminate(state, network, own.frames, own.prompts, own.index, self.judge.lr)
        set_rate(
            state.optimisers["student"],
            self.train.lr,
            update,
            self.train.steps,
            self.train.warmup,
            self.train.decay,
        )
        values |= self.learn(state, own, update, shared)
        self._average(state, update)
        return StepReport(state.step, "update", values)

    def _average(self, state: TrainState, update: int) -> None:
        """Let the averaged, old and prior policies follow the student."""
        average_into(state.modules["ema"], state.modules["student"], min(self.train.ema, update / (update + 5)))
        average_into(state.modules["old"], state.modules["student"], min(self.config.old_decay, 0.02 * update))
        if self.config.prior_policy == "slow":
            average_into(state.modules["prior"], state.modules["ema"], 0.97)

    def _shared_blocks(self, update: int) -> int:
        """Return how many first blocks the groups of this update share: spread evenly over the updates."""
        share = self.config.shared_share
        return self.config.shared_blocks if int((update + 1) * share) > int(update * share) or share == 1 else 0

    @torch.no_grad()
    def _roll(
        self,
        policy: StudentModule,
        network: Discriminator,
        generator: torch.Generator,
        prompts: int,
        group: int,
        shared: int,
    ) -> Rollouts:
        texts, index, chain = self._chain(policy, generator, prompts, group, shared)
        latents, states, levels = chain
        judged = latents
        if self.judge.rerender_own:
            judged = self._redrawn(latents, texts, int(torch.randint(2**62, (1,), generator=generator)))
        frames, stats = self._shown(judged, network)
        probes = {k: stats[k] for k in ("brightness", "sharpness")}
        return Rollouts(texts, index, latents, states, levels, judged, frames, probes)

    @torch.no_grad()
    def _chain(
        self, policy: StudentModule, generator: torch.Generator, prompts: int, group: int, shared: int
    ) -> tuple[list[str], list[int], tuple[Tensor, Tensor, Tensor]]:
        """Return prompts, their indices, and what ``roll_chain`` returns."""
        index = [p for p in self.data.pick_prompts(prompts, generator) for _ in range(group)]
        texts = [self.data.prompts[p] for p in index]
        seeds = torch.randint(2**62, (2, len(index)), generator=generator)
        opening = seeds[1].reshape(prompts, group)[:, :1].expand(-1, group).flatten()
        frames, parts = self.data.latents.shape[1], []
        size = clips_at_once(policy, frames)
        for low in range(0, len(index), size):
            rows = slice(low, low + size)
            noise = SeededNoise(seeds[0, rows].tolist(), opening[rows].tolist(), shared)
            with torch.autocast(policy.device.type, torch.bfloat16, enabled=self.train.bf16):
                text = policy.encode_text(texts[rows])
                parts.append(roll_chain(policy, text, len(texts[rows]), self.levels, noise, frames))
        latents, states, levels = zip(*parts, strict=True)
        return texts, index, (torch.cat(latents), torch.cat(states, 1), torch.cat(levels, 1))

    def _redrawn(self, latents: Tensor, prompts: list[str], seed: int) -> Tensor:
        """Return clips [N, F, C, h, w] drawn again by the start student, as they are if the recipe asks for none."""
        level = self.judge.rerender
        if level is None:
            return latents
        return rerender(self._start, latents, prompts, levels_below(level, self.levels), seed)

    @torch.no_grad()
    def _shown(self, latents: Tensor, network: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode [N, F, C, h, w]; return clips as the discriminator sees them and trivial statistics [N] of them.

        A few at a time, fewer if they are large: decoded clips take a thousand times the memory of what is kept.
        """
        batch = min(64, max(1, _DECODED_AT_ONCE // latents[0].numel()))
        frames, stats = [], []
        for part in latents.split(batch):
            clips = self.codec.decode(part).clamp(0, 1)
            frames.append(network.prepare(clips))
            stats.append(gauges.statistics(clips[:, ::4]))
        return torch.cat(frames), {name: torch.cat([values[name] for values in stats]) for name in stats[0]}

    def _warm_up(self, state: TrainState, network: Discriminator, start: StudentModule) -> StepReport:
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
        lr = self.judge.lr or type(self.judge).model_fields["lr"].default
        values = self._discriminate(state, network, frames[rows], texts, chosen, lr)
        if state.step + 1 == self.warmup:
            del state.tensors["pool_frames"], state.tensors["pool_index"]
        return StepReport(state.step, "warm-up", values)

    def _discriminate(
        self,
        state: TrainState,
        network: Discriminator,
        fake: Tensor,
        prompts: list[str],
        index: list[int],
        lr: float,
    ) -> dict[str, float]:
        """One discriminator step on pairs of the same prompt; returns its gauges."""
        judge, generator = self.judge, state.generator
        rows = [row for row, prompt in enumerate(index) if self._seen.rows[prompt]]
        if not rows:
            return {}
        fake, prompts, index = fake[rows], [prompts[row] for row in rows], [index[row] for row in rows]
        real = self._shown_by_teacher(self._seen, index, generator)
        both = torch.cat([real, fake])
        both = both + judge.noise * noise_like(both, generator)
        text = network.encode_text(prompts).repeat(2, 1)
        scores = network.logits(both, text)
        d_real, d_fake = scores.detach().chunk(2)
        accuracy = gauges.pair_accuracy(d_real, d_fake)
        pairs = objective.paired_loss if judge.loss == "paired" else objective.unpaired_loss
        loss = pairs(*scores.chunk(2)).mean()
        values = {"d_loss": loss.item(), "pair_accuracy": accuracy, "margin": (d_real - d_fake).mean().item()}
        _follow(state, "accuracy", accuracy)
        begun = state.step >= self.warmup
        lr = _led_rate(state, judge, lr, begun)
        values["d_rate"] = lr
        rests_above = judge.rests_above if begun and judge.rests_above is not None else judge.ceiling
        if float(state.tensors["accuracy"]) > rests_above:
            return {**values, "d_rested": 1.0}
        penalty = torch.zeros(())
        if judge.penalty:
            nudged = network.logits(both + judge.sigma * noise_like(both, generator), text)
            penalty = objective.gradient_penalty(scores, nudged, judge.sigma).mean()
        optimiser = state.optimisers["discriminator"]
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        (loss + judge.penalty * penalty if judge.penalty else loss).backward()
        optimiser.step()
        return {**values, "d_rested": 0.0, "d_penalty": penalty.item()}

    @torch.no_grad()
    def _gauge_unseen(self, state: TrainState, network: Discriminator, own: Rollouts) -> dict[str, float]:
        """Return the pair accuracy on teacher clips the discriminator never trains on, against fresh rollouts."""
        rows = [row for row, prompt in enumerate(own.index) if self._unseen.rows[prompt]]
        if not rows:
            return {}
        index, generator = [own.index[row] for row in rows], state.generator
        both = torch.cat([self._shown_by_teacher(self._unseen, index, generator), own.frames[rows]])
        text = network.encode_text([own.prompts[row] for row in rows]).repeat(2, 1)
        real, fake = network.logits(both + self.judge.noise * noise_like(both, generator), text).chunk(2)
        accuracy = gauges.pair_accuracy(real, fake)
        _follow(state, "unseen", accuracy)
        return {"unseen_accuracy": accuracy}

    @torch.no_grad()
    def _scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the reward [P, K]: the verdict without instance noise, which would only blur the ranking."""
        network = network_of(state)
        return network.logits(own.frames, network.encode_text(own.prompts)).unflatten(0, (-1, self.config.group))

    def _draws(self, state: TrainState, own: Rollouts, kind: str, shared: int) -> tuple[Tensor, Tensor]:
        """Return levels [B, F] and noise [B, F, C, h, w] for an update: a group that shares an opening shares both."""
        generator, (b, f) = state.generator, own.latents.shape[:2]
        sizes = block_sizes(state.policy("student"), f)
        groups = b // self.config.group if shared else b
        if kind == "sampler":
            levels = flow.draw_levels(self.levels, (groups, len(sizes)), generator)
        else:
            levels = flow.draw_continuous((groups, len(sizes)), generator=generator)
        noise = torch.randn((groups, *own.latents.shape[1:]), generator=generator)
        repeat = b // groups
        levels = flow.per_frame(levels, sizes).repeat_interleave(repeat, 0).to(own.latents)
        return levels, noise.repeat_interleave(repeat, 0).to(own.latents)

    @torch.no_grad()
    def _prior(self, state: TrainState, own: Rollouts, rows: slice, x: Tensor, t: Tensor) -> Tensor:
        """Return the prior policy's velocities [B, F, C, h, w] at noised states ``x``, for the pull towards it."""
        prior = state.policy("prior")
        return prior.teacher_forced(own.latents[rows], x, t, prior.encode_text(own.prompts[rows]))


class AFD(OnPolicy[AFDConfig]):
    """The objective behind ``kind: afd``: forward-process updates on own rollouts, weighted by the verdict."""

    @property
    def adversarial(self) -> bool:
        """Whether there is a discriminator to train; the random-reward control has none."""
        return self.config.reward == "discriminator"

    def learn(self, state: TrainState, own: Rollouts, update: int, shared: int) -> dict[str, float]:
        """Score the rollouts, turn advantages into weights, and update on the noised rollouts."""
        if self.adversarial:
            scores = self._scores(state, own)
        else:
            scores = torch.randn(self.train.prompts, self.config.group, generator=state.generator)
        advantages = objective.advantage(scores, self.config.scope)
        weights = objective.weight(advantages, self.config.limit).flatten()
        values = gauges.of_rewards(scores, weights, own.probes)
        if self.config.branches == "rectified":
            weights = objective.tilted_weight(advantages, self.config.temperature).flatten()
        return values | student_update(state, self.train, self._loss(state, own, weights, shared), len(weights))

    def _loss(self, state: TrainState, own: Rollouts, weights: Tensor, shared: int) -> Loss:
        """Return the loss of a slice of the batch; noise and levels are drawn here, so slices see one draw."""
        config = self.config
        student, old, prior = (state.policy(name) for name in ("student", "old", "prior"))
        levels, noise = self._draws(state, own, config.levels, shared)
        noisy, target = objective.noised_state(own.latents, noise, levels)
        past = own.latents if config.context == "clean" else noisy
        scale = objective.level_weight(levels, config.space)
        scale[:, : opening(student, own.latents, shared)] = 0

        velocities = by_block if config.by_block else in_parallel

        def fixed(policy: StudentModule, rows: slice) -> Tensor:
            parts = velocities(policy, past[rows], noisy[rows], levels[rows], own.prompts[rows])
            return torch.cat([v for _, v in parts], dim=1)

        def loss(rows: slice) -> Parts:
            with torch.no_grad():
                v_old = None if config.branches == "positive" else fixed(old, rows)
                v_prior = fixed(prior, rows)
            for part, v in velocities(student, past[rows], noisy[rows], levels[rows], own.prompts[rows]):
                goal, share = target[rows][:, part], v.shape[1] / target.shape[1]
                if v_old is None:
                    policy = objective.positive_loss(v, goal, weights[rows])
                elif config.branches == "rectified":
                    policy = objective.rectified_loss(v, v_old[:, part], goal, weights[rows])
                else:
                    policy = objective.forward_process_loss(v, v_old[:, part], goal, weights[rows], config.beta)
                own_scale = scale[rows][:, part]
                drift = (own_scale * objective.frame_error(v, v_prior[:, part])).mean() * share
                total = (own_scale * policy).mean() * share + config.prior * drift
                yield total, {"loss": total.item(), "drift": drift.item()}

        return loss


def opening(student: StudentModule, latents: Tensor, blocks: int) -> int:
    """Return how many latent frames the first ``blocks`` blocks of [B, F, C, h, w] hold."""
    return sum(block_sizes(student, latents.shape[1])[:blocks])


def _follow(state: TrainState, name: str, accuracy: float) -> None:
    """Keep the running mean of a pair accuracy, from a half on."""
    state.tensors[name] = 0.8 * state.tensors.get(name, torch.tensor(0.5)) + 0.2 * accuracy


def _led_rate(state: TrainState, judge: JudgeConfig, lr: float, begun: bool) -> float:
    """Return the discriminator's learning rate: ``lr``, or, if the recipe asks for that, led by the pair accuracy.

    That of the pairs it trains on: one that has learnt them by heart is right about all and slows down, while on clips
    held out from it a healthy one is right about two thirds, which would drive the rate to its upper end. Until the
    student's updates have ``begun`` the rate moves in larger steps, so that where it began is forgotten by then.
    """
    if judge.controller == "none":
        return lr
    before = float(state.tensors.get("rate", torch.tensor(judge.lr)))
    factor = 1.2 if begun else 1.5
    rate = gauges.controlled_rate(before, float(state.tensors["accuracy"]), judge.band, judge.rates, factor)
    state.tensors["rate"] = torch.tensor(rate, dtype=torch.float64)
    return rate


def network_of(state: TrainState) -> Discriminator:
    """Return the discriminator: it scores prepared clips [B, T', 3, H', W']."""
    network = state.modules["discriminator"]
    assert isinstance(network, Discriminator)
    return network


def noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise in the shape, type and place of ``like`` [B, ...]."""
    return torch.randn(like.shape, generator=generator).to(like)
