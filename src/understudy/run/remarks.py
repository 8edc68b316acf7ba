"""What a user should hear about prompts and folders before a run uses them: what was left out, and what is cut."""

from collections.abc import Callable, Sequence

from understudy.prompts import read_prompt_file
from understudy.recipes.config import FilePromptsConfig, RunConfig
from understudy.run.prompts import held_out_prompts, training_prompts
from understudy.students.bundle import Bundle
from understudy.students.text import cut_note
from understudy.teachers.build import build
from understudy.teachers.folder.teacher import FolderTeacher


def intake_notes(config: RunConfig) -> list[str]:
    """Return, in a line each, what the recipe's prompt files and its folder of clips leave out.

    Raises:
        ConfigError: one of them cannot be read.
    """
    notes: list[str] = []
    if config.teacher.kind == "folder":
        teacher = build(config.teacher)
        notes += teacher.notes if isinstance(teacher, FolderTeacher) else ()
    if isinstance(config.prompts, FilePromptsConfig):
        for path in (config.prompts.train, config.prompts.held_out):
            notes += read_prompt_file(path).notes
    return notes


def cut_notes(encoder: object, training: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """Return, in a line each, how many prompts the student's text ``encoder`` cuts."""
    named = (("training", training), ("held-out", held_out))
    return [f"{what} prompts: {note}" for what, prompts in named if (note := cut_note(encoder, prompts))]


def say_cut(encoder: object, prompts: Sequence[str], say: Callable[[str], None]) -> None:
    """Tell ``say`` when the student's text ``encoder`` cuts some of ``prompts``."""
    if note := cut_note(encoder, prompts):
        say(note)


def notes(config: RunConfig, bundle: Bundle) -> list[str]:
    """Return what to say about the prompts and the teacher's folder before they are used."""
    encoder = bundle.student.text_encoder
    return [*intake_notes(config), *cut_notes(encoder, training_prompts(config), held_out_prompts(config))]
