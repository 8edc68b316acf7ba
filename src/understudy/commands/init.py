"""The verb init: a recipe folder from a few answers."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from tyro.conf import Positional, arg

from understudy.commands.base import UsageError, Verb, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.scaffold import Answers

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Init(Verb):
    """Write a folder with a recipe of your own, and say step by step what to fetch and what it costs."""

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder to write; must not exist."""
    student: Annotated[
        Literal["frame", "block", "selfforcing", "causalforcing_chunk", "causalforcing_frame", "longlive"] | None,
        arg(help_behavior_hint="(default: it is asked)"),
    ] = None
    """The student to train."""
    teacher: Annotated[
        Literal["clips", "api", "comfyui", "diffusers", "world"] | None,
        arg(help_behavior_hint="(default: it is asked)"),
    ] = None
    """Who teaches: your clips, a service, a workflow, a pipeline, or the embedded world."""
    source: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """The folder of clips, the workflow's file, or the pipeline's folder."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Prompts to ask a service for; a tenth of them is held out. A folder of clips brings its own."""
    shape: Annotated[str, arg(metavar="SHAPE")] = "openai-videos"
    """How a service wants to be asked: openai-videos, openrouter, fal, ark, minimax, replicate."""
    model: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """The model's name at the service."""
    url: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """Its address, for a server of your own."""
    price: Annotated[float | None, arg(metavar="MONEY", help_behavior_hint="")] = None
    """What one clip costs there."""
    gpus: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: it is asked)")] = None
    """GPUs of this machine."""
    downloads: Annotated[Path, arg(metavar="DIR")] = Path("checkpoints")
    """Where downloaded weights are, or will be."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy init mine",
        "understudy init mine --student frame --teacher world",
        "understudy init wan --student selfforcing --teacher clips --source my-clips --gpus 1",
        "understudy init paid --student longlive --teacher api --shape fal --model NAME --prompts p.txt --price 1 --gpus 1",
    )

    def do(self) -> int:
        """Ask what is not given, write the folder, print the steps."""
        from understudy.scaffold import scaffold

        for line in scaffold(self.folder, self._answers()):
            say(line)
        say(f"written: {self.folder / 'recipe.yaml'}; these steps: {self.folder / 'STEPS.md'}")
        return 0

    def _answers(self) -> "Answers":
        from understudy.scaffold import STUDENTS, TEACHERS, Answers

        student = self.student or _choose(
            "student", "Which student?", {name: line for name, (_, line) in STUDENTS.items()}
        )
        teacher = self.teacher or _choose("teacher", "Which teacher?", TEACHERS)
        source, prompts, model, gpus = self.source, self.prompts, self.model, self.gpus
        asks = {"clips": "Folder of clips", "comfyui": "File of the workflow", "diffusers": "Folder of the pipeline"}
        if source is None and teacher in asks:
            source = Path(_ask("source", asks[teacher]))
        if not model and teacher == "api":
            model = _ask("model", "Name of the model at the service")
        if prompts is None and teacher not in ("world", "clips"):
            prompts = Path(_ask("prompts", "File of prompts, one a line"))
        if gpus is None:
            gpus = 0 if student in ("frame", "block") else _count(_ask("gpus", "How many GPUs"))
        if gpus < 0:
            raise UsageError(f"--gpus is {gpus}; give a whole number of at least 0")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise UsageError(f"--price is {self.price}; give a number of at least 0")
        return Answers(student, teacher, source, prompts, self.shape, model, self.url, self.price, gpus, self.downloads)


def _ask(option: str, question: str) -> str:
    """Return what the user answers; without a terminal the option has to be given.

    Raises:
        UsageError: nobody can be asked, or nothing was answered.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"--{option} is missing, and there is nobody to ask")
    answer = input(f"{question}: ").strip()
    if not answer:
        raise UsageError(f"nothing was answered; run it again, or give --{option}")
    return answer


def _choose(option: str, question: str, choices: "Mapping[Name, str]") -> "Name":
    """Return the choice that the user makes, by number or by name."""
    names = list(choices)
    if sys.stdin.isatty():
        for number, (name, line) in enumerate(choices.items(), start=1):
            print(f"  {number}  {name}: {line}")
    answer = _ask(option, question)
    for number, name in enumerate(names, start=1):
        if answer in (str(number), name):
            return name
    raise UsageError(f"{answer!r} is none of {', '.join(names)}")


def _count(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"{text!r} is no whole number")
    return int(text)
