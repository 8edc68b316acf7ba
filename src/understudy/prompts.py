"""Prompts: one spelling per prompt, a short identity, and the files they are read from."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from understudy.errors import ConfigError
from understudy.files import sha256_hex
from understudy.tables import TABLES, Row, cell, mended, read_lines, read_table

PROMPT_COLUMNS: Final = ("prompt", "text", "caption", "cap")
"""Names under which files of this and of other trainers hold a prompt; the first that is there is read."""

# White space of any kind becomes a space; U+FFFD stands for bytes that were no text and is left to whoever wrote it.
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_COMMENT: Final = re.compile(r"#+(\s|$)")


def normalise(text: str) -> str:
    """Return ``text`` mended (see `understudy.tables.mended`) and stripped, with every run of white space as one space."""
    return " ".join(mended(text).split())


def clean(text: str, where: str) -> str:
    """Return ``text`` normalised; ``where`` names it in errors.

    Raises:
        ConfigError: it holds a control character, or half of a surrogate pair.
    """
    if found := _CONTROL.search(text):
        raise ConfigError(f"{where} holds the control character U+{ord(found[0]):04X}; remove it")
    return normalise(text)


def prompt_id(text: str) -> str:
    """Return 12 hex digits that name the prompt, the same for every spacing of it."""
    return sha256_hex(normalise(text).encode("utf-8"))[:12]


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts holds: each prompt once, normalised, in file order; and in words what was left out."""

    prompts: tuple[str, ...]
    notes: tuple[str, ...]


def read_prompts(path: str | Path) -> list[str]:
    """Return the prompts in ``path``; see `read_prompt_file`."""
    return list(read_prompt_file(path).prompts)


def read_prompt_file(path: str | Path) -> PromptFile:
    r"""Read the prompts in ``path``.

    ``.txt`` holds one a line; lines end at ``\n`` or ``\r\n`` and at nothing else. Blank lines are skipped, and so are
    comments: ``#`` with a space or nothing behind it (``#rain on a window`` is a prompt). ``.jsonl`` holds one object a
    line, ``.json`` a list of objects or texts, ``.csv`` and ``.tsv`` have a header; the prompt is in ``prompt``, ``text``,
    ``caption`` or ``cap``.

    Raises:
        ConfigError: the file is missing, of another kind, malformed (names the line), holds control characters, or has
            no prompts.
    """
    source = Path(path)
    if source.suffix.lower() not in (".txt", *TABLES):
        raise ConfigError(f"prompt file {source} must end in .txt, .jsonl, .json, .csv or .tsv")
    notes: list[str] = []
    if source.suffix.lower() == ".txt":
        prompts = _plain(source, notes)
    else:
        prompts = [_prompt_of(row, where) for where, row in read_table(source, "prompt file", (PROMPT_COLUMNS,)).rows]
    unique = tuple(dict.fromkeys(prompts))
    if not unique:
        raise ConfigError(f"prompt file {source} has no prompts; write at least one")
    if repeats := len(prompts) - len(unique):
        notes.append(f"{source}: {repeats} of {len(prompts)} prompts are repeats and left out")
    return PromptFile(unique, tuple(notes))


def _prompt_of(row: Row, where: str) -> str:
    prompt = clean(cell(row, PROMPT_COLUMNS), where)
    if not prompt:
        raise ConfigError(f"{where} has no 'prompt'; give it as a non-empty text")
    return prompt


def _plain(source: Path, notes: list[str]) -> list[str]:
    """Return the prompts of a text file, one a line; say in ``notes`` what began with ``#``."""
    prompts, comments, tags = [], [], []
    for where, line in read_lines(source, "prompt file"):
        prompt = clean(line, where)
        if _COMMENT.match(prompt):
            comments.append(prompt)
        elif prompt:
            prompts.append(prompt)
            tags += [prompt] if prompt.startswith("#") else []
    if comments:
        notes.append(f"{source}: {len(comments)} lines are comments and left out, the first: {comments[0][:60]!r}")
    if tags:
        notes.append(
            f"{source}: {len(tags)} lines begin with # and are prompts, the first: {tags[0][:60]!r}; a comment has a space "
            "behind the #"
        )
    return prompts
