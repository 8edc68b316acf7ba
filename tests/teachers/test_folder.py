import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from understudy.collection.collect import collect, plan_jobs
from understudy.collection.store import ClipStore
from understudy.errors import ConfigError, PromptRejected, TeacherError
from understudy.teachers.base import ClipParams
from understudy.teachers.folder.teacher import FolderTeacher
from understudy.video.clips import Clip, write_mp4
from understudy.video.ingest.tars import add_member

ANY = ClipParams()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(f"clip {name}".encode())
    return tmp_path


def list_as_csv(folder: Path, text: str = "file,prompt\na.mp4,a ball\nb.mp4,a  cube\nc.mp4,a ball\n") -> None:
    (folder / "prompts.csv").write_text(text)


def list_as_jsonl(folder: Path) -> None:
    rows = [("a", "a ball"), ("b", "a cube"), ("c", "a ball")]
    lines = [json.dumps({"file": f"{name}.mp4", "prompt": prompt}) for name, prompt in rows]
    (folder / "prompts.jsonl").write_text("\n".join(lines))


def list_beside(folder: Path) -> None:
    for name, prompt in (("a", "a ball"), ("b", "a cube\n"), ("c", "a ball")):
        (folder / f"{name}.txt").write_text(prompt)


@pytest.mark.parametrize("listing", [list_as_csv, list_as_jsonl, list_beside])
def test_every_kind_of_listing_serves_the_same_clips(folder: Path, listing: Callable[[Path], None]) -> None:
    listing(folder)
    teacher = FolderTeacher(folder)
    assert teacher.prompts() == ["a ball", "a cube"]
    assert [teacher.generate("a ball", seed, ANY) for seed in range(4)] == [
        b"clip a",
        b"clip c",
        b"clip a",
        b"clip c",
    ]
    assert teacher.generate(" a cube", 2**31 - 1, ANY) == b"clip b"
    assert "terms" in teacher.terms


def test_listing_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    listing = tmp_path_factory.mktemp("elsewhere") / "list.csv"
    listing.write_text("prompt,file\na cone,b.mp4\n")
    assert FolderTeacher(folder, listing).prompts() == ["a cone"]
    with pytest.raises(ConfigError, match="does not exist"):
        FolderTeacher(folder, folder / "none.csv")


def test_name_follows_the_listing_and_not_the_place(folder: Path) -> None:
    list_as_csv(folder)
    name = FolderTeacher(folder).name
    assert FolderTeacher(folder).name == name
    moved = folder.rename(folder.with_name("moved"))
    assert FolderTeacher(moved).name == name
    list_as_csv(moved, "file,prompt\na.mp4,a ball\n")
    fewer = FolderTeacher(moved).name
    (moved / "a.mp4").write_bytes(b"another clip")
    assert len({name, fewer, FolderTeacher(moved).name}) == 3


def test_name_is_the_one_that_stores_know(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(f"clip {name}\n".encode())
        (tmp_path / f"{name}.txt").write_text(f"p {name}\n")
    assert FolderTeacher(tmp_path).name == "folder-9dbb6b633962"
    list_as_csv(tmp_path, "file,prompt\na.mp4,a ball\nb.mp4,a  cube\n./c.mp4,a ball\n")
    assert FolderTeacher(tmp_path).name == "folder-b3268f61379e"


def test_unknown_prompt_is_rejected(folder: Path) -> None:
    list_as_csv(folder)
    with pytest.raises(PromptRejected, match="no clip for prompt 'a cat'"):
        FolderTeacher(folder).generate("a cat", 0, ANY)


def test_clip_that_has_gone_is_a_teacher_error(folder: Path) -> None:
    list_as_csv(folder)
    teacher = FolderTeacher(folder)
    (folder / "b.mp4").unlink()
    with pytest.raises(TeacherError, match=r"b\.mp4 does not exist"):
        teacher.generate("a cube", 0, ANY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,prompt\na.mp4,a ball\n", r"no column 'file'.* \(columns: name, prompt\)"),
        ("file,name\na.mp4,a ball\n", "no column 'prompt'"),
        ("file,prompt\na.mp4,\n", r"left out 1 \(prompts\.csv line 2\): no prompt there"),
        ("file,prompt\nz.mp4,a ball\n", r"left out 1 \(z\.mp4\): .*line 2 lists it and it does not exist"),
        ("file,prompt\na.mp4,a \x07ball\n", r"U\+0007"),
        ("file,prompt\n", "lists no clips"),
    ],
)
def test_bad_listing_is_one_clear_line(folder: Path, text: str, words: str) -> None:
    list_as_csv(folder, text)
    with pytest.raises(ConfigError, match=words) as caught:
        FolderTeacher(folder)
    assert "\n" not in str(caught.value)


def test_folder_without_clips_or_prompts_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"left out 3 \(a\.mp4, b\.mp4, c\.mp4\): no prompt; write it to a \.txt"):
        FolderTeacher(folder)
    list_beside(folder)
    (folder / "b.txt").write_text(" \n")
    teacher = FolderTeacher(folder)
    assert teacher.prompts() == ["a ball"]
    assert teacher.notes == ("left out 1 (b.txt): it is empty; write the clip's prompt there",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="lists no clips"):
        FolderTeacher(tmp_path / "empty")
    with pytest.raises(ConfigError, match="does not exist"):
        FolderTeacher(tmp_path / "none")


def test_all_clips_of_a_prompt_are_collected(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for level in range(3):
        write_mp4(folder / f"{level}.mp4", Clip(np.full((2, 8, 8, 3), 80 * level, np.uint8), 8))
        (folder / f"{level}.txt").write_text("a ball")
    teacher = FolderTeacher(folder)
    store = ClipStore(tmp_path / "store", create=True)
    jobs = plan_jobs([*teacher.prompts(), "a cat"], 3, 0)
    report = collect(teacher, jobs, store, on_progress=lambda report: None)
    assert (report.done, report.rejected) == (3, 3)
    assert len({record.clip for record in store.records() if record.clip}) == 3


def test_names_as_vbench_writes_them(tmp_path: Path) -> None:
    for name in ("a red ball-0", "a red ball-1", "a slow-motion cube-0"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    teacher = FolderTeacher(tmp_path)
    assert teacher.prompts() == ["a red ball", "a slow-motion cube"]
    assert (teacher.takes("a red ball"), teacher.generate("a red ball", 1, ANY)) == (2, b"a red ball-1")


def test_webdataset_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:") as tar:
        for name, data in (
            ("x/0.mp4", b"one"),
            ("x/0.txt", b"a  ball\n"),
            ("x/1.mp4", b"two"),
            ("x/1.json", b'{"caption": "a cube"}'),
        ):
            add_member(tar, name, data)
    teacher = FolderTeacher(tmp_path)
    assert teacher.prompts() == ["a ball", "a cube"]
    assert (teacher.generate("a ball", 0, ANY), teacher.generate("a cube", 5, ANY)) == (b"one", b"two")


@pytest.mark.parametrize(
    ("data", "words"), [(b"junk" * 200, "not a whole, uncompressed tar"), (b"", "lists no clips|not a whole")]
)
def test_what_is_no_tar_is_one_clear_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        FolderTeacher(tmp_path)


def test_tar_without_prompts_is_one_clear_line(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:") as tar:
        add_member(tar, "0.mp4", b"one")
    with pytest.raises(ConfigError, match=r"no prompt for sample '0'; add 0\.txt"):
        FolderTeacher(tmp_path)
