"""Clip stores in and out: WebDataset tars and parquet, with a dataset card and Croissant metadata beside them."""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from understudy.collection.store import ClipRecord, ClipStore, Origin
from understudy.errors import ClipError, ConfigError, UnderstudyError
from understudy.files import TEMPORARY_PREFIX, ensure_folder, sha256_hex, write_bytes_atomic, write_text_atomic
from understudy.prompts import normalise
from understudy.video.clips import read_file
from understudy.video.ingest.c2pa import check_training_allowed
from understudy.video.ingest.guard import probe
from understudy.video.ingest.tars import add_member

_SHARD_CLIPS = 1000


@dataclass(frozen=True)
class Incoming:
    """A clip to take into a store.

    Attributes:
        data: the video file.
        prompt: its text.
        teacher: who made it.
        seed: which take it is.
        terms: what its maker's terms say about training on it.
        asked: the clip parameters that were asked for.
        name: what to call it in messages.
    """

    data: bytes
    prompt: str
    teacher: str
    seed: int
    terms: str
    asked: dict[str, object] = field(default_factory=dict)
    name: str = "clip"


@dataclass(frozen=True)
class ImportReport:
    """What an import did: clips taken, clips the store had, and one line for each clip refused."""

    added: int
    known: int
    refused: tuple[str, ...]


def import_clips(store: ClipStore, clips: Iterable[Incoming]) -> ImportReport:
    """Take clips into ``store``, each probed in the guarded process first; those that do not decode are refused.

    Raises:
        TrainingForbidden: a clip's content credentials forbid training; what came before is kept.
        StoreError: the store cannot be written.
    """
    added, known, refused = 0, 0, []
    scratch = store.path / f"{TEMPORARY_PREFIX}import"
    try:
        for clip in clips:
            write_bytes_atomic(scratch, clip.data)
            try:
                received = probe(scratch, clip.name).to_json()
                received["c2pa"] = check_training_allowed(scratch, clip.name)
            except ClipError as error:
                refused.append(str(error))
                continue
            before = len(store)
            store.add(Origin(clip.teacher, clip.prompt, clip.asked, clip.seed, clip.terms), clip.data, received)
            added, known = added + (len(store) > before), known + (len(store) == before)
    finally:
        scratch.unlink(missing_ok=True)
    return ImportReport(added, known, tuple(refused))


def duplicates(records: Iterable[ClipRecord]) -> list[list[ClipRecord]]:
    """Return the groups of records whose clips are the same pictures: one file, or copies with other metadata."""
    groups: dict[object, list[ClipRecord]] = {}
    for record in records:
        if record.clip is not None:
            groups.setdefault(record.received.get("stream_sha256", record.clip), []).append(record)
    return [group for group in groups.values() if len(group) > 1]


def unique(records: Sequence[ClipRecord]) -> list[ClipRecord]:
    """Return ``records`` with each prompt's repeated clips left out, the first of them kept."""
    seen, kept = set(), []
    for record in records:
        what = (normalise(record.prompt), record.received.get("stream_sha256", record.clip))
        if what not in seen:
            seen.add(what)
            kept.append(record)
    return kept


def export_store(store: ClipStore, out: Path, form: str, drop_duplicates: bool = False) -> list[Path]:
    """Write the clips of ``store`` to folder ``out`` as ``webdataset`` or ``parquet``, with README.md and croissant.json.

    Raises:
        ConfigError: the store has no clips, the form is unknown, or pyarrow is missing.
        ClipError: a clip's file is missing or has changed.
    """
    records = [record for record in store.records() if record.clip is not None]
    records = unique(records) if drop_duplicates else records
    if not records:
        raise ConfigError(f"clip store {store.path} has no clips to export; collect or import some first")
    write = {"webdataset": _write_tar, "parquet": _write_parquet}.get(form)
    if write is None:
        raise ConfigError(f"cannot export as {form!r}; choose webdataset or parquet")
    ensure_folder(out)
    suffix = "tar" if form == "webdataset" else "parquet"
    shards = [records[i : i + _SHARD_CLIPS] for i in range(0, len(records), _SHARD_CLIPS)]
    paths = []
    for number, shard in enumerate(shards):
        path = out / f"clips-{number:06d}.{suffix}"
        temporary = out / f"{TEMPORARY_PREFIX}{path.name}"
        try:
            write(temporary, store, shard)
            temporary.replace(path)
        except OSError as error:
            raise UnderstudyError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    write_text_atomic(out / "README.md", _card(records, suffix))
    write_text_atomic(out / "croissant.json", json.dumps(_croissant(records, paths, suffix), indent=2) + "\n")
    return [*paths, out / "README.md", out / "croissant.json"]


def _whole(store: ClipStore, record: ClipRecord) -> bytes:
    """Return the clip's file, which has to be the one its record names."""
    path = store.clip_path(record)
    data = read_file(path)
    if sha256_hex(data) != record.clip:
        raise ClipError(f"clip {path} has changed since it was collected; `understudy store verify` says more")
    return data


def _write_tar(path: Path, store: ClipStore, records: Sequence[ClipRecord]) -> None:
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for record in records:
            key = record.key[:24]
            add_member(tar, f"{key}.json", json.dumps(asdict(record), ensure_ascii=False).encode())
            add_member(tar, f"{key}.mp4", _whole(store, record))
            add_member(tar, f"{key}.txt", record.prompt.encode())


def _write_parquet(path: Path, store: ClipStore, records: Sequence[ClipRecord]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("parquet needs pyarrow: pip install understudy[parquet], or export as webdataset") from None
    texts = ("key", "prompt", "teacher", "terms", "clip", "record")
    schema = pa.schema([*((name, pa.string()) for name in texts), ("seed", pa.int64()), ("video", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        for low in range(0, len(records), 64):  # a row group of clips at a time: memory stays flat
            part = records[low : low + 64]
            rows: list[dict[str, Any]] = [
                {name: getattr(r, name) for name in ("key", "prompt", "teacher", "terms", "clip", "seed")}
                | {"record": json.dumps(asdict(r), ensure_ascii=False), "video": _whole(store, r)}
                for r in part
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _terms(records: Iterable[ClipRecord]) -> dict[str, str]:
    """Return what each teacher's terms say, by teacher."""
    return {record.teacher: record.terms for record in records}


def _card(records: Sequence[ClipRecord], suffix: str) -> str:
    """Return a dataset card with the metadata block that dataset hubs read."""
    times, count = sorted(record.time for record in records), len(records)
    size = next(name for most, name in _SIZES if count < most)
    teachers = "\n".join(f"| {name} | {terms} |" for name, terms in sorted(_terms(records).items()))
    return f"""---
license: other
task_categories: [text-to-video]
tags: [synthetic, video, understudy]
size_categories: [{size}]
---

# Clips of a text-to-video teacher

{count} clips of {len({r.prompt for r in records})} prompts, collected from {times[0]} to {times[-1]} by Understudy.
Every clip was made by a generator; none is a recording. Files are as they arrived: never encoded again.

| teacher | what its terms say about training on its clips |
|---|---|
{teachers}

The terms above bind whoever uses the clips. Each record names teacher, prompt, seed, parameters asked for, properties
measured on arrival, time, and the SHA-256 of the clip. Prompts were chosen by the collector and are no sample of anything.

Files: `clips-*.{suffix}`; metadata in `croissant.json`.
"""


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1 << 62, "n>100K"))


def _croissant(records: Sequence[ClipRecord], paths: Sequence[Path], suffix: str) -> dict[str, Any]:
    """Return Croissant 1.1 metadata (JSON-LD on schema.org/Dataset) with provenance and terms."""
    mime = "application/x-tar" if suffix == "tar" else "application/vnd.apache.parquet"
    terms = "; ".join(f"{name}: {text}" for name, text in sorted(_terms(records).items()))
    fields = [("prompt", "sc:Text"), ("teacher", "sc:Text"), ("seed", "sc:Integer"), ("terms", "sc:Text")]
    fields.append(("video", "sc:VideoObject"))
    return {
        "@context": {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "rai": "http://mlcommons.org/croissant/RAI/",
            "prov": "http://www.w3.org/ns/prov#",
            "sc": "https://schema.org/",
            "dct": "http://purl.org/dc/terms/",
            "conformsTo": "dct:conformsTo",
            "recordSet": "cr:recordSet",
            "field": "cr:field",
            "source": "cr:source",
            "fileObject": {"@id": "cr:fileObject", "@type": "@id"},
            "fileSet": {"@id": "cr:fileSet", "@type": "@id"},
            "extract": "cr:extract",
            "column": "cr:column",
            "fileProperty": "cr:fileProperty",
            "includes": "cr:includes",
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "name": "understudy-clips",
        "description": f"{len(records)} synthetic clips of {len({r.prompt for r in records})} prompts.",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "license": terms,
        "dateCreated": min(record.time for record in records),
        "prov:wasGeneratedBy": [
            {"@type": "prov:Activity", "prov:label": f"collection by Understudy from {name}"}
            for name in sorted(_terms(records))
        ],
        "rai:dataCollection": "Prompts were sent to the teachers named in each record; finished clips were kept unchanged.",
        "rai:dataLimitations": "Synthetic clips of chosen prompts; no recordings; the teachers' errors are in them.",
        "rai:dataBiases": "Those of the teachers and of the choice of prompts; not measured.",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": path.name,
                "name": path.name,
                "contentUrl": path.name,
                "encodingFormat": mime,
                "sha256": _file_sha256(path),
            }
            for path in paths
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "clips",
                "name": "clips",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"clips/{name}",
                        "name": name,
                        "dataType": kind,
                        "source": {"fileObject": {"@id": paths[0].name}, "extract": _extract(name, suffix)},
                    }
                    for name, kind in fields
                ],
            }
        ],
    }


def _extract(name: str, suffix: str) -> dict[str, str]:
    return {"column": name} if suffix == "parquet" else {"fileProperty": "content"}


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
