"""Verbs on clip stores: store list, show, verify, pack, requeue, import, export."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from understudy.commands.base import Verb, say
from understudy.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.collection.exchange import Incoming

_Store = Annotated[Positional[Path], arg(metavar="STORE")]


@dataclass(frozen=True)
class StoreList(Verb):
    """List the records of a clip store, oldest first."""

    store: _Store
    """The store's folder."""
    examples: ClassVar[tuple[str, ...]] = ("understudy store list runs/store",)

    def do(self) -> int:
        """Print one line a record."""
        from understudy.collection.store import ClipStore

        for record in ClipStore(self.store).records():
            got = record.received
            form = f"{got.get('frames')}x{got.get('width')}x{got.get('height')}@{got.get('fps')}" if got else "-"
            line = f"{record.key[:12]} {record.status:8} {form:18} {record.teacher} {record.seed} {record.prompt}"
            say(shown(line))
        return 0


@dataclass(frozen=True)
class StoreShow(Verb):
    """Show the records whose key or clip begins with what is given, in full, as JSON."""

    store: _Store
    """The store's folder."""
    begins: Annotated[Positional[str], arg(metavar="KEY")]
    """Beginning of a record's key or of its clip's SHA-256."""
    examples: ClassVar[tuple[str, ...]] = ("understudy store show runs/store 3f2a",)

    def do(self) -> int:
        """Print them."""
        from understudy.collection.store import ClipStore

        found = [
            r
            for r in ClipStore(self.store).records()
            if r.key.startswith(self.begins) or (r.clip or "").startswith(self.begins)
        ]
        if not found:
            raise ConfigError(
                f"no record of {self.store} begins with {self.begins!r}; `understudy store list` lists all"
            )
        for record in found:
            say(json.dumps(asdict(record), indent=2, ensure_ascii=False))
        return 0


@dataclass(frozen=True)
class StoreVerify(Verb):
    """Check a clip store: files, hashes, decoding, repeated clips; exit status 1 when something is wrong."""

    store: _Store
    """The store's folder."""
    decode: Literal["all", "none"] = "all"
    """Decode every clip to its end, or look at records, files and hashes alone."""
    hashes: Literal["all", "none"] = "all"
    """Compare every file with its name, or trust the file system."""
    workers: Annotated[int, arg(metavar="N")] = 2
    """Decoding processes side by side."""
    examples: ClassVar[tuple[str, ...]] = (
        "understudy store verify runs/store",
        "understudy store verify runs/store --decode none",
    )

    def do(self) -> int:
        """Print one line for each problem, then a summary."""
        from understudy.collection.exchange import duplicates
        from understudy.collection.store import ClipStore

        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        store = ClipStore(self.store)
        problems = store.verify(self.workers, self.decode == "all", self.hashes == "all")
        for problem in problems:
            say(problem)
        done = [record for record in store.records() if record.clip is not None]
        repeated = duplicates(done)
        if repeated:
            first = repeated[0][0].prompt
            say(
                f"note: {len(repeated)} clips are on record more than once, one for {first!r}; export can leave them out"
            )
        marked = [r for r in done if r.received.get("bars") or r.received.get("watermark")]
        if marked:
            say(f"note: {len(marked)} clips have black bars or a suspected watermark, one for {marked[0].prompt!r}")
        say(f"{len(problems)} problems in {len(done)} clips and {len(store) - len(done)} rejections")
        return 1 if problems else 0


@dataclass(frozen=True)
class StorePack(Verb):
    """Remove from a clip store what no record names: files that stopped writers left behind."""

    store: _Store
    """The store's folder."""
    examples: ClassVar[tuple[str, ...]] = ("understudy store pack runs/store",)

    def do(self) -> int:
        """Remove them and say which."""
        from understudy.collection.store import ClipStore

        ClipStore(self.store)  # which must be there
        removed = ClipStore(self.store, create=True).pack()
        for path in removed:
            say(f"removed {path}")
        say(f"{len(removed)} files removed")
        return 0


@dataclass(frozen=True)
class StoreRequeue(Verb):
    """Take refusals back: the prompts are asked for again by the next `understudy collect`."""

    store: _Store
    """The store's folder."""
    reason: Annotated[str, arg(metavar="WORDS", help_behavior_hint="(default: all refusals)")] = ""
    """Only those whose recorded reason holds these words."""
    prompt: Annotated[str, arg(metavar="WORDS", help_behavior_hint="(default: all prompts)")] = ""
    """Only those whose prompt holds these words."""
    dry_run: bool = False
    """Say which, and change nothing."""
    examples: ClassVar[tuple[str, ...]] = (
        "understudy store requeue runs/store",
        'understudy store requeue runs/store --reason "Exhausted balance" --dry-run',
    )

    def do(self) -> int:
        """Take them back and say which."""
        from understudy.collection.store import ClipStore

        ClipStore(self.store)  # which must be there
        store = ClipStore(self.store, create=True)
        chosen = [
            record
            for record in store
            if record.status == "rejected"
            and self.reason.casefold() in (record.reason or "").casefold()
            and self.prompt.casefold() in record.prompt.casefold()
        ]
        for record in chosen:
            say(shown(f"{record.key[:12]} {record.prompt}: {record.reason}"))
        if not self.dry_run:
            store.requeue(record.key for record in chosen)
        say(f"{len(chosen)} refusals {'would be ' if self.dry_run else ''}taken back")
        return 0


@dataclass(frozen=True)
class StoreImport(Verb):
    """Take the clips of a folder or of WebDataset tars into a clip store; every file is decoded first."""

    store: _Store
    """The store's folder; made when missing."""
    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """A folder of videos with their prompts (as the folder teacher reads it), or one tar."""
    teacher: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: named after the source)")] = None
    """Who made the clips, with version; records in tars of our own keep theirs."""
    terms: Annotated[str, arg(metavar="TEXT")] = "unknown: imported clips; the terms of whatever made them apply"
    """What the maker's terms say about training on the clips; records in tars of our own keep theirs."""
    examples: ClassVar[tuple[str, ...]] = ('understudy store import runs/store my-clips --terms "own clips"',)

    def do(self) -> int:
        """Import, and say what was refused."""
        from understudy.collection.exchange import import_clips
        from understudy.collection.store import ClipStore

        report = import_clips(ClipStore(self.store, create=True), self._clips())
        for line in report.refused:
            say(f"refused: {line}")
        say(f"{report.added} clips imported, {report.known} there already, {len(report.refused)} refused")
        return 1 if report.refused else 0

    def _clips(self) -> "Iterator[Incoming]":
        from understudy.collection.exchange import Incoming
        from understudy.teachers.base import ClipParams
        from understudy.teachers.folder.teacher import FolderTeacher
        from understudy.video.ingest.tars import tar_clips

        if self.source.is_dir():
            folder = FolderTeacher(self.source, terms=self.terms)
            for prompt in folder.prompts():
                for seed in range(folder.takes(prompt)):
                    data = folder.generate(prompt, seed, ClipParams())
                    name = folder.file(prompt, seed)
                    yield Incoming(data, prompt, self.teacher or folder.name, seed, self.terms, {}, name)
            return
        counts: dict[str, int] = {}
        for clip in tar_clips(self.source):
            if not clip.prompt:
                raise ConfigError(f"{clip.tar} has no prompt for sample {clip.key!r}; add {clip.key}.txt to it")
            take = counts[clip.prompt] = counts.get(clip.prompt, -1) + 1
            own = clip.record
            asked, number = own.get("asked"), own.get("seed")
            yield Incoming(
                clip.read(),
                clip.prompt,
                str(self.teacher or own.get("teacher") or f"import-{self.source.stem}"),
                number if isinstance(number, int) else take,
                str(own.get("terms") or self.terms),
                dict(asked) if isinstance(asked, dict) else {},
                f"sample {clip.key!r}",
            )


@dataclass(frozen=True)
class StoreExport(Verb):
    """Write a clip store as WebDataset tars or parquet, with a dataset card and Croissant metadata."""

    store: _Store
    """The store's folder."""
    out: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder to write to; made when missing."""
    format: Literal["webdataset", "parquet"] = "webdataset"
    """webdataset: tars of KEY.mp4, KEY.txt, KEY.json; parquet: a row a clip (needs pyarrow)."""
    unique: bool = False
    """Leave out clips that a prompt has already."""
    examples: ClassVar[tuple[str, ...]] = ("understudy store export runs/store out --format parquet --unique",)

    def do(self) -> int:
        """Write it and print the paths."""
        from understudy.collection.exchange import export_store
        from understudy.collection.store import ClipStore

        for path in export_store(ClipStore(self.store), self.out, self.format, self.unique):
            say(path)
        return 0
