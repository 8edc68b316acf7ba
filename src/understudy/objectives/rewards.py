"""Rewards as verdict: any callables on finished clips, weighted, beside a discriminator or instead of it.

Shape legend: B = P K rollouts, F latent frames, C channels, h/w latents, T frames of H/W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from understudy.codecs.base import Codec, to_frames
from understudy.errors import PluginError
from understudy.objectives import losses
from understudy.objectives.adversary import Adversary
from understudy.objectives.rollouts import Groups, Rollouts
from understudy.objectives.verdict import Verdict, View
from understudy.plugins import guarded
from understudy.rewards.base import Reward
from understudy.students.base import StudentModule
from understudy.training.state import TrainState
from understudy.video.clips import Clip
from understudy.video.mp4 import Frames

_DECODED_AT_ONCE = 16  # clips
_LARGEST = 1e18  # of a score: it is squared in float32


class RewardVerdict(Verdict):
    """A weighted sum of rewards, and of the discriminator's scores with weight 1 if there is one.

    Rewards see what the student itself drew, decoded; the discriminator sees what it is used to. Where there are several,
    each is centred within its prompts and divided by its spread over the batch first, so that weights compare.
    """

    def __init__(
        self, rewards: Mapping[str, tuple[float, Reward]], codec: Codec, fps: float, adversary: Adversary | None
    ) -> None:
        self.rewards, self.codec, self.fps, self.adversary = rewards, codec, fps, adversary
        self.inner = Verdict() if adversary is None else adversary
        self.warmup = self.inner.warmup

    def add_to(self, state: TrainState, student: StudentModule) -> None:
        """Add what the discriminator learns with, if there is one."""
        self.inner.add_to(state, student)

    def prepare(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Prepare the discriminator; return its shortcut probe."""
        return self.inner.prepare(state, groups)

    def view(self, state: TrainState) -> View | None:
        """Return what the discriminator keeps of clips; without one, the clips themselves are kept for the rewards."""
        return _pixels if self.adversary is None else self.adversary.view(state)

    def warm_up(self, state: TrainState, groups: Groups) -> dict[str, float]:
        """Do one step of the discriminator's warm-up."""
        return self.inner.warm_up(state, groups)

    def learn(self, state: TrainState, own: Rollouts) -> dict[str, float]:
        """Let the discriminator learn; ask every reward, and return its mean and spread."""
        values = dict(self.inner.learn(state, own))
        clips = [Clip(video, self.fps) for video in self._videos(own)]
        for name, (_, reward) in self.rewards.items():
            scores = asked(name, reward, clips, own.prompts)
            state.tensors[_key(name)] = scores
            values[f"reward_{name}"] = float(scores.mean())
            values[f"spread_{name}"] = float(scores.unflatten(0, (-1, own.group)).std(1, correction=0).mean())
        return values

    def scores(self, state: TrainState, own: Rollouts) -> Tensor:
        """Return the sum [P, K] of what was asked in ``learn``, centred within its prompts: only differences count."""
        parts = []
        for name, (weight, _) in self.rewards.items():
            scores = state.tensors.pop(_key(name)).unflatten(0, (-1, own.group))
            parts.append((weight, (scores - scores.mean(1, keepdim=True)).float()))  # small differences of large scores
        if self.adversary is not None:
            parts.append((1.0, self.adversary.scores(state, own).cpu()))
        if len(parts) == 1:
            return parts[0][0] * parts[0][1]
        return torch.stack([weight * losses.advantage(scores, "batch") for weight, scores in parts]).sum(0)

    @torch.no_grad()
    def _videos(self, own: Rollouts) -> Iterator[Frames]:
        """Yield what the student drew, uint8 [T, H, W, 3]."""
        if self.adversary is None:
            yield from own.frames.numpy()
            return
        for part in own.latents.split(_DECODED_AT_ONCE):
            yield from to_frames(self.codec.decode(part).clamp(0, 1))


def asked(name: str, reward: Reward, clips: Sequence[Clip], prompts: Sequence[str]) -> Tensor:
    """Return the scores [B] of ``reward``, checked, in float64.

    Raises:
        PluginError: it fails, or returns something else than B finite numbers.
    """
    found = guarded(f"reward {name!r}", reward, clips, prompts)
    try:
        scores = [float(score) for score in found]
    except (TypeError, ValueError, OverflowError):
        raise PluginError(f"reward {name!r} returned {type(found).__name__}, not one number for each clip") from None
    if len(scores) != len(clips):
        raise PluginError(f"reward {name!r} returned {len(scores)} scores for {len(clips)} clips")
    for prompt, score in zip(prompts, scores, strict=True):
        if not abs(score) <= _LARGEST:
            raise PluginError(f"reward {name!r} returned {score} for a clip of {prompt!r}: scores are finite numbers")
    return torch.tensor(scores, dtype=torch.float64)


def _pixels(clips: Tensor) -> Tensor:
    """Return clips [B, T, 3, H, W] in [0, 1] as uint8 [B, T, H, W, 3] on the CPU."""
    return torch.from_numpy(to_frames(clips))


def _key(name: str) -> str:
    return f"reward.{name}"
