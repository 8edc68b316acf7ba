"""Packing removes what stopped writers left, follows no link and leaves nothing of its own."""

import os
from pathlib import Path

import pytest

from understudy.collection.store import ClipStore, Origin
from understudy.errors import StoreError
from understudy.files import TEMPORARY_PREFIX

ORIGIN = Origin("folder-1", "a red ball", {}, 0, "own clips")


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    store = ClipStore(tmp_path / "store", create=True)
    store.add(ORIGIN, b"a clip", {"frames": 1})
    return store


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("holiday.mp4", f"{TEMPORARY_PREFIX}draft", f"{'a' * 64}.mp4"):
        (folder / name).write_bytes(b"mine")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_stopped_writers_left_goes_and_the_rest_stays(store: ClipStore) -> None:
    shard = store.clip_path(store.records()[0]).parent
    (shard / f"{'b' * 64}.mp4").write_bytes(b"no record names it")
    (shard / f"{TEMPORARY_PREFIX}1").write_bytes(b"half")
    assert [path.name for path in store.pack()] == [f"{'b' * 64}.mp4"]
    assert len(names(shard)) == 1
    assert names(store.path) == ["clips", "records.jsonl"]


def test_a_linked_shard_is_left_alone(store: ClipStore, outside: Path) -> None:
    (store.path / "clips" / "zz").symlink_to(outside)
    before = names(outside)
    assert store.pack() == []
    ClipStore(store.path, create=True)  # which drops what killed writers left
    assert names(outside) == before


def test_linked_clips_are_left_alone(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "clips").symlink_to(tmp_path)  # so that outside is a shard of it
    before = names(outside)
    assert ClipStore(tmp_path / "store", create=True).pack() == []
    assert names(outside) == before


def test_a_link_in_a_shard_is_no_file_to_remove(store: ClipStore, outside: Path) -> None:
    shard = store.clip_path(store.records()[0]).parent
    (shard / f"{'c' * 64}.mp4").symlink_to(outside / "holiday.mp4")
    assert store.pack() == []
    assert (outside / "holiday.mp4").read_bytes() == b"mine"


def test_a_lock_that_is_a_link_is_not_followed(store: ClipStore, outside: Path) -> None:
    (store.path / ".lock").unlink(missing_ok=True)
    (store.path / ".lock").symlink_to(outside / "made")
    with pytest.raises(StoreError, match="cannot write in clip store"):
        store.pack()
    assert not (outside / "made").exists()


def test_who_waits_for_the_lock_is_not_fooled_by_its_file_going_away(store: ClipStore) -> None:
    store.pack()
    assert not (store.path / ".lock").exists()
    record = store.add(Origin("folder-1", "a blue ball", {}, 0, "own clips"), b"another", {"frames": 1})
    assert store.clip_path(record).is_file()


def test_a_ledger_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store" / "records.jsonl")
    with pytest.raises(StoreError) as caught:
        ClipStore(tmp_path / "store")
    assert "\n" not in str(caught.value)


def test_a_line_without_end_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / "records.jsonl").open("wb") as file:
        file.truncate(1 << 34)
    for create in (False, True):
        with pytest.raises(StoreError, match=r"(not a|no) record"):
            ClipStore(tmp_path / "store", create=create)
