"""What is on offer: students by name, and what one session may ask of them. Shape legend: T pixel frames, H/W pixels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from understudy import flow
from understudy.errors import ConfigError, PromptRejected
from understudy.prompts import clean, normalise
from understudy.serving.protocol import StudentFacts
from understudy.serving.scheduler import Limits
from understudy.students.bundle import Bundle
from understudy.students.generate import ClipStream, Drawn
from understudy.students.text import cut_prompts
from understudy.video.mp4 import Frames


class SideBySide:
    """One or two clips drawn from the same noise and shown beside one another."""

    def __init__(
        self, bundles: tuple[Bundle, ...], prompt: str, seed: int, frames: int | None, given: Frames | None = None
    ) -> None:
        self._streams = [ClipStream(bundle, prompt, seed, frames, given) for bundle in bundles]

    def __iter__(self) -> "SideBySide":
        return self

    def __next__(self) -> Drawn:
        """Draw the next block of each: frames [T, H, W, 3], W the sum of the widths."""
        drawn = [next(stream) for stream in self._streams]
        return Drawn(np.concatenate([d.frames for d in drawn], axis=2), sum(d.cache_bytes for d in drawn))

    def switch(self, prompt: str) -> None:
        """Turn all to another prompt."""
        for stream in self._streams:
            stream.switch(prompt)


@dataclass(frozen=True)
class Settings:
    """How to draw; None is the student's own. Block, window and sink count latent frames, steps those of a block."""

    block: int | None = None
    window: int | None = None
    sink: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """A session that can be opened: one or two students, each with its settings, of one form."""

    bundles: tuple[Bundle, ...]
    prompt: str
    seed: int
    frames: int

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.bundles[0].form.fps

    @property
    def height(self) -> int:
        """H of the picture."""
        return self.bundles[0].form.height

    @property
    def width(self) -> int:
        """W of the picture, all students beside one another."""
        return sum(bundle.form.width for bundle in self.bundles)

    def opener(self, given: Frames | None = None) -> partial[SideBySide]:
        """Return what begins to draw when it is called; ``given`` frames are [T, H, W, 3] of one student's size."""
        return partial(SideBySide, self.bundles, self.prompt, self.seed, self.frames, given)


class Catalogue:
    """Students by name and the rules for asking for them.

    Args:
        bundles: name -> student; one that can roll needs a window.
        limits: what anybody may ask for.
        denied: words and phrases no prompt may hold, whatever their case.

    Attributes:
        reading: requests whose bodies are being read.

    Raises:
        ConfigError: a student can roll and has no window.
    """

    def __init__(self, bundles: Mapping[str, Bundle], limits: Limits, denied: Sequence[str] = ()) -> None:
        self.bundles, self.limits, self.reading = dict(bundles), limits, 0
        words = "|".join(re.escape(normalise(word).casefold()) for word in denied if normalise(word))
        self._denied = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
        for bundle in self.bundles.values():
            if bundle.student.rolls:
                ClipStream(bundle, "", 0)  # says so when it has no window

    def facts(self) -> tuple[StudentFacts, ...]:
        """Return what viewers are told of the students."""
        return tuple(_facts(name, bundle) for name, bundle in self.bundles.items())

    def prompt(self, text: str, students: Sequence[str] = ()) -> str:
        """Return ``text`` in its normal form; ``students`` (the first on offer, without) are to show it.

        Raises:
            ConfigError: it is empty, holds control characters, or is longer than a student's text encoder reads.
            PromptRejected: it holds a denied word.
        """
        prompt, most = clean(text, "a prompt"), self.limits.prompt_chars
        if not 0 < len(prompt) <= most:
            raise ConfigError(f"a prompt has 1 to {most} characters, got {len(prompt)}")
        if self._denied is not None and self._denied.search(prompt.casefold()):
            raise PromptRejected("this prompt is blocked by the moderation of this server")
        for name in tuple(students) or tuple(self.bundles)[:1]:
            cut, length = cut_prompts(self.bundle(name).student.text_encoder, [prompt])
            if cut:
                raise ConfigError(f"this prompt has {cut[0][0]} tokens and the student reads {length}; shorten it")
        return prompt

    def bundle(self, name: str) -> Bundle:
        """Return the student ``name``; ConfigError when there is none."""
        if name not in self.bundles:
            raise ConfigError(f"there is no such student; choose from {', '.join(self.bundles)}")
        return self.bundles[name]

    def plan(
        self, prompt: str, seed: int, frames: int | None, students: Sequence[str] = (), settings: Settings | None = None
    ) -> Plan:
        """Return the plan of a session of ``frames`` pixel frames (None: as many as there may be).

        Raises:
            ConfigError, PromptRejected: something in it cannot be had; the message says what can.
        """
        names = tuple(students) or tuple(self.bundles)[:1]
        chosen = tuple(_with_settings(self.bundle(name), settings or Settings(), self.limits) for name in names)
        forms = {(*_form(b), b.student.block_list, b.codec.first_frames, b.codec.frames_per_latent) for b in chosen}
        if len(forms) > 1:
            raise ConfigError("these students differ in size, rate or block: beside one another they need the same")
        most = min(self.limits.seconds, *(_longest(bundle) for bundle in chosen))
        count = max(1, round(most * chosen[0].form.fps))
        if frames is not None:
            count = min(count, max(1, frames))
        return Plan(chosen, self.prompt(prompt, names), seed, count)


def _form(bundle: Bundle) -> tuple[int, int, float]:
    return bundle.form.height, bundle.form.width, bundle.form.fps


def _longest(bundle: Bundle) -> float:
    """Return the longest clip in seconds: without an end for a student that rolls."""
    if bundle.student.rolls:
        return float("inf")
    codec, spec = bundle.codec, bundle.student.spec
    return float(codec.first_frames + (spec.max_frames - 1) * codec.frames_per_latent) / bundle.form.fps


def _with_settings(bundle: Bundle, settings: Settings, limits: Limits) -> Bundle:
    if settings.steps is not None and not 1 <= settings.steps <= limits.steps:
        raise ConfigError(f"steps is {settings.steps}; give 1 to {limits.steps}")
    student, levels = bundle.student, bundle.levels
    changes = {"window": settings.window, "sink": settings.sink}
    student = student.with_settings(settings.block, **{k: v for k, v in changes.items() if v is not None})
    if settings.steps is not None:
        lists = tuple(flow.with_steps(own, settings.steps) for own in flow.level_lists(levels))
        levels = lists[0] if len(lists) == 1 else lists
    return replace(bundle, student=student, levels=levels)


def _facts(name: str, bundle: Bundle) -> StudentFacts:
    spec = bundle.student.spec
    return StudentFacts(
        name=name,
        width=bundle.form.width,
        height=bundle.form.height,
        fps=bundle.form.fps,
        block=bundle.student.block_list[-1],
        window=spec.window or spec.max_frames,
        sink=spec.sink,
        steps=len(flow.level_lists(bundle.levels)[-1]),
        span=spec.max_frames,
        endless=bundle.student.rolls,
    )
