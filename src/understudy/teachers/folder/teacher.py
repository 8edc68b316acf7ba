"""A folder of finished clips as a teacher: for clips that were made elsewhere, by whatever means."""

from collections.abc import Sequence
from pathlib import Path

from understudy.errors import ClipError, ConfigError, PromptRejected, TeacherError
from understudy.files import sha256_hex
from understudy.prompts import normalise
from understudy.teachers.base import ClipParams
from understudy.teachers.folder.config import FolderTeacherConfig
from understudy.teachers.layouts import find_clips
from understudy.video.clips import read_file
from understudy.video.ingest.tars import TarClip


class FolderTeacher:
    """Hands out the clips of a folder by their prompts.

    Folders prepared for other trainers are read as they are: `understudy.teachers.layouts` says which. File names are
    relative to the folder and stay in it. A prompt may have several clips, of any video format.

    Attributes:
        notes: in a line each, what was left out and what else a user should know.
        source: where the prompts were found, in words.
    """

    def __init__(
        self,
        path: str | Path,
        prompts_csv: str | Path | None = None,
        terms: str = "clips from a folder; the terms of whatever made them apply",
    ) -> None:
        """Read the listing of folder ``path``; the clips themselves are read when asked for.

        Args:
            path: the folder of clips.
            prompts_csv: the listing, when it is not in the folder or not the only one there; a table of any kind.
            terms: what the maker of the clips says about training on them.

        Raises:
            ConfigError: folder, listing, column, prompt or listed file is missing, or there are no clips.
        """
        self.path = Path(path)
        self.terms = terms
        if not self.path.is_dir():
            raise ConfigError(f"clip folder {self.path} does not exist or is not a folder")
        layout = find_clips(self.path, None if prompts_csv is None else Path(prompts_csv))
        self.notes, self.source = tuple(layout.notes), ", ".join(layout.sources)
        self._clips: dict[str, list[Path | TarClip]] = {}
        parts = []
        for found in layout.clips:
            clips = self._clips.setdefault(found.prompt, [])
            if found.place not in clips:
                clips.append(found.place)
                size = found.place.size if isinstance(found.place, TarClip) else found.place.stat().st_size
                parts.append(f"{found.name}\0{found.prompt}\0{size}")
        # The order of the listing matters: it decides which clip a seed picks.
        self.name = f"folder-{sha256_hex(chr(10).join(parts).encode())[:12]}"

    def prompts(self) -> list[str]:
        """Return every prompt that has a clip, normalised, in the order of the listing."""
        return list(self._clips)

    def takes(self, prompt: str) -> int:
        """Return how many clips the folder has for ``prompt``."""
        return len(self._clips.get(normalise(prompt), ()))

    def file(self, prompt: str, seed: int) -> str:
        """Return the name of the file that `generate` hands out, relative to the folder."""
        files: Sequence[Path | TarClip] = self._clips.get(normalise(prompt), ())
        if not files:
            return ""
        file = files[seed % len(files)]
        if isinstance(file, TarClip):
            return f"{file.tar.name}/{file.key}"
        return (file.relative_to(self.path) if file.is_relative_to(self.path) else file).as_posix()

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


def build(config: FolderTeacherConfig, sealed: Path | None) -> FolderTeacher:
    """Return the folder as a teacher."""
    return FolderTeacher(config.path, config.listing)
