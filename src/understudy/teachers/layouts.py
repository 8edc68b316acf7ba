"""Where the clips of a folder and their prompts are, in the layouts of this and of other trainers.

In this order, first in the folder itself and then one level down: a listing (`LISTINGS`, or the only other table with a
column for files and one for prompts); lists of equal length, ``prompts.txt`` and ``videos.txt`` (finetrainers); WebDataset
tars; a text beside each clip (diffusion-pipe, musubi-tuner); names as VBench writes them, ``a red ball-0.mp4``. What cannot
be used is left out and said: one odd file turns nothing off for the others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from understudy.errors import ConfigError
from understudy.prompts import PROMPT_COLUMNS, clean
from understudy.tables import TABLES, cell, read_lines, read_object, read_table, read_text
from understudy.video.ingest.tars import VIDEO_SUFFIXES, TarClip, tar_clips

FILE_COLUMNS: Final = (
    *("file", "file_name", "filename", "video", "path", "video_path"),
    *("file_path", "media_path", "video_name", "video_file"),
)
"""Names under which listings hold a clip's file; the first that is there is read."""

LISTINGS: Final = ("prompts.csv", "prompts.jsonl", "metadata.csv", "metadata.jsonl", "videos2caption.json")
"""Tables that list clips by their name alone; the first that is there is read."""

_PROMPT_LISTS: Final = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
_FILE_LISTS: Final = ("videos.txt", "video.txt")
_BESIDE: Final = (".txt", ".caption", ".json")
_TEXT_FOLDERS: Final = ("labels", "captions", "prompts", "texts")
_CLIP_FOLDERS: Final = ("videos", "video", "clips")
_NAMED: Final = re.compile(r"(.*\S)-\d+")
_CUT_NAMES: Final = (100, 180)  # characters at which Self-Forcing and VBench-2.0 cut prompts in names
_SNIFF_BYTES: Final = 64 << 20
_SHOWN: Final = 3

LOOKED_FOR: Final = (
    f"{', '.join(LISTINGS)} or another table with a column {'|'.join(FILE_COLUMNS[:5])} and a column "
    f"{'|'.join(PROMPT_COLUMNS[:3])}; prompts.txt with videos.txt; WebDataset .tar; x.txt beside x.mp4; names like "
    "'a red ball-0.mp4'; each here and one folder down"
)
"""The layouts, for an error message."""


@dataclass(frozen=True)
class Found:
    """One clip.

    Attributes:
        name: as its listing or its folder names it, part of the teacher's identity.
        place: the file, or its place in a tar.
        prompt: normalised.
    """

    name: str
    place: Path | TarClip
    prompt: str


@dataclass
class Layout:
    """What a folder holds.

    Attributes:
        clips: in the order of the listing, else of the names.
        sources: where prompts were found, in words.
        left: names of what was left out, by reason.
        remarks: what else a user should know.
    """

    clips: list[Found] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, name: str, reason: str) -> None:
        """Leave ``name`` out."""
        self.left.setdefault(reason, []).append(name)

    @property
    def notes(self) -> list[str]:
        """In a line each, what was left out and what else a user should know."""
        return [*self.remarks, *(f"left out {_some(names)}: {reason}" for reason, names in self.left.items())]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"


def find_clips(folder: Path, listing: Path | None = None) -> Layout:
    """Return the clips of ``folder`` with their prompts; with ``listing`` those that it lists.

    Raises:
        ConfigError: there are none (names the layouts), a table is damaged, or a listed file is outside the folder.
    """
    layout = Layout()
    if listing is not None:
        _listed(listing, folder, folder, layout)
    elif not _whole(folder, folder, layout):
        _files(folder, folder, layout)
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and _shown(path)):
            if not _inside(inner, folder):
                layout.leave(f"{inner.name}/", "a link that ends outside the folder; copy it in")
            elif not _whole(inner, folder, layout):
                _files(inner, folder, layout)
    if not layout.clips:
        why = f" ({'; '.join(layout.notes)})" if layout.notes else ""
        raise ConfigError(f"clip folder {folder} lists no clips with prompts{why}; looked for: {LOOKED_FOR}")
    return layout


def _shown(path: Path) -> bool:
    """Return whether ``path`` is none of the hidden files and folders that systems leave, like a Mac's ._x.mp4."""
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _whole(folder: Path, root: Path, layout: Layout) -> bool:
    """Read ``folder`` by what describes it as a whole; return False when nothing does."""
    there = [folder / name for name in LISTINGS if (folder / name).is_file()]
    listings = there[:1] or _other_tables(folder, root, layout)
    if len(listings) > 1:
        names = ", ".join(path.name for path in listings)
        raise ConfigError(f"clip folder {folder} has several listings ({names}); say which: teacher.listing")
    if listings:
        _listed(listings[0], folder, root, layout)
        layout.remarks += [f"{path} is there as well and is not read" for path in there[1:]]
        return True
    prompts = next((folder / name for name in _PROMPT_LISTS if (folder / name).is_file()), None)
    files = next((folder / name for name in _FILE_LISTS if (folder / name).is_file()), None)
    if prompts and files:
        _lists(prompts, files, root, layout)
        return True
    tars = sorted(path for path in folder.glob("*.tar") if _shown(path) and _inside(path, root))
    for tar in tars:
        for clip in tar_clips(tar):
            if clip.prompt:
                layout.clips.append(Found(clip.key, clip, clean(clip.prompt, f"{tar} sample {clip.key!r}")))
            else:
                layout.leave(f"{clip.key} in {tar.name}", f"no prompt for sample {clip.key!r}; add {clip.key}.txt")
    if tars:
        layout.sources.append(f"{len(tars)} tar(s)")
        return True
    if (parquet := folder / "metadata.parquet").is_file():
        raise ConfigError(f"{parquet} is not read; write its columns file_name and text to metadata.csv beside it")
    return False


# --- listings ---------------------------------------------------------------------------------------------------


def _other_tables(folder: Path, root: Path, layout: Layout) -> list[Path]:
    """Return the tables in ``folder`` that list at least one clip of it, whatever they are called."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in TABLES or not _shown(path) or not path.is_file():
            continue
        if path.stat().st_size > _SNIFF_BYTES:
            layout.remarks.append(f"{path} is too large to look into; if it lists the clips, name it: teacher.listing")
            continue
        try:
            table = read_table(path, "listing", (FILE_COLUMNS, PROMPT_COLUMNS))
        except ConfigError:  # no listing: none of our business
            continue
        # Some settings file may look like one; a clip has to be there.
        if any(_place(name, folder, root) for _, row in table.rows if (name := cell(row, FILE_COLUMNS))):
            found.append(path)
    return found


def _listed(listing: Path, folder: Path, root: Path, layout: Layout) -> None:
    """Add the clips that ``listing`` lists."""
    table = read_table(listing, "prompt listing", (FILE_COLUMNS, PROMPT_COLUMNS))
    before, several = len(layout.clips), 0
    for where, row in table.rows:
        _add(cell(row, FILE_COLUMNS), cell(row, PROMPT_COLUMNS), where, folder, root, layout)
        several += any(isinstance(texts := row.get(name), list) and len(texts) > 1 for name in PROMPT_COLUMNS)
    if several:
        layout.remarks.append(f"{listing.name} has several prompts for {several} clips; the first of each is read")
    read = [next((name for name in names if name in table.columns), "") for names in (FILE_COLUMNS, PROMPT_COLUMNS)]
    layout.sources.append(f"{_name(listing, root)} ({', '.join(read)})")
    listed = {found.place for found in layout.clips[before:]}
    for file in _videos(folder):
        if _resolved(file) not in listed:
            layout.leave(_name(file, root), f"not usable in {listing.name}, or not there")


def _lists(prompts: Path, files: Path, root: Path, layout: Layout) -> None:
    """Add the clips of two lists of equal length; here every line counts, whatever it begins with."""
    texts, names = (read_lines(path, "list") for path in (prompts, files))
    for lines in (texts, names):
        while lines and not lines[-1][1].strip():
            lines.pop()
    if len(texts) != len(names):
        raise ConfigError(
            f"{prompts} has {len(texts)} lines and {files} has {len(names)}; line n of one belongs to line n of the other"
        )
    for (_, text), (where, name) in zip(texts, names, strict=True):
        _add(name.strip(), text, where, files.parent, root, layout)
    layout.sources.append(f"{_name(prompts, root)} with {files.name}")


def _add(name: str, text: str, where: str, folder: Path, root: Path, layout: Layout) -> None:
    """Add the clip that a listing in ``folder`` calls ``name``.

    Raises:
        ConfigError: it lies, or a link in its path ends, outside ``root``: a listing that came with a download could
            otherwise name any file of this machine.
    """
    line = Path(where).name
    try:
        prompt = clean(text, where)
    except ConfigError as error:
        return layout.leave(line, str(error))
    if not name or not prompt:
        return layout.leave(line, f"no {'prompt' if name else 'file'} there")
    file, inside = _place(name, folder, root), root.resolve()
    if file is not None:
        as_listed = folder == root and not Path(name).is_absolute() and (folder / name).resolve() == file
        layout.clips.append(Found(name if as_listed else file.relative_to(inside).as_posix(), file, prompt))
    elif (end := _resolved(folder / name)) is None or end.is_relative_to(inside):
        layout.leave(name, f"{where} lists it and it does not exist")
    else:
        raise ConfigError(
            f"{where}: {name[:200]!r} ends outside of {root}; move the file itself there and list it by its name inside"
        )
    return None


def _place(name: str, folder: Path, root: Path) -> Path | None:
    """Return the file inside ``root`` that a listing in ``folder`` means by ``name``; None when there is none.

    Names are relative to the listing, to a folder of clips beside it (FastVideo), or to ``root``.
    """
    inside = root.resolve()
    spelt = [name, name.replace("\\", "/")] if "\\" in name else [name]
    places = [top / one for one in spelt for top in (folder, *(folder / inner for inner in _CLIP_FOLDERS), root)]
    ends = (end for place in places if (end := _resolved(place)))
    try:
        return next((end for end in ends if end.is_relative_to(inside) and end.is_file()), None)
    except OSError:
        return None


def _inside(path: Path, root: Path) -> bool:
    """Return whether ``path``, links followed, lies in ``root``."""
    return (end := _resolved(path)) is not None and end.is_relative_to(root.resolve())


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # NUL, too long, a circle of links: a name that no file can have
        return None


# --- files ------------------------------------------------------------------------------------------------------


def _videos(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES and _shown(file))


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _files(folder: Path, root: Path, layout: Layout) -> None:
    """Add the videos of ``folder``, each with the prompt beside it or in its name, whichever most of them have."""
    files = []
    for file in _videos(folder):
        if not _inside(file, root):
            layout.leave(_name(file, root), "a link that ends outside the folder; copy the file in")
        elif file.is_file():
            files.append(file)
        else:
            layout.leave(_name(file, root), "no file")
    beside = {file: text for file in files if (text := _text_of(file, root)) is not None}
    named = {file: match[1] for file in files if file not in beside and (match := _NAMED.fullmatch(file.stem))}
    by_name = len(named) > len(beside)
    for file in files:
        if file not in beside and not (by_name and file in named):
            layout.leave(
                _name(file, root), "no prompt; write it to a .txt of the same name, or list all in prompts.csv"
            )
            continue
        try:
            prompt = _beside(beside[file]) if file in beside else clean(named[file], f"the name of {file}")
        except ConfigError as error:
            layout.leave(_name(file, root), str(error))
            continue
        if prompt:
            layout.clips.append(Found(_name(file, root), file, prompt))
        else:
            layout.leave(_name(beside[file], root), "it is empty; write the clip's prompt there")
    _say_files(folder, root, layout, len(beside), named if by_name else {})


def _say_files(folder: Path, root: Path, layout: Layout, beside: int, named: dict[Path, str]) -> None:
    where = "" if folder == root else f" in {folder.name}/"
    if beside and named:
        layout.remarks.append(
            f"{len(named)} clips{where} have their prompt in their name, {beside} in a text beside them: both are read"
        )
    layout.sources += [f"texts beside clips{where}"] * bool(beside) + [f"names of clips{where}"] * bool(named)
    if cut := [file.name for file, prompt in named.items() if len(prompt) in _CUT_NAMES]:
        layout.remarks.append(f"{_some(cut)} end where VBench and Self-Forcing cut prompts in names; list them in full")


def _text_of(file: Path, root: Path) -> Path | None:
    """Return the text that belongs to a clip: beside it, or of its name in a folder beside videos/."""
    places = [file.with_suffix(suffix) for suffix in _BESIDE]
    if file.parent.name in _CLIP_FOLDERS and file.parent != root:
        places += [root / inner / f"{file.stem}.txt" for inner in _TEXT_FOLDERS]
    return next((place for place in places if _inside(place, root) and place.is_file()), None)


def _beside(text: Path) -> str:
    """Return the prompt in a text file, or in the JSON object that a file holds."""
    if text.suffix != ".json":
        return clean(read_text(text, "prompt"), str(text))
    return clean(cell(read_object(text, "prompt"), PROMPT_COLUMNS), str(text))
