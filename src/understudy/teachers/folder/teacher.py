"""A folder of finished clips as a teacher: for clips that were made elsewhere, by whatever means."""

import re
from collections.abc import Sequence
from pathlib import Path

from understudy.clips import read_file
from understudy.errors import ClipError, ConfigError, PromptRejected, TeacherError
from understudy.files import sha256_hex
from understudy.ingest.tars import VIDEO_SUFFIXES, TarClip, tar_clips
from understudy.prompts import csv_rows, jsonl_rows, normalise, read_text
from understudy.teachers.base import ClipParams
from understudy.teachers.folder.config import FolderTeacherConfig

_LISTINGS = ("prompts.csv", "prompts.jsonl")


class FolderTeacher:
    """Hands out the clips of a folder by their prompts.

    The prompts come from, in this order: ``prompts_csv``; ``prompts.csv`` in the folder, with the columns ``file`` and
    ``prompt``; ``prompts.jsonl``, one ``{"file": ..., "prompt": ...}`` a line; WebDataset tars, when the folder holds
    some; ``x.txt`` beside every ``x.mp4``; or VBench's names, ``a red ball-0.mp4``, when no file has a text beside it.
    File names are relative to the folder. A prompt may have several clips, of any video format.
    """

    def __init__(
        self,
        path: str | Path,
        prompts_csv: str | Path | None = None,
        terms: str = "clips from a folder; the terms of whatever made them apply",
    ) -> None:
        """Read the listing of folder ``path``; the clips themselves are read when asked for.

        Args:
            path: the folder of mp4 files.
            prompts_csv: the listing, when it is not in the folder; ``.csv``, or ``.jsonl`` with these fields.
            terms: what the maker of the clips says about training on them.

        Raises:
            ConfigError: folder, listing, column, prompt or listed file is missing, or there are no clips.
        """
        self.path = Path(path)
        self.terms = terms
        if not self.path.is_dir():
            raise ConfigError(f"clip folder {self.path} does not exist or is not a folder")
        listing = self._find_listing(prompts_csv)
        tars = [] if listing else [clip for tar in sorted(self.path.glob("*.tar")) for clip in tar_clips(tar)]
        rows = _listed(listing) if listing else [] if tars else _beside(self.path)
        if not rows and not tars:
            raise ConfigError(
                f"clip folder {self.path} lists no clips; put mp4 files there, and a prompts.csv with "
                "the columns file and prompt, or WebDataset tars"
            )
        self._clips: dict[str, list[Path | TarClip]] = {}
        parts = []
        for clip in tars:
            if not clip.prompt:
                raise ConfigError(f"{clip.tar} has no prompt for sample {clip.key!r}; add {clip.key}.txt to it")
            self._clips.setdefault(clip.prompt, []).append(clip)
            parts.append(f"{clip.key}\0{clip.prompt}\0{clip.size}")
        for name, prompt in rows:
            file = self.path / name
            if not file.is_file():
                raise ConfigError(f"clip {file} does not exist, though {listing} lists it")
            files = self._clips.setdefault(normalise(prompt), [])
            if file not in files:
                files.append(file)
                parts.append(f"{name}\0{normalise(prompt)}\0{file.stat().st_size}")
        # The order of the listing matters: it decides which clip a seed picks.
        self.name = f"folder-{sha256_hex(chr(10).join(parts).encode())[:12]}"

    def prompts(self) -> list[str]:
        """Return every prompt that has a clip, normalised, in the order of the listing."""
        return list(self._clips)

    def takes(self, prompt: str) -> int:
        """Return how many clips the folder has for ``prompt``."""
        return len(self._clips.get(normalise(prompt), ()))

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """Return one clip of ``prompt`` as it lies in the folder, whatever ``params`` ask for.

        With n clips for the prompt, the seed picks clip ``seed % n``.

        Raises:
            PromptRejected: the folder has no clip for this prompt.
            TeacherError: the file has gone since, or cannot be read.
        """
        files: Sequence[Path | TarClip] = self._clips.get(normalise(prompt), ())
        if not files:
            raise PromptRejected(f"folder {self.path} has no clip for prompt {prompt!r}")
        try:
            file = files[seed % len(files)]
            return file.read() if isinstance(file, TarClip) else read_file(file)
        except ClipError as error:
            raise TeacherError(str(error)) from None

    def _find_listing(self, given: str | Path | None) -> Path | None:
        """Return the listing to read, or None when prompts lie beside the clips."""
        if given is not None:
            return Path(given)
        return next((self.path / name for name in _LISTINGS if (self.path / name).is_file()), None)


def _listed(listing: Path) -> list[tuple[str, ...]]:
    """Return (file, prompt) of every row of ``listing``."""
    text = read_text(listing, "prompt listing")
    read = jsonl_rows if listing.suffix.lower() == ".jsonl" else csv_rows
    return read(text, listing, ("file", "prompt"))


def _beside(folder: Path) -> list[tuple[str, ...]]:
    """Return (file, prompt) of every video in ``folder``: each prompt from the text file beside it, or all from names."""
    rows: list[tuple[str, ...]] = []
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    named = [(file.name, re.fullmatch(r"(.*\S)-\d+", file.stem)) for file in files]
    if all(match for _, match in named) and not any(file.with_suffix(".txt").is_file() for file in files):
        return [(name, match[1]) for name, match in named if match]
    for file in files:
        beside = file.with_suffix(".txt")
        if not beside.is_file():
            raise ConfigError(
                f"clip {file} has no prompt; write it to {beside.name} beside it, or list all in prompts.csv"
            )
        prompt = normalise(read_text(beside, "prompt"))
        if not prompt:
            raise ConfigError(f"prompt {beside} is empty; write the clip's prompt there")
        rows.append((file.name, prompt))
    return rows


def build(config: FolderTeacherConfig, sealed: Path | None) -> FolderTeacher:
    """Return the folder as a teacher."""
    return FolderTeacher(config.path)
