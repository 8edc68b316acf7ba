"""The clip store: clips named by their content, and an append-only ledger of where each one came from.

Layout::

    STORE/clips/ab/<sha256>.mp4   the clips, each once however many records name it
    STORE/records.jsonl           one `ClipRecord` a line, only ever appended to
    STORE/.lock                   held while writing, by one process at a time
"""

import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from understudy.errors import ClipError, StoreError, UnderstudyError
from understudy.files import TEMPORARY_PREFIX, ensure_folder, sha256_hex, sync, write_bytes_atomic
from understudy.prompts import normalise
from understudy.reading import LINE_BYTES, Unreadable, lines_of, open_regular
from understudy.tables import read_json
from understudy.video.clips import Clip, ClipForm, Fit, read_file
from understudy.video.ingest.guard import GuardPool, read_clip

try:
    import fcntl
except ImportError:  # not a POSIX system: one writer at a time is then up to the user
    fcntl = None  # type: ignore[assignment]

_THREADS = threading.Lock()  # at module level, so that a store can be pickled


@dataclass(frozen=True)
class ClipRecord:
    """One line of the ledger: what was asked of which teacher, and what came of it.

    Attributes:
        key: `record_key` of teacher, prompt, asked and seed.
        status: ``"done"``, ``"rejected"`` when the teacher refused the prompt for good, or ``"requeued"`` when that was
            taken back; such a line only ends an earlier one.
        prompt: normalised text.
        teacher: the teacher's name with its version.
        asked: the clip parameters asked for; what was left to the teacher is absent.
        received: what arrived, as `understudy.video.ingest.probe` says it; empty when rejected.
        seed: the seed asked for.
        clip: SHA-256 of the mp4 file; None when rejected.
        time: when it was recorded, ISO 8601 in UTC.
        terms: what the teacher's terms say about training on its outputs.
        reason: why it was rejected; None when done.
        provenance: what else is known of how it came about: the teacher's job id, the cost, the prompt as the teacher
            rewrote it.
    """

    key: str
    status: str
    prompt: str
    teacher: str
    asked: dict[str, object]
    received: dict[str, object]
    seed: int
    clip: str | None
    time: str
    terms: str
    reason: str | None
    provenance: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """What is asked of whom.

    Attributes:
        teacher: the teacher's name with its version.
        prompt: its text, in any spacing.
        asked: the clip parameters asked for; None means left to the teacher.
        seed: the seed asked for.
        terms: what the teacher's terms say about training on its outputs.
    """

    teacher: str
    prompt: str
    asked: Mapping[str, object]
    seed: int
    terms: str

    @property
    def key(self) -> str:
        """Its `record_key`."""
        return record_key(self.teacher, self.prompt, self.asked, self.seed)

    def _fields(self) -> dict[str, Any]:
        """Return the fields of a `ClipRecord` that do not depend on the answer, with the present time."""
        return {
            "key": self.key,
            "prompt": normalise(self.prompt),
            "teacher": self.teacher,
            "asked": {name: value for name, value in self.asked.items() if value is not None},
            "seed": int(self.seed),
            "time": _now(),
            "terms": self.terms,
        }


def record_key(teacher: str, prompt: str, asked: Mapping[str, object], seed: int) -> str:
    """Return 64 hex digits naming one request, whatever the prompt's spacing and the order of ``asked``."""
    request = {
        "teacher": teacher,
        "prompt": normalise(prompt),
        # 8 and 8.0 frames per second are one request.
        "asked": {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in asked.items()
            if value is not None
        },
        "seed": int(seed),
    }
    return sha256_hex(json.dumps(request, sort_keys=True, separators=(",", ":")).encode("utf-8"))


class ClipStore:
    """Clips on disk with their ledger; safe against a kill at any moment and against several writers at once.

    Reading sees the records that were there when the store was opened, plus those written through this
    object; `refresh` picks up those of other writers. Records stay on disk: in memory there are only their keys.
    """

    def __init__(self, path: str | Path, create: bool = False) -> None:
        """Open the store in folder ``path``.

        Args:
            path: the store's folder.
            create: make it when missing, and repair what a killed writer left behind.

        Raises:
            StoreError: there is no store (and ``create`` is off), it is damaged, or it cannot be written.
        """
        self.path = Path(path)
        self._ledger = self.path / "records.jsonl"
        # Of every key, oldest first, where its line begins; the complement (~) of that for a rejection.
        self._lines_at: dict[bytes, int] = {}
        self._read_to = 0  # bytes of the ledger already in _lines_at
        self._lines = 0
        if create:
            try:
                ensure_folder(self.path / "clips")
            except UnderstudyError as error:
                raise StoreError(f"cannot open clip store {self.path}: {error}") from None
            with self._locked():
                self._repair()
                self._drop_temporary_files()
                sync(self.path)  # the ledger's name, before anything is told to be in it
        elif not self._ledger.is_file():
            raise StoreError(f"no clip store at {self.path}; make one with `understudy collect`")
        self.refresh()

    def __len__(self) -> int:
        """Return the number of records, rejected ones included."""
        return len(self._lines_at)

    def __contains__(self, key: object) -> bool:
        """Say whether request ``key`` is on record, as a clip or as a rejection."""
        return isinstance(key, str) and _packed(key) in self._lines_at

    def records(self) -> list[ClipRecord]:
        """Return every record, oldest first."""
        return list(self)

    def __iter__(self) -> Iterator[ClipRecord]:
        """Yield every record, oldest first, one at a time from disk."""
        with self._reading() as file:
            for at in list(self._lines_at.values()):
                yield self._record_at(file, at)

    def get(self, key: str) -> ClipRecord | None:
        """Return the record of request ``key`` (see `record_key`), or None."""
        at = self._lines_at.get(_packed(key))
        if at is None:
            return None
        with self._reading() as file:
            return self._record_at(file, at)

    def status(self, key: str) -> Literal["done", "rejected"] | None:
        """Return how request ``key`` ended, or None when it is not on record."""
        at = self._lines_at.get(_packed(key))
        return None if at is None else "done" if at >= 0 else "rejected"

    def add(
        self,
        origin: Origin,
        data: bytes,
        received: Mapping[str, object],
        provenance: Mapping[str, object] | None = None,
    ) -> ClipRecord:
        """Keep a clip: its file first, then its record, both on disk when this returns.

        A request that is done already is left as it is, and its record returned; one that was rejected before
        becomes done.

        Args:
            origin: what was asked of whom.
            data: the mp4 file, which has to decode.
            received: what arrived, as `understudy.video.ingest.guard.probe` says it.
            provenance: what else is worth keeping.

        Raises:
            StoreError: the store cannot be written; nothing is recorded then.
        """
        with self._locked():
            self._repair()
            self.refresh()
            known = self.get(origin.key)
            if known is not None and known.status == "done":
                return known
            record = ClipRecord(
                status="done",
                received=dict(received),
                clip=sha256_hex(data),
                reason=None,
                provenance=dict(provenance or {}),
                **origin._fields(),
            )
            target = self.clip_path(record)
            try:
                if not _holds(target, data):
                    ensure_folder(target.parent)
                    write_bytes_atomic(target, data)
            except UnderstudyError as error:
                raise StoreError(str(error)) from None
            self._append(record)
        return record

    def reject(self, origin: Origin, reason: str) -> ClipRecord:
        """Record that the teacher refused this request for good; a request on record is left as it is.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._locked():
            self._repair()
            self.refresh()
            known = self.get(origin.key)
            if known is not None:
                return known
            record = ClipRecord(status="rejected", received={}, clip=None, reason=reason, **origin._fields())
            self._append(record)
        return record

    def requeue(self, keys: Iterable[str]) -> None:
        """Take back the rejections of ``keys``, which are then off the record; raises as `reject`."""
        with self._locked():
            self._repair()
            self.refresh()
            for known in filter(None, map(self.get, keys)):
                if known.status == "rejected":
                    self._append(replace(known, status="requeued", time=_now()))

    def clip_path(self, record: ClipRecord) -> Path:
        """Return where the clip of ``record`` lies.

        Raises:
            StoreError: the record is a rejection, so it has no clip.
        """
        if record.clip is None:
            raise StoreError(f"record {record.key[:12]} is a rejection ({record.reason}) and has no clip")
        return self.path / "clips" / record.clip[:2] / f"{record.clip}.mp4"

    def read(self, record: ClipRecord, form: ClipForm | None = None, fit: Fit = "crop") -> Clip:
        """Decode the clip of ``record`` in the guarded process, as it is or brought to ``form``; see `Guard.read`.

        Raises:
            StoreError: the record is a rejection.
            ClipError: the file is missing, damaged, or shorter than the form.
        """
        return read_clip(self.clip_path(record), form, fit)

    def refresh(self) -> None:
        """Read the records that were appended since the last look; an unfinished last line waits for its end.

        Raises:
            StoreError: a finished line is not a record; names the line.
        """
        with self._reading() as file:
            file.seek(self._read_to)
            for line in lines_of(file):
                if not line.endswith(b"\n") and len(line) < LINE_BYTES:
                    break
                self._lines += 1
                record = _parse(line)
                if record is None:
                    raise StoreError(
                        f"{self._ledger} line {self._lines} is not a record: {line[:60]!r}; remove the line, or "
                        "restore the file from a copy"
                    )
                key, at = _packed(record.key), self._read_to
                # The first clip of a request stays; a clip outranks an earlier rejection, which may be taken back.
                if record.status == "requeued":
                    if self._lines_at.get(key, 0) < 0:
                        del self._lines_at[key]
                elif key not in self._lines_at or (self._lines_at[key] < 0 and record.status == "done"):
                    self._lines_at[key] = at if record.status == "done" else ~at
                self._read_to += len(line)

    def verify(self, workers: int = 1, decode: bool = True, hashes: bool = True) -> list[str]:
        """Return one line for each problem, none when all is well.

        Args:
            workers: decoding processes at work side by side.
            decode: decode every clip to its end.
            hashes: compare every file with the content it is named by.
        """
        problems: list[str] = []
        named: dict[Path, ClipRecord] = {}
        for record in self:
            if record.clip is not None:
                named.setdefault(self.clip_path(record), record)
        guards = GuardPool(workers)

        def problem(path: Path, record: ClipRecord) -> str | None:
            what = f"clip {path.name[:12]} of prompt {record.prompt!r}"
            if not path.is_file():
                return f"{what} is missing: no file {path}"
            try:
                if hashes and sha256_hex(read_file(path)) != record.clip:
                    return f"{what} has changed: {path} no longer has the content it is named by"
                if decode:
                    with guards.borrow() as guard:
                        guard.check(path, what)
            except ClipError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(workers) as pool:
            problems += filter(None, pool.map(problem, named.keys(), named.values()))
        guards.close()
        for path in sorted((self.path / "clips").glob("**/*")):
            if path.is_file() and path not in named:
                problems.append(f"no record names {path}: its writer was stopped; safe to delete")
        return problems

    def pack(self) -> list[Path]:
        """Remove the files that no record names, left by writers that were killed; return them.

        Links are not followed, and nothing outside the store is touched; the lock made for this goes as well.
        """
        with self._locked():
            self._repair()
            self.refresh()
            self._drop_temporary_files()
            named = {self.clip_path(record) for record in self if record.clip is not None}
            removed = _removed(self.path / "clips", lambda path: path.suffix == ".mp4" and path not in named)
            with suppress(OSError):
                os.unlink(self.path / ".lock")
        return removed

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """Open the ledger to read."""
        try:
            file = open_regular(self._ledger)
        except FileNotFoundError:
            raise StoreError(f"cannot read {self._ledger}: no such file or directory") from None
        except Unreadable as error:
            raise StoreError(f"cannot read {self._ledger}: {error}") from None
        with file:
            yield file

    def _record_at(self, file: BinaryIO, at: int) -> ClipRecord:
        """Return the record whose line begins at ``at`` or, a rejection, at ``~at``."""
        file.seek(at if at >= 0 else ~at)
        record = _parse(file.readline())
        if record is None:
            raise StoreError(f"{self._ledger} was changed while it was in use; open the store again")
        return record

    def _append(self, record: ClipRecord) -> None:
        """Append ``record`` to the ledger, whole and on disk, or not at all; needs the lock."""
        line = (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode("utf-8")
        try:
            # Unbuffered: a buffered writer would flush the bytes of a failed write when it is closed.
            with open(self._ledger, "ab", buffering=0) as file:
                end = file.tell()
                try:
                    written = 0
                    while written < len(line):
                        written += file.write(line[written:])
                    os.fsync(file.fileno())
                except BaseException:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise StoreError(f"cannot write {self._ledger}: {_reason(error)}") from None
        self.refresh()

    def _repair(self) -> None:
        """End the ledger with a whole line, whatever a killed writer left at its end; needs the lock."""
        try:
            with open(self._ledger, "a+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size == 0:
                    return
                file.seek(size - 1)
                if file.read(1) == b"\n":
                    return
                start = max(0, size - LINE_BYTES)
                file.seek(start)
                content = file.read(LINE_BYTES)
                at = content.rfind(b"\n") + 1
                if start and not at:
                    raise StoreError(
                        f"{self._ledger} ends with {LINE_BYTES} bytes that are no record; restore the file"
                    )
                start += at
                if _parse(content[at:]) is not None:
                    file.write(b"\n")  # only the line's end was lost
                else:
                    file.truncate(start)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write {self._ledger}: {_reason(error)}") from None

    def _drop_temporary_files(self) -> None:
        """Remove half-written clips; needs the lock, under which every one belongs to a dead writer."""
        _removed(self.path / "clips", lambda path: path.name.startswith(TEMPORARY_PREFIX))

    def _locked(self) -> AbstractContextManager[None]:
        """Keep every other writer out, in this process and in others."""
        return _exclusive(self.path)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of the store in ``folder``."""
    with _THREADS:
        descriptor = _lock(folder)
        try:
            yield
        finally:
            os.close(descriptor)  # which lets the lock go


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the lock of a store; `pack` may take its file away while others wait for it."""
    path = folder / ".lock"
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise StoreError(f"cannot write in clip store {folder}: {_reason(error)}") from None
        try:
            if fcntl is not None:
                # A file system without locks leaves it to the user to run one writer at a time.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            there, own = os.stat(path), os.fstat(descriptor)
            if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _removed(folder: Path, unwanted: Callable[[Path], bool]) -> list[Path]:
    """Remove the unwanted regular files one level below ``folder`` and return them; no link is followed on the way."""
    found: list[Path] = []
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        top = os.open(folder, flags)
    except OSError:  # a link, or nothing there
        return found
    try:
        for shard in sorted(os.listdir(top)):
            try:
                inner = os.open(shard, flags, dir_fd=top)
            except OSError:
                continue
            try:
                for name in sorted(os.listdir(inner)):
                    path = folder / shard / name
                    regular = stat.S_ISREG(os.stat(name, dir_fd=inner, follow_symlinks=False).st_mode)
                    if regular and unwanted(path):
                        os.unlink(name, dir_fd=inner)
                        found.append(path)
            finally:
                os.close(inner)
    finally:
        os.close(top)
    return found


def _packed(key: str) -> bytes:
    """Return ``key`` in half the memory where it is what `record_key` returns."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode()


def _parse(line: bytes) -> ClipRecord | None:
    """Return the record in ``line``, or None when it holds none; names it does not know are left out."""
    try:
        values = {"provenance": {}, **read_json(line)}  # which earlier versions did not write
        record = ClipRecord(**{field.name: values[field.name] for field in fields(ClipRecord)})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (record.key, record.status, record.prompt, record.teacher, record.time, record.terms)
    objects = (record.asked, record.received, record.provenance)
    if not (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(value, dict) for value in objects)
        and isinstance(record.seed, int)
        and isinstance(record.reason, str | None)
    ):
        return None
    clip_fits = isinstance(record.clip, str) and re.fullmatch(r"[0-9a-f]{64}", record.clip)
    return record if record.status in ("rejected", "requeued") or (record.status == "done" and clip_fits) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holds(path: Path, data: bytes) -> bool:
    """Say whether ``path`` is a file with just this content."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _reason(error: OSError) -> str:
    """Return what went wrong without the path, which the caller names itself."""
    return (error.strerror or str(error)).lower()
