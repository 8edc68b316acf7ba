"""The door from Python: students to draw and stream with, runs with objects of one's own.

```python
import understudy as us

student = us.load("builtin:frame")
student.draw("a small red ball is thrown to the left", seconds=4).save("ball.mp4")

run = us.Run("quickstart", teacher=MyTeacher(), reward=my_score, steps=60)
run.train()
```
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from understudy.discriminators.base import Discriminator
from understudy.discriminators.config import JudgeConfig
from understudy.discriminators.python.config import PythonDiscriminatorConfig
from understudy.errors import CheckpointError, ConfigError
from understudy.evaluation.report import write_report
from understudy.objectives.config import ScoredConfig
from understudy.objectives.inputs import Inputs
from understudy.objectives.python.config import PythonObjectiveConfig
from understudy.plugins import name_of, named
from understudy.reading import read_json
from understudy.recipes.config import PythonStudentConfig, RunConfig, StudentConfig, StudentSection
from understudy.recipes.files import load_recipe
from understudy.recipes.own import own_parts
from understudy.recipes.section import Section
from understudy.recipes.tree import field_named
from understudy.rewards.base import Reward
from understudy.rewards.given import Rewards, given_rewards
from understudy.run.clips import collect
from understudy.run.main import evaluate, run
from understudy.run.start import keep_start, load_start
from understudy.students.bundle import Bundle, load_bundle, save_bundle
from understudy.students.generate import ClipStream, draw_long_clip, read_given
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.python.config import PythonTeacherConfig
from understudy.tracking.events import Event, EventTracker
from understudy.training.loop import Objective
from understudy.video.clips import Clip
from understudy.video.mp4 import Frames

__all__ = ["Run", "Stream", "Student", "load", "recipe"]


class Stream(Iterator[Frames]):
    """Frames uint8 [T, H, W, 3] of one clip, block by block, while they are drawn.

    Attributes:
        fps: frames per second to show them at.
    """

    def __init__(self, stream: ClipStream, fps: float, frames: int | None = None) -> None:
        self._stream, self.fps, self._left = stream, fps, frames

    def __next__(self) -> Frames:
        """Draw the next block; the last one ends with the clip."""
        frames = next(self._stream).frames
        if self._left is not None:
            frames = frames[: self._left]
            self._left -= len(frames)
        return frames

    def switch(self, prompt: str) -> None:
        """Turn to another prompt from the next block on; the picture goes on."""
        self._stream.switch(prompt)


class Student:
    """A student that draws: network, codec and sampler.

    Attributes:
        bundle: what it is made of.
        section: the recipe section that names it, where ``load`` made it.
    """

    def __init__(self, bundle: Bundle, section: StudentSection | None = None) -> None:
        self.bundle, self.section = bundle, section

    def __repr__(self) -> str:
        """Return what it is in a line."""
        form = self.bundle.form
        return f"<Student {self.bundle.source}: {form.width}x{form.height}, {form.fps:g} fps, {self.seconds:.2f} s>"

    @property
    def fps(self) -> float:
        """Frames per second that it draws."""
        return self.bundle.form.fps

    @property
    def seconds(self) -> float:
        """Length of the clips that it was trained on."""
        return self.bundle.form.frames / self.bundle.form.fps

    @property
    def words(self) -> tuple[str, ...]:
        """Words that it knows; empty when its text encoder takes any word."""
        return self.bundle.student.vocabulary

    def draw(
        self,
        prompt: str,
        seconds: float | None = None,
        seed: int = 0,
        switches: Sequence[tuple[float, str]] = (),
        given: str | Path | None = None,
    ) -> Clip:
        """Return a clip of ``prompt``; the same seed gives the same clip.

        Args:
            prompt: what to show.
            seconds: its length; None: as in training. Past that the cache rolls through a window.
            seed: of all noise.
            switches: (seconds, prompt) to turn to on the way.
            given: a picture or a video file to go on from.

        Raises:
            ConfigError: the length is not positive. ClipError: ``given`` cannot be read.
        """
        length = self.seconds if seconds is None else seconds
        start = None if given is None else read_given(given, self.bundle.form)
        return draw_long_clip(self._rolling(length), prompt, seed, length, switches, start)

    def stream(
        self, prompt: str, seconds: float | None = None, seed: int = 0, given: str | Path | None = None
    ) -> Stream:
        """Return the frames of a clip block by block, as they are drawn; without ``seconds`` it never ends."""
        length = math.inf if seconds is None else seconds
        if not length > 0:
            raise ConfigError(f"seconds must be a positive number, got {seconds}")
        start = None if given is None else read_given(given, self.bundle.form)
        frames = None if seconds is None else max(1, round(seconds * self.fps))
        return Stream(ClipStream(self._rolling(length), prompt, seed, frames, start), self.fps, frames)

    def save(self, folder: str | Path) -> Path:
        """Write it as a folder that ``load`` and every verb of the command read."""
        save_bundle(self.bundle, Path(folder))
        return Path(folder)

    def _rolling(self, seconds: float) -> Bundle:
        """Return the bundle, with a window if ``seconds`` go past the trained length and it has none."""
        spec = self.bundle.student.spec
        past = seconds > self.seconds + 1e-9
        return self.bundle.with_window(spec.max_frames, None) if past and not spec.window else self.bundle


def load(name: str | Path, /, preset: str | None = None, device: str = "cpu", **student: Any) -> Student:
    """Return a student: ``builtin:frame``, a run folder, an exported one, or a public checkpoint with its ``preset``.

    Args:
        name: which one.
        preset: of a public checkpoint: selfforcing, causalforcing_chunk, longlive and so on; see ``understudy config``.
        device: torch device to draw on.
        student: further fields of a recipe's section ``student``: window, sink, levels, dtype, codec, text.

    Raises:
        CheckpointError: there is no student, or a damaged one. ConfigError: a field is wrong.
    """
    given = {"start": str(name), "preset": preset, **student}
    fields = [(f"student.{key}", _text(key, value)) for key, value in given.items() if value is not None]
    config = load_recipe(None, [*fields, ("device", _text("device", device))], _PYTHON)
    with named(own_parts(config)):
        return Student(load_start(config), config.student)


def recipe(name: str | Path, /, **fields: Any) -> RunConfig:
    """Return the recipe of a name that ships (``quickstart``), or of a file, with ``fields`` changed; see ``Run``."""
    changes = [
        (field_named(key, isinstance(value, Mapping | Section)), _text(key, value)) for key, value in fields.items()
    ]
    return load_recipe(name, changes, _PYTHON)


class Run:
    """A run: a recipe, and objects of your own, which win over its sections.

    Args:
        recipe_: a name that ships, a file, or a description that ``recipe`` returned.
        teacher: what is asked for clips: an object, or a class or function that makes one.
        student: what training starts from: a student, the name of one, a ``Bundle``, or a function that returns one.
        discriminator: a network to train as discriminator (it is copied), or a class or function that makes one.
        reward: a callable on (clips, prompts), or several: a list of them, or by name. A pair (weight, callable) weighs
            one. They take the discriminator's place; beside it where one is given, or "discriminator" is one of them.
        objective: a function of (inputs, section) that returns an objective.
        on_event: called with each ``Event`` of the run: figures of steps and evaluations, clips.
        fields: fields of the recipe, by their last word where that is clear (``steps=60`` is train.steps), else with two
            underscores for the dot (``discriminator__steps=1``).

    Instead of an object, teacher, discriminator and objective take the name of one as "module:Name", or a section as in
    a recipe: ``teacher={"kind": "folder", "path": "my-clips"}``.

    Raises:
        ConfigError: a field or an object is not what it has to be.
    """

    def __init__(
        self,
        recipe_: str | Path | RunConfig = "quickstart",
        /,
        *,
        teacher: "Teacher | JobTeacher | Callable[..., Any] | Mapping[str, Any] | Section | str | None" = None,
        student: "Student | Bundle | Callable[..., Bundle] | Mapping[str, Any] | Section | str | Path | None" = None,
        discriminator: "Discriminator | Callable[..., Any] | Mapping[str, Any] | Section | str | None" = None,
        reward: "Reward | Rewards | None" = None,
        objective: "Callable[[Inputs, Any], Objective] | Mapping[str, Any] | Section | str | None" = None,
        on_event: Callable[[Event], None] | None = None,
        **fields: Any,
    ) -> None:
        parts = {"teacher": teacher, "student": student, "discriminator": discriminator, "objective": objective}
        for name, part in parts.items():
            if isinstance(part, str) and name != "student":
                part = {"kind": "python", "call": part}
            if isinstance(part, Mapping | Section):
                fields[name], parts[name] = part, None
        if isinstance(reward, str) and ":" not in reward:
            fields["objective__reward"], reward = reward, None
        if isinstance(recipe_, RunConfig) and fields:
            raise ConfigError(f"give {', '.join(fields)} to us.recipe(...), which made this description")
        config = recipe_ if isinstance(recipe_, RunConfig) else recipe(recipe_, **fields)
        if parts["teacher"] is not None:
            config = _changed(config, "teacher", PythonTeacherConfig.holding(teacher))
        if parts["discriminator"] is not None:
            section = PythonDiscriminatorConfig.holding(discriminator, **_shared(config.discriminator, JudgeConfig))
            config = _changed(config, "discriminator", section)
        if parts["objective"] is not None:
            shared = _shared(config.objective, ScoredConfig)
            config = _changed(config, "objective", PythonObjectiveConfig.holding(objective, **shared))
        if parts["student"] is not None:
            config = _changed(config, "student", _start_section(config, student))
        if reward is not None:
            config = _rewarded(config, reward, discriminator is not None)
        self.config = config
        self._on_event = on_event

    def __repr__(self) -> str:
        """Return what it is in a line."""
        config = self.config
        return f"<Run {config.name} in {config.out}: {config.objective.kind}, {config.train.steps} updates>"

    @property
    def folder(self) -> Path:
        """Where everything it leaves is."""
        return self.config.out

    def collect(self) -> int:
        """Ask the teacher for the training clips that are missing; return how many there are."""
        with named(own_parts(self.config)):
            report = collect(self.config)
        return report.done + report.skipped

    def train(self) -> "Run":
        """Do the whole run, or what is left of it: collect, train, measure, report.

        Raises:
            Interrupted: it was asked to stop; call it again to go on. PluginError: an object of yours failed.
        """
        keep_start(self.config)
        run(self.config, {} if self._on_event is None else {"on_event": EventTracker(self._on_event)})
        return self

    def evaluate(self) -> dict[str, Any]:
        """Measure the trained student again; return the summary."""
        return evaluate(self.folder, self.config)

    def report(self) -> Path:
        """Write report.html again and return its path."""
        return write_report(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What the run measured, as summary.json holds it.

        Raises:
            CheckpointError: it is not finished.
        """
        path = self.folder / "summary.json"
        if not path.is_file():
            raise CheckpointError(f"{self.folder} has no summary yet: call train() first")
        found: dict[str, Any] = read_json(path)
        return found

    @property
    def student(self) -> Student:
        """The trained student.

        Raises:
            CheckpointError: it is not finished.
        """
        start = load_start(self.config)
        trained = load_bundle(self.folder / "student", start.codec)
        trained.to(self.config.device)
        return Student(replace(trained, codec=start.codec))


_PYTHON = "Python"  # where a value came from, in errors


def _text(key: str, value: Any) -> str:
    """Return a field's value as YAML."""

    def plain(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json", exclude_unset=False)
        if isinstance(item, Path):
            return str(item)
        if hasattr(item, "item"):  # a number of numpy or torch
            return item.item()
        raise ConfigError(f"{key} is a {type(item).__name__}: a field takes numbers, texts, lists and sections")

    return json.dumps(value, default=plain, ensure_ascii=False)


def _changed(config: RunConfig, name: str, section: Section) -> RunConfig:
    return config.model_copy(update={name: section})


def _shared(section: Section, base: type[Section]) -> dict[str, Any]:
    """Return what ``section`` says of the fields that all sections of ``base`` have."""
    return section.model_dump(include=set(base.model_fields) - {"kind"})


def _rewarded(config: RunConfig, reward: Any, beside: bool) -> RunConfig:
    """Return the recipe with these rewards, beside the discriminator or instead of it."""
    sections, named_too = given_rewards(reward)
    if not isinstance(config.objective, ScoredConfig):
        raise ConfigError(
            f"objective {config.objective.kind} takes no reward: it needs a discriminator's gradient, or no scores at all"
        )
    who = "discriminator" if beside or named_too else "rewards"
    objective = config.objective.model_copy(update={"reward": who})
    return config.model_copy(update={"rewards": sections, "objective": objective})


def _start_section(config: RunConfig, student: Any) -> StudentSection:
    """Return the section of the student that was given; how it is trained is left as the recipe says."""
    kept = {name: getattr(config.student, name) for name in ("lora", "dtype", "recompute")}
    if isinstance(student, str | Path):
        return StudentConfig(**{**_shared(config.student, StudentSection), "start": str(student)})
    if isinstance(student, Student) and student.section is not None:
        own = student.section.model_fields_set
        return student.section.model_copy(update={name: value for name, value in kept.items() if name not in own})
    bundle = student.bundle if isinstance(student, Student) else student
    if isinstance(bundle, Bundle):
        settings = {name: getattr(config.student, name) for name in ("levels", "window", "sink")}
        return StudentConfig(start=str(config.out / "start"), **kept, **settings).holding(bundle)
    if not callable(student):
        raise ConfigError(
            f"student is a {type(student).__name__}; give a Student, a Bundle, a function that returns one, or a name"
        )
    shared = _shared(config.student, StudentSection)
    return PythonStudentConfig(call=name_of(student), **shared).holding(student)
