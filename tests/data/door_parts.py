"""Plug-ins as a user may write them: the tests of the door give them as objects, and name them as ``door_parts:Name``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import understudy as us
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.objectives.afd.config import AFDConfig
from understudy.objectives.build import build_objective
from understudy.students.bundle import ClipForm
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec


class Grey:
    """A teacher whose clips are one shade of grey."""

    terms = "mine"

    def __init__(self, shade: int = 200) -> None:
        self.name = f"grey-{shade}"
        self.shade = shade

    def generate(self, prompt: str, seed: int, params: us.ClipParams) -> us.Clip:
        rng = np.random.default_rng(seed)
        return us.Clip(rng.integers(self.shade - 20, self.shade, (8, 16, 16, 3), dtype=np.uint8), 12.0)


class Forgetful(Grey):
    def generate(self, prompt: str, seed: int, params: us.ClipParams) -> us.Clip:
        raise ValueError("no film in the camera")


class Jobs:
    """A teacher that takes jobs, which are done at the second question."""

    name, terms = "jobs-1", "mine"

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def submit(self, request: Any) -> str:
        return f"job-{request.seed}-{len(request.prompt)}"

    def poll(self, handle: str) -> us.JobStatus:
        self.asked[handle] = self.asked.get(handle, 0) + 1
        return us.JobStatus("done" if self.asked[handle] > 1 else "running")

    def download(self, handle: str, status: us.JobStatus, path: Any) -> None:
        Grey().generate("", 0, us.ClipParams()).save(path)


def brightness(clips: Sequence[us.Clip], prompts: Sequence[str]) -> list[float]:
    return [float(clip.frames.mean()) for clip in clips]


def motion(clips: Sequence[us.Clip], prompts: Sequence[str]) -> list[float]:
    return [float(np.abs(np.diff(clip.frames.astype(float), axis=0)).mean()) for clip in clips]


@dataclass
class Near:
    """A reward with a setting."""

    shade: float = 0.0

    def __call__(self, clips: Sequence[us.Clip], prompts: Sequence[str]) -> list[float]:
        return [-abs(float(clip.frames.mean()) - self.shade) for clip in clips]


class Wrong:
    """A reward that fails in its own way."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def __call__(self, clips: Sequence[us.Clip], prompts: Sequence[str]) -> Any:
        if self.how == "raises":
            return [1 / 0 for _ in clips]
        return {
            "few": [0.0],
            "nan": [float("nan")] * len(clips),
            "huge": [10**400] * len(clips),
            "none": None,
            "words": ["good"] * len(clips),
        }[self.how]


class Mean(us.Discriminator):
    """The smallest discriminator: a line on the mean colour."""

    def __init__(self, bad: str = "") -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.bad = bad

    def prepare(self, clips: Tensor) -> Tensor:
        return clips[:, ::4] * 2 - 1

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1)

    def logits(self, prepared: Tensor, text: Tensor) -> Tensor:
        if self.bad == "raises":
            raise KeyError("no such layer")
        scores: Tensor = self.line(prepared.mean((1, 3, 4)))
        return scores if self.bad == "shape" else scores[:, 0]


def afd(inputs: us.Inputs, section: Any, beta: float = 0.5) -> us.Objective:
    """AFD, by way of the user's own module."""
    settings = AFDConfig(group=section.group, beta=beta, reward=section.reward)
    return build_objective(settings, inputs.train, inputs.run, inputs.data, inputs.start)


def idle(inputs: us.Inputs, section: Any) -> Any:
    return object()


class Restless:
    """An objective that returns nonsense."""

    def __init__(self, inputs: us.Inputs, section: Any) -> None:
        self.inner = afd(inputs, section)
        self.steps = self.inner.steps

    def initial_state(self, student: Any) -> Any:
        return self.inner.initial_state(student)

    def prepare(self, state: Any) -> None:
        self.inner.prepare(state)

    def step(self, state: Any) -> str:
        return "done"


class MyStudent(CausalVideoTransformer):
    """A family of the user's own."""

    kind = "door-parts"


def tiny(seed: int = 0, family: type[CausalVideoTransformer] = CausalVideoTransformer) -> us.Bundle:
    """A student of a few weights that draws 8 frames of 16x16 at 12 fps, in four blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = TransformerSpec(
            channels=4, height=2, width=2, dim=16, depth=1, heads=2, max_frames=4, vocabulary=("red", "ball")
        )
        codec, student = SmallCodec(SmallCodecSpec(channels=4, width=8)), family(spec)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return us.Bundle(student, codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "tiny")


def mine() -> us.Bundle:
    return tiny(family=MyStudent)


def nothing() -> None:
    return None
