import errno
import json
import os
import pickle
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from understudy.collection.store import ClipRecord, ClipStore, Origin, record_key
from understudy.errors import ClipError, StoreError
from understudy.files import sha256_hex
from understudy.video.clips import Clip, encode_mp4

TEACHER, TERMS = "world-1", "free to use"


def mp4(level: int) -> bytes:
    return encode_mp4(Clip(np.full((2, 8, 8, 3), level, np.uint8), 8))


def add(store: ClipStore, prompt: str = "a ball", seed: int = 0, level: int = 0) -> ClipRecord:
    data = mp4(level)
    return store.add(Origin(TEACHER, prompt, {"frames": 2, "fps": None}, seed, TERMS), data, {"fps": 8.0})


def reject(store: ClipStore, prompt: str = "a ball", seed: int = 0) -> ClipRecord:
    return store.reject(Origin(TEACHER, prompt, {"frames": 2}, seed, TERMS), "not allowed")


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    return ClipStore(tmp_path / "store", create=True)


def ledger(store: ClipStore) -> Path:
    return store.path / "records.jsonl"


def test_clip_comes_back_with_where_it_came_from(store: ClipStore) -> None:
    record = add(store, "a  red ball ", seed=7, level=90)
    reopened = ClipStore(store.path)
    assert reopened.records() == [record]
    assert reopened.get(record.key) == record
    assert (record.key in reopened, reopened.status(record.key)) == (True, "done")
    assert ("0" * 64 in reopened, reopened.status("0" * 64)) == (False, None)
    assert len(reopened) == 1
    assert record.key == record_key(TEACHER, "a red ball", {"frames": 2}, 7)
    assert (record.status, record.prompt, record.teacher, record.seed) == ("done", "a red ball", TEACHER, 7)
    assert (record.asked, record.terms, record.reason) == ({"frames": 2}, TERMS, None)
    assert record.received["fps"] == 8
    assert record.time.endswith("+00:00")
    data = mp4(90)
    assert record.clip == sha256_hex(data)
    path = reopened.clip_path(record)
    assert path == store.path / "clips" / record.clip[:2] / f"{record.clip}.mp4"
    assert path.read_bytes() == data
    assert reopened.read(record).frames.shape == (2, 8, 8, 3)
    assert reopened.verify() == []


def test_key_tells_requests_apart_and_nothing_else() -> None:
    key = record_key("t", "a ball", {"frames": 8, "fps": 8}, 1)
    assert key == record_key("t", " a  ball", {"fps": 8.0, "frames": 8, "width": None}, 1)
    others = [
        record_key("u", "a ball", {"frames": 8, "fps": 8}, 1),
        record_key("t", "a cube", {"frames": 8, "fps": 8}, 1),
        record_key("t", "a ball", {"frames": 8}, 1),
        record_key("t", "a ball", {"frames": 8, "fps": 8}, 2),
    ]
    assert len({key, *others}) == 5


def test_same_request_is_kept_once_and_same_clip_is_stored_once(store: ClipStore) -> None:
    first = add(store, level=1)
    assert add(store, level=2) == first
    assert add(store, seed=1, level=1).clip == first.clip
    assert len(store) == 2
    assert len(list(store.path.glob("clips/*/*"))) == 1
    assert len(ledger(store).read_bytes().splitlines()) == 2


def test_rejection_is_recorded_once_and_gives_way_to_a_clip(store: ClipStore) -> None:
    refused = reject(store)
    assert reject(store) == refused
    assert (refused.status, refused.clip, refused.reason) == ("rejected", None, "not allowed")
    assert store.status(refused.key) == "rejected"
    with pytest.raises(StoreError, match="is a rejection"):
        store.read(refused)
    made = add(store)
    assert reject(store) == made
    assert ClipStore(store.path).records() == [made]
    assert ClipStore(store.path).verify() == []


def test_missing_store_names_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no clip store at .*understudy collect"):
        ClipStore(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        ClipStore(tmp_path / "file", create=True)


def test_last_line_torn_anywhere_is_ignored_in_reading_and_repaired_in_writing(store: ClipStore) -> None:
    kept, lost = add(store, seed=0), add(store, seed=1)
    content = ledger(store).read_bytes()
    start = content.index(b"\n") + 1
    for end in range(start, len(content)):
        ledger(store).write_bytes(content[:end])
        reader = ClipStore(store.path)
        assert reader.records() == [kept]
        assert ledger(store).read_bytes() == content[:end]
        ClipStore(store.path, create=True)
        # All but the line's end: then nothing is lost.
        expected = content if end == len(content) - 1 else content[:start]
        assert ledger(store).read_bytes() == expected
    ledger(store).write_bytes(content[:-20])
    reader = ClipStore(store.path)
    again = add(reader, seed=1)  # adding to a store that was opened for reading repairs it as well
    assert (again.key, again.clip) == (lost.key, lost.clip)
    assert [record.seed for record in ClipStore(store.path).records()] == [0, 1]


def test_line_torn_by_another_writer_meanwhile_is_repaired(store: ClipStore) -> None:
    add(store, seed=0)
    with open(ledger(store), "ab") as file:
        file.write(b'{"key": "ab')
    add(store, seed=1)
    assert [record.seed for record in ClipStore(store.path).records()] == [0, 1]


@pytest.mark.parametrize("line", [b"{}", b"nonsense", b"", b"[1]", b'{"key": "x", "status": "done"}', b"\xff"])
def test_corrupt_line_is_named(store: ClipStore, line: bytes) -> None:
    add(store, seed=0)
    content = ledger(store).read_bytes()
    ledger(store).write_bytes(content + line + b"\n" + content)
    for create in (False, True):
        with pytest.raises(StoreError, match=r"records\.jsonl line 2 is not a record") as caught:
            ClipStore(store.path, create=create)
        assert "\n" not in str(caught.value)


def test_fields_of_a_later_version_are_left_alone(store: ClipStore) -> None:
    record = add(store)
    values = json.loads(ledger(store).read_text())
    ledger(store).write_text(json.dumps(values | {"later": 1}) + "\n")
    assert ClipStore(store.path).records() == [record]


def test_verify_names_every_kind_of_problem(store: ClipStore) -> None:
    missing, changed, broken, good = (add(store, f"p{i}", level=60 * i) for i in range(4))
    store.clip_path(missing).unlink()
    store.clip_path(changed).write_bytes(b"other")
    orphan = store.path / "clips" / "00" / f"{'0' * 64}.mp4"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"orphan")
    # A record that names content that was never a clip.
    junk = b"\x00\x00\x00\x08ftyp"
    store.clip_path(broken).unlink()
    text = ledger(store).read_text().replace(str(broken.clip), sha256_hex(junk))
    ledger(store).write_text(text)
    reopened = ClipStore(store.path)
    named = reopened.get(broken.key)
    assert named is not None
    reopened.clip_path(named).parent.mkdir(exist_ok=True)
    reopened.clip_path(named).write_bytes(junk)
    problems = reopened.verify()
    assert len(problems) == 4
    for prompt, words in (
        ("p0", "is missing"),
        ("p1", "has changed"),
        ("p2", "damaged or cut short|no frames"),
    ):
        assert [p for p in problems if prompt in p and any(w in p for w in words.split("|"))], (
            prompt,
            problems,
        )
    assert "no record names" in problems[-1]
    with pytest.raises(ClipError, match="does not exist"):
        reopened.read(missing)
    assert reopened.read(good).length == 2


def test_half_written_clips_of_a_killed_writer_go_when_writing_begins(store: ClipStore) -> None:
    record = add(store)
    leftover = store.clip_path(record).parent / ".tmp-0123"
    leftover.write_bytes(b"half")
    assert "no record names" in ClipStore(store.path).verify()[0]
    assert ClipStore(store.path, create=True).verify() == []


def test_clip_written_by_a_killed_writer_is_taken_up(store: ClipStore) -> None:
    record = add(store)
    ledger(store).write_bytes(b"")
    before = store.clip_path(record).stat().st_mtime_ns
    again = add(ClipStore(store.path, create=True))
    assert again.clip == record.clip
    assert store.clip_path(record).stat().st_mtime_ns == before


@pytest.mark.parametrize("failing", [1, 3])
def test_full_disk_records_nothing_and_the_next_attempt_works(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The first sync is the clip's, the third the ledger's (the second is the clip's folder)."""
    add(store, seed=0)
    before = ledger(store).read_bytes()
    calls = 0
    sync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left on device") as caught:
        add(store, seed=1, level=50)
    assert "\n" not in str(caught.value)
    assert ledger(store).read_bytes() == before
    assert len(store) == 1
    assert len(ClipStore(store.path)) == 1
    add(store, seed=1, level=50)
    assert len(ClipStore(store.path)) == 2
    assert ClipStore(store.path).verify() == []


def test_two_stores_on_one_folder_see_each_other_when_writing(store: ClipStore) -> None:
    other = ClipStore(store.path)
    first = add(store, level=1)
    assert other.get(first.key) is None
    assert add(other, level=2) == first
    add(store, seed=1)
    assert len(other) == 1
    other.refresh()
    assert len(other) == 2


def test_threads_may_share_a_store(store: ClipStore) -> None:
    clips = [mp4(level) for level in range(3)]

    def work() -> None:
        for seed in range(20):
            store.add(Origin(TEACHER, "a ball", {}, seed, TERMS), clips[seed % 3], {})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.seed for record in ClipStore(store.path).records()) == list(range(20))
    assert len(ledger(store).read_bytes().splitlines()) == 20


def test_store_can_be_sent_to_another_process(store: ClipStore) -> None:
    record = add(store)
    assert pickle.loads(pickle.dumps(store)).read(record).length == 2


def test_works_where_files_cannot_be_locked(store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.collection.store.fcntl", None)
    add(store)
    assert len(ClipStore(store.path, create=True)) == 1


def test_records_are_not_kept_in_memory(store: ClipStore) -> None:
    clip, received = mp4(0), {f"field {i}": "x" * 40 for i in range(50)}
    for seed in range(20):
        store.add(Origin(TEACHER, "a ball", {}, seed, TERMS), clip, received)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for seed in range(20, 70):
            store.add(Origin(TEACHER, "a ball", {}, seed, TERMS), clip, received)
        opened = ClipStore(store.path)
        grown = (tracemalloc.get_traced_memory()[0] - before) / 120  # 50 and 70 records
    finally:
        tracemalloc.stop()
    assert grown < 600 < len(json.dumps(received))
    assert [record.seed for record in opened] == list(range(70))


def test_a_ledger_that_changed_under_us_is_an_error(store: ClipStore) -> None:
    kept = add(store)
    ledger(store).write_bytes(b"x" * ledger(store).stat().st_size)
    with pytest.raises(StoreError, match="changed while it was in use"):
        store.get(kept.key)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": 7},
        {"prompt": None},
        {"teacher": ["a"]},
        {"asked": "x"},
        {"received": None},
        {"provenance": []},
        {"seed": "1"},
        {"reason": 7},
        {"clip": "../" * 21 + "x"},
        {"clip": "G" * 64},
        {"status": "perhaps"},
        "[" * 100_000,
        '{"key": ' + "9" * 9_000 + "}",
        "7",
        "[]",
    ],
)
def test_a_damaged_record_is_one_clear_line(store: ClipStore, change: object) -> None:
    add(store)
    line = json.loads(ledger(store).read_text())
    damaged = json.dumps({**line, **change}) if isinstance(change, dict) else str(change)
    ledger(store).write_text(f"{json.dumps(line)}\n{damaged}\n")
    with pytest.raises(StoreError, match=r"records\.jsonl line 2 is not a record") as caught:
        ClipStore(store.path)
    assert "\n" not in str(caught.value)


def test_a_record_with_half_a_surrogate_pair_is_cleaned(store: ClipStore) -> None:
    add(store, prompt="a ball")
    text = ledger(store).read_text().replace("a ball", "a \\ud800 ball")
    ledger(store).write_text(text)
    (record,) = ClipStore(store.path).records()
    assert record.prompt == "a \ufffd ball"


def test_a_rejection_can_be_taken_back_and_a_clip_cannot(store: ClipStore) -> None:
    refused, done = reject(store, "a cone"), add(store)
    store.requeue([refused.key, done.key, "0" * 64])
    for opened in (store, ClipStore(store.path)):
        assert opened.records() == [done]
        assert (refused.key in opened, done.key in opened, len(opened)) == (False, True, 1)
    again = reject(store, "a cone")
    assert again.key == refused.key
    assert ClipStore(store.path).status(again.key) == "rejected"
    assert len(ledger(store).read_text().splitlines()) == 4
