"""A look at a folder of clips before anything else: which can be read, which cannot and why, what they have in common."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from understudy.errors import ClipError, ConfigError, TeacherError
from understudy.teachers.base import ClipParams
from understudy.teachers.folder.teacher import FolderTeacher
from understudy.video.clips import ClipForm, Fit, read_file
from understudy.video.ingest.guard import probe_bytes
from understudy.video.ingest.survey import Remark, objection, played, shortlist, survey
from understudy.video.ingest.tars import VIDEO_SUFFIXES

_NAMED: Final = 20  # of many files that cannot be read
_WORKERS: Final = 2


def holds_clips(path: Path) -> bool:
    """Say whether the folder ``path``, or one in it, holds video files or tars."""
    return any(True for _ in _videos(path, (*VIDEO_SUFFIXES, ".tar")))


def check_folder(
    path: Path, form: ClipForm | None = None, fit: Fit = "crop", listing: Path | None = None
) -> Iterator[Remark]:
    """Decode every clip of the folder ``path`` and yield what is to be said of them.

    Args:
        path: the folder, as `FolderTeacher` reads it.
        form: the clips that the student draws, when it is known.
        fit: what happens to clips of another aspect ratio.
        listing: the listing of its prompts, when it is not in the folder.
    """
    found: list[tuple[str, str, int | Path]]  # name, prompt, and which take of it or where it lies
    try:
        teacher = FolderTeacher(path, listing)
    except ConfigError as error:
        yield Remark(False, "prompts", str(error))
        found = [(file.relative_to(path).as_posix(), "", file) for file in _videos(path, VIDEO_SUFFIXES)]
    else:
        prompts = teacher.prompts()
        found = [(teacher.file(p, take), p, take) for p in prompts for take in range(teacher.takes(p))]
        yield Remark(True, "prompts", f"{len(prompts)} prompts have {len(found)} clips in {path} ({teacher.source})")
        yield from (Remark(None, "folder", note) for note in teacher.notes)

    def look(name: str, prompt: str, take: int | Path) -> dict[str, Any] | str:
        try:
            data = read_file(take) if isinstance(take, Path) else teacher.generate(prompt, take, ClipParams())
            return probe_bytes(data, name).to_json()
        except (ClipError, TeacherError) as error:
            return str(error)

    with ThreadPoolExecutor(_WORKERS) as pool:
        looked = list(pool.map(look, *zip(*found, strict=True))) if found else []
    whole = [(name, one) for (name, _, _), one in zip(found, looked, strict=True) if not isinstance(one, str)]
    yield from _unusable([one for one in looked if isinstance(one, str)], len(found))
    if not whole:
        return
    yield Remark(True, "clips", f"{len(whole)} of {len(found)} can be read to their end")
    yield from _lengths(whole, form)
    yield from _same(
        [(prompt, one) for (_, prompt, _), one in zip(found, looked, strict=True) if isinstance(one, dict)]
    )
    yield from survey(whole, form, fit)


def _videos(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = sorted([*path.glob("*"), *path.glob("*/*")])
    return [file for file in files if file.suffix.lower() in suffixes and not file.name.startswith(".")]


def _unusable(reasons: list[str], count: int) -> Iterator[Remark]:
    yield from (Remark(None, "clip", reason) for reason in reasons[:_NAMED])
    if reasons:
        text = f"{len(reasons)} of {count} cannot be used and would be skipped"
        yield Remark(False if len(reasons) == count else None, "clips", text)


def _lengths(clips: list[tuple[str, dict[str, Any]]], form: ClipForm | None) -> Iterator[Remark]:
    lengths = [(played(received) or 0.0, name) for name, received in clips]
    shortest, name = min(lengths)
    yield Remark(True, "clip length", f"{shortest:.2f} s ({name}) to {max(lengths)[0]:.2f} s")
    if form is None:
        return
    useless = [f"{name} {why}" for name, received in clips if (why := objection(received, form))]
    if useless:
        ok = False if len(useless) == len(clips) else None
        yield Remark(
            ok, "clips", f"{len(useless)} of {len(clips)} are left out of training: {shortlist(useless, '; ')}"
        )


def _same(clips: list[tuple[str, dict[str, Any]]]) -> Iterator[Remark]:
    repeated = len(clips) - len({(prompt, one["stream_sha256"]) for prompt, one in clips})
    if repeated:
        yield Remark(None, "clips", f"{repeated} are copies of another clip of their prompt and count once")
