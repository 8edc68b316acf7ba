"""The discriminator as verdict: it learns along, on pairs of a teacher's clip and a rollout of the same prompt.

Shape legend: B rollouts, N teacher clips, F latent frames, C channels, h/w latents, T' frames of H'/W' pixels as the
discriminator looks at them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.codecs.base import Codec
from understudy.discriminators.base import Discriminator
from understudy.discriminators.build import build_discriminator
from understudy.discriminators.config import JudgeConfig
from understudy.objectives import gauges, losses
from understudy.objectives.rollouts import Groups, Rollouts, shown
from understudy.objectives.verdict import Verdict, View
from understudy.students.base import StudentModule
from understudy.training.canonical import Rerender
from understudy.training.data import TeacherClips
from understudy.training.state import TrainState, adamw


class Adversary(Verdict):
    """A discriminator trained by the paired loss (GAD, 2511.10643), and its scores."""

    def __init__(
        self, config: JudgeConfig, data: TeacherClips, codec: Codec, rerender: Rerender, seed: int, fps: float
    ) -> None:
        self.config, self.data, self.codec, self.rerender, self.seed, self.fps = (
            config, data, codec, rerender, seed, fps
        )  # fmt: skip
        self.seen, self.unseen = data.split(config.held_out, seed)
        self.warmup = config.warmup
        # Clips as they are would be the same each time.
        self.copies = 1 if rerender.level is None else config.redraws
        self.teacher_frames = torch.empty(0)

    def add_to(self, state: TrainState, student: StudentModule) -> None:
        """Add the network, drawn from the run's seed, and its optimiser."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_discriminator(self.config, self.fps, student.vocabulary, self.data.even_step).to(
                student.device
            )
        state.modules["discriminator"] = network
        state.optimisers["discriminator"] = adamw(network, self.config.lr, (0.5, 0.95), 1e-4)

    def prepare(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Bring the teacher's clips to canonical form; return the shortcut probe against rollouts of the start student."""
        drawn = self.rerender(self.data.latents, self.data.row_prompts, self.seed, self.copies)
        view = self.view(state)
        self.teacher_frames = shown(drawn, self.codec, view)[0]
        generator = torch.Generator().manual_seed(self.seed)
        own = groups.draw(self.rerender.start, generator, 0, view, size=(8, 4))
        return gauges.shortcut_probe((self.draw_real(self.data, own.index, generator) + 1) / 2, (own.frames + 1) / 2)

    def view(self, state: TrainState) -> View:
        """Return what brings clips to the form that the network looks at."""
        return network_of(state).view

    def draw_real(self, clips: TeacherClips, index: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw one of the teacher's ``clips`` for every prompt index, as the network sees it [B, T', 3, H', W']."""
        return self.teacher_frames[clips.pick_drawings(index, self.copies, generator)]

    def warm_up(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Do one step on a pool of the start student's rollouts, drawn by the first one and dropped by the last."""
        batch = groups.train.prompts * groups.config.group
        if "pool_frames" not in state.tensors:
            start, view = state.policy("old"), self.view(state)
            parts = [groups.draw(start, state.generator, 0, view) for _ in range(-(-self.config.pool // batch))]
            state.tensors["pool_frames"] = torch.cat([part.frames for part in parts])
            state.tensors["pool_index"] = torch.tensor([i for part in parts for i in part.index])
        frames, index = state.tensors["pool_frames"], state.tensors["pool_index"]
        rows = torch.randint(len(frames), (batch,), generator=state.generator)
        values = self.train_on(state, frames[rows], index[rows].tolist(), self.config.warmup_lr)
        if state.step + 1 == self.warmup:
            del state.tensors["pool_frames"], state.tensors["pool_index"]
        return values

    def learn(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Gauge it on clips held out from it, then train it against fresh rollouts."""
        values = self._gauge_unseen(state, own)
        for _ in range(self.config.steps):
            values |= self.train_on(state, own.frames, own.index, self.config.lr)
        return values

    @torch.no_grad()
    def scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the scores [P, K], without instance noise, which would only blur the ranking."""
        network = network_of(state)
        return network.logits(own.frames, network.encode_text(own.prompts)).unflatten(0, (-1, own.group))

    def train_on(self, state: TrainState, fake: Tensor, index: list[int], lr: float) -> dict[str, float]:
        """Do one step on pairs of the same prompt; return its gauges.

        ``fake`` are rollouts of the prompts ``index``, as the network looks at them [B, T', 3, H', W'].
        """
        config, generator, network = self.config, state.generator, network_of(state)
        rows = [row for row, prompt in enumerate(index) if self.seen.rows[prompt]]
        if not rows:
            return {}
        fake, index = fake[rows], [index[row] for row in rows]
        real = self.draw_real(self.seen, index, generator)
        both = torch.cat([real, fake])
        both = both + config.noise * noise_like(both, generator)
        text = network.encode_text([self.data.prompts[prompt] for prompt in index]).repeat(2, 1)
        scores = network.logits(both, text)
        d_real, d_fake = scores.detach().chunk(2)
        accuracy = gauges.pair_accuracy(d_real, d_fake)
        pairs = losses.paired_loss if config.loss == "paired" else losses.unpaired_loss
        loss = pairs(*scores.chunk(2)).mean()
        values = {"d_loss": loss.item(), "pair_accuracy": accuracy, "margin": (d_real - d_fake).mean().item()}
        _follow(state, "accuracy", accuracy)
        begun = state.step >= self.warmup
        lr = _led_rate(state, config, lr, begun)
        values["d_rate"] = lr
        rests_above = config.rests_above if begun and config.rests_above is not None else config.ceiling
        if float(state.tensors["accuracy"]) > rests_above:
            return {**values, "d_rested": 1.0}
        penalty = torch.zeros(())
        if config.penalty:
            nudged = network.logits(both + config.sigma * noise_like(both, generator), text)
            penalty = losses.gradient_penalty(scores, nudged, config.sigma).mean()
        optimiser = state.optimisers["discriminator"]
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        (loss + config.penalty * penalty if config.penalty else loss).backward()
        optimiser.step()
        return {**values, "d_rested": 0.0, "d_penalty": penalty.item()}

    @torch.no_grad()
    def _gauge_unseen(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Return the pair accuracy on teacher clips the discriminator never trains on, against fresh rollouts."""
        rows = [row for row, prompt in enumerate(own.index) if self.unseen.rows[prompt]]
        if not rows:
            return {}
        network, index, generator = network_of(state), [own.index[row] for row in rows], state.generator
        both = torch.cat([self.draw_real(self.unseen, index, generator), own.frames[rows]])
        text = network.encode_text([own.prompts[row] for row in rows]).repeat(2, 1)
        real, fake = network.logits(both + self.config.noise * noise_like(both, generator), text).chunk(2)
        accuracy = gauges.pair_accuracy(real, fake)
        _follow(state, "unseen", accuracy)
        return {"unseen_accuracy": accuracy}


def network_of(state: TrainState) -> Discriminator:
    """Return the discriminator: it scores prepared clips [B, T', 3, H', W']."""
    network = state.modules["discriminator"]
    assert isinstance(network, Discriminator)
    return network


def noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise in the shape, type and place of ``like`` [B, ...]."""
    return torch.randn(like.shape, generator=generator).to(like)


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
