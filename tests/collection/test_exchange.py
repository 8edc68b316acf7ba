import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from understudy import cli
from understudy.collection.exchange import duplicates, unique
from understudy.collection.store import ClipStore, Origin
from understudy.video.clips import Clip, encode_mp4
from understudy.video.ingest.guard import probe_bytes


def fill(path: Path, levels: tuple[int, ...] = (0, 90, 180), extra: bytes = b"") -> ClipStore:
    store = ClipStore(path, create=True)
    for seed, level in enumerate(levels):
        data = encode_mp4(Clip(np.full((4, 16, 16, 3), level, np.uint8), 8)) + extra
        received = probe_bytes(data).to_json()
        store.add(Origin("painter-1", f"a ball {level}", {"fps": 8}, seed, "yes, checked"), data, received)
    return store


def test_export_and_import_keep_every_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(tmp_path / "store")
    out = tmp_path / "out"
    assert cli.main(["store", "export", str(store.path), str(out)]) == 0
    assert cli.main(["store", "import", str(tmp_path / "copy"), str(out / "clips-000000.tar")]) == 0
    copy = ClipStore(tmp_path / "copy")
    fields = [[(r.key, r.clip, r.prompt, r.teacher, r.seed, r.terms) for r in s.records()] for s in (store, copy)]
    assert fields[0] == fields[1]
    assert copy.verify() == []
    capsys.readouterr()
    assert cli.main(["store", "import", str(tmp_path / "copy"), str(out / "clips-000000.tar")]) == 0
    assert "0 clips imported, 3 there already" in capsys.readouterr().out


def test_tar_has_one_sample_a_clip_and_is_the_same_each_time(tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    for name in ("a", "b"):
        assert cli.main(["store", "export", str(store.path), str(tmp_path / name)]) == 0
    one, two = (tmp_path / name / "clips-000000.tar" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        names = tar.getnames()
    assert sorted({name.partition(".")[2] for name in names}) == ["json", "mp4", "txt"]
    assert len(names) == 9


def test_card_and_croissant_name_teacher_and_terms(tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    assert cli.main(["store", "export", str(store.path), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: other")
    assert "| painter-1 | yes, checked |" in card
    meta = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert meta["conformsTo"].endswith("croissant/1.1")
    assert "painter-1" in meta["license"]
    assert len(meta["distribution"][0]["sha256"]) == 64


def test_parquet_holds_clips_and_records(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    store = fill(tmp_path / "store")
    assert cli.main(["store", "export", str(store.path), str(tmp_path / "out"), "--format", "parquet"]) == 0
    rows = pq.read_table(tmp_path / "out" / "clips-000000.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [record.prompt for record in store.records()]
    assert rows[0]["video"] == store.clip_path(store.records()[0]).read_bytes()


def test_missing_pyarrow_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    store = fill(tmp_path / "store")
    assert cli.main(["store", "export", str(store.path), str(tmp_path / "out"), "--format", "parquet"]) == 1
    assert "understudy[parquet]" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*clips*"))


def test_repeated_clips_are_found_and_left_out(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", (0, 0, 90))
    fill(tmp_path / "store", (90,), b"\x00\x00\x00\x09free!")  # the same pictures in another file
    records = store.records()
    assert len(duplicates(records)) == 1
    store = ClipStore(tmp_path / "store")
    assert sorted(len(group) for group in duplicates(store.records())) == [2, 2]
    assert len(unique(store.records())) == 2


def test_list_show_verify_and_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fill(tmp_path / "store")
    record = store.records()[1]
    assert cli.main(["store", "list", str(store.path)]) == 0
    assert "a ball 90" in capsys.readouterr().out
    assert cli.main(["store", "show", str(store.path), record.key[:8]]) == 0
    assert json.loads(capsys.readouterr().out)["clip"] == record.clip
    assert cli.main(["store", "show", str(store.path), "zzz"]) == 1
    assert cli.main(["store", "verify", str(store.path)]) == 0
    orphan = store.path / "clips" / "00" / f"{'0' * 64}.mp4"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    store.clip_path(record).write_bytes(b"y")
    capsys.readouterr()
    assert cli.main(["store", "verify", str(store.path)]) == 1
    out = capsys.readouterr().out
    assert "has changed" in out
    assert "no record names" in out
    assert cli.main(["store", "pack", str(store.path)]) == 0
    assert not orphan.exists()
    assert store.clip_path(record).exists()  # damaged, but a record names it


def test_undecodable_clips_are_refused_by_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a ball-0.mp4").write_bytes(encode_mp4(Clip(np.zeros((2, 8, 8, 3), np.uint8), 8)))
    (folder / "a ball-1.mp4").write_bytes(b"<html>")
    assert cli.main(["store", "import", str(tmp_path / "store"), str(folder)]) == 1
    out = capsys.readouterr().out
    assert "refused: a ball-1.mp4 is not a video file" in out
    assert "1 clips imported" in out
    assert not list((tmp_path / "store").glob(".tmp*"))
