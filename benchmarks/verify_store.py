"""How long it takes to verify a store of many clips.

    python benchmarks/verify_store.py [--clips 10000] [--workers 2] [--json FILE]

The clips are the embedded world's size (64x64, 32 frames); larger ones take longer to decode in proportion to their pixels.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from understudy.collection.store import ClipRecord, ClipStore, record_key
from understudy.files import sha256_hex
from understudy.teachers.base import ClipParams
from understudy.teachers.world.teacher import WorldTeacher
from understudy.video.ingest.guard import probe_bytes


def fill(path: Path, clips: int) -> ClipStore:
    """Write a store of ``clips`` different clips: the world's, each with a number in a box that players skip."""
    store = ClipStore(path, create=True)
    teacher = WorldTeacher()
    bases = [teacher.generate("a small red ball is dropped", seed, ClipParams()) for seed in range(50)]
    facts = [probe_bytes(data).to_json() for data in bases]
    lines = []
    for number in range(clips):
        data = bases[number % 50] + b"\x00\x00\x00\x10free" + number.to_bytes(8, "big")
        digest, prompt = sha256_hex(data), f"prompt {number}"
        key = record_key("world", prompt, {}, 0)
        record = ClipRecord(key, "done", prompt, "world", {}, facts[number % 50], 0, digest, "2026-01-01", "yes", None)
        target = store.clip_path(record)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        lines.append(json.dumps(record.__dict__))
    (path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ClipStore(path)


def main() -> None:
    """Time each depth of verification."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, float] = {"clips": options.clips, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "store", options.clips)
        for name, decode, hashes in (
            ("records_and_files", False, False),
            ("hashes", False, True),
            ("decode", True, False),
        ):
            began = time.monotonic()
            problems = ClipStore(Path(folder) / "store").verify(options.workers, decode, hashes)
            assert not problems, problems[:3]
            result[name] = round(time.monotonic() - began, 2)
            print(name, result[name], flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
