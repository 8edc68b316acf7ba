"""The door from Python: students to draw and stream with, runs with objects of one's own.

import understudy as us

student = us.load("builtin:frame")
student.draw("a small red ball is thrown to the left", seconds=4).save("ball.mp4")

run = us.Run("quickstart", teacher=MyTeacher(), reward=my_score, steps=60)
run.train()
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.clips import Clip
from understudy.discriminators.base import Discriminator
from understudy.discriminators.python.config import PythonDiscriminatorConfig
from understudy.errors import CheckpointError, ConfigError
from understudy.evaluation.report import write_report
from understudy.mp4 import Frames
from understudy.objectives.inputs import Inputs
from understudy.objectives.python.config import PythonObjectiveConfig
from understudy.plugins import name_of
from understudy.reading import read_json
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe
from understudy.recipes.tree import field_named
from understudy.rewards.base import Reward
from understudy.rewards.python.config import PythonRewardConfig
from understudy.run.clips import collect
from understudy.run.main import evaluate, run
from understudy.run.start import load_start
from understudy.students.bundle import Bundle, load_bundle, save_bundle
from understudy.students.generate import ClipStream, draw_long_clip, read_given
from understudy.teachers.base import JobTeacher, Teacher
from understudy.teachers.python.config import PythonTeacherConfig
from understudy.tracking.events import Event, EventTracker
from understudy.training.loop import Objective

__all__ = ["Run", "Stream", "Student", "load", "recipe"]


class Stream(Iterator[Frames]):
    """Frames uint8 [T, H, W, 3] of one clip, block by block, while they are drawn.

    Attributes:
        fps: frames per second to show them at.
    """

    def __init__(self, stream: ClipStream, fps: float) -> None:
        self._stream, self.fps = stream, fps

    def __next__(self) -> Frames:
        """Draw the next block."""
        return next(self._stream).frames

    def switch(self, prompt: str) -> None:
        """Turn to another prompt from the next block on; the picture goes on."""
        self._stream.switch(prompt)


class Student:
    """A student that draws: network, codec and sampler.

    Attributes:
        bundle: what it is made of.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

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
        return Stream(ClipStream(self._rolling(length), prompt, seed, frames, start), self.fps)

    def save(self, folder: str | Path) -> Path:
        """Write it as a folder that ``load`` and every verb of the command read."""
        save_bundle(self.bundle, Path(folder))
        return Path(folder)

    def _rolling(self, seconds: float) -> Bundle:
        """Return the bundle, with a window if ``seconds`` go past the trained length and it has none."""
        spec = self.bundle.student.spec
        past = seconds > self.seconds + 1e-9
        return self.bundle.with_window(spec.max_frames, None) if past and not spec.window else self.bundle


def load(name: str | Path, preset: str | None = None, device: str = "cpu", **student: Any) -> Student:
    """Return a student: ``builtin:frame``, a run folder, an exported one, or a public checkpoint with its ``preset``.

    Args:
        name: which one.
        preset: of a public checkpoint: selfforcing, causalforcing, longlive and so on; see ``understudy config``.
        device: torch device to draw on.
        student: further fields of a recipe's section ``student``: window, sink, levels, dtype, codec, text.

    Raises:
        CheckpointError: there is no student, or a damaged one. ConfigError: a field is wrong.
    """
    given = {"start": str(name), "preset": preset, **student}
    fields = [(f"student.{key}", json.dumps(value, default=str)) for key, value in given.items() if value is not None]
    config = load_recipe(None, [*fields, ("device", json.dumps(device))])
    return Student(load_start(config))


def recipe(name: str | Path, **fields: Any) -> RunConfig:
    """Return the recipe of a name that ships (``quickstart``), or of a file, with ``fields`` changed; see ``Run``."""
    return load_recipe(name, [(field_named(key), json.dumps(value, default=str)) for key, value in fields.items()])


class Run:
    """A run: a recipe, and objects of your own, which win over its sections.

    Args:
        recipe: a name that ships, a file, or a description.
        teacher: what is asked for clips.
        student: what training starts from: a student, or the name of one.
        discriminator: a network to train as discriminator; it is copied.
        reward: a callable on (clips, prompts), or several by name: instead of the discriminator, or beside it where one is
            given or ``beside`` is true. A pair (weight, callable) weighs it.
        objective: a function of (inputs, section) that returns an objective.
        beside: keep the recipe's discriminator beside ``reward``.
        on_event: called with each ``Event`` of the run: figures of steps and evaluations, clips.
        fields: fields of the recipe, by their last word where that is clear (``steps=60`` is train.steps), else with two
            underscores for the dot (``discriminator__steps=1``).

    Raises:
        ConfigError: a field or an object is not what it has to be.
    """

    def __init__(
        self,
        recipe_: str | Path | RunConfig = "quickstart",
        /,
        *,
        teacher: Teacher | JobTeacher | type | None = None,
        student: "Student | Bundle | str | Path | None" = None,
        discriminator: Discriminator | None = None,
        reward: "Reward | Mapping[str, Reward | tuple[float, Reward]] | None" = None,
        objective: Callable[[Inputs, Any], Objective] | None = None,
        on_event: Callable[[Event], None] | None = None,
        **fields: Any,
    ) -> None:
        beside = fields.pop("beside", discriminator is not None)
        config = recipe_ if isinstance(recipe_, RunConfig) else recipe(recipe_, **fields)
        if isinstance(recipe_, RunConfig) and fields:
            raise ConfigError(f"give {', '.join(fields)} to us.recipe(...), which made this description")
        changes: dict[str, Any] = {}
        if teacher is not None:
            changes["teacher"] = PythonTeacherConfig.holding(teacher)
        if discriminator is not None:
            shared = config.discriminator.model_dump(include=set(PythonDiscriminatorConfig.model_fields) - {"kind"})
            changes["discriminator"] = PythonDiscriminatorConfig.holding(discriminator, **shared)
        if student is not None:
            changes["student"] = _start_section(config, student)
        if objective is not None:
            shared = config.objective.model_dump(include=set(PythonObjectiveConfig.model_fields) - {"kind"})
            changes["objective"] = PythonObjectiveConfig.holding(objective, **shared)
        if reward is not None:
            changes["rewards"] = {name: _reward_section(given) for name, given in _named(reward).items()}
            main = changes.get("objective", config.objective)
            if not hasattr(main, "reward"):
                raise ConfigError(
                    f"objective {main.kind} takes no reward: it needs the discriminator's gradient or none"
                )
            changes["objective"] = main.model_copy(update={"reward": "discriminator" if beside else "rewards"})
        self.config = config.model_copy(update=changes)
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
        report = collect(self.config)
        return report.done + report.skipped

    def train(self) -> "Run":
        """Do the whole run, or what is left of it: collect, train, measure, report.

        Raises:
            Interrupted: it was asked to stop; call it again to go on. PluginError: an object of yours failed.
        """
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


def _named(reward: Any) -> dict[str, Any]:
    if isinstance(reward, Mapping):
        return dict(reward)
    given = reward[1] if isinstance(reward, tuple) else reward
    return {getattr(given, "__name__", type(given).__name__).strip("<>"): reward}


def _reward_section(given: Any) -> PythonRewardConfig:
    weight, reward = given if isinstance(given, tuple) else (1.0, given)
    if not callable(reward):
        raise ConfigError(f"reward {reward!r} cannot be called: give a function of (clips, prompts)")
    return PythonRewardConfig.holding(reward, weight=weight)


def _start_section(config: RunConfig, student: Any) -> Any:
    if isinstance(student, str | Path):
        return config.student.model_copy(update={"start": str(student)})
    bundle = student.bundle if isinstance(student, Student) else student
    if not isinstance(bundle, Bundle):
        raise ConfigError(f"student is a {type(student).__name__}; give a Student, a Bundle or the name of one")
    return config.student.holding(bundle, name_of(bundle))
