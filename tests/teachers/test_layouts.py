"""Folders as other trainers document them, each read as it is, and what is left out of them said."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from understudy.errors import ConfigError
from understudy.teachers.base import ClipParams
from understudy.teachers.folder.teacher import FolderTeacher
from understudy.teachers.layouts import find_clips
from understudy.video.ingest.tars import add_member

CUT = "a long prompt " * 13

LAYOUTS: dict[str, dict[str, str]] = {
    "Hugging Face videofolder": {"metadata.csv": "file_name,text\na.mp4,a ball\nb.mp4,a cube\n"},
    "videofolder, JSON lines": {
        "metadata.jsonl": '{"file_name": "a.mp4", "text": "a ball"}\n{"file_name": "b.mp4", "text": "a cube"}\n'
    },
    "videofolder, clips below": {"metadata.csv": "file_name,text\nvideos/a.mp4,a ball\nvideos/b.mp4,a cube\n"},
    "videofolder, a listing a split": {
        "train/metadata.csv": "file_name,text\na.mp4,a ball\n",
        "test/metadata.csv": "file_name,text\nb.mp4,a cube\n",
    },
    "DiffSynth": {"metadata.csv": "video,prompt\na.mp4,a ball\nb.mp4,a cube\n"},
    "finetrainers, two lists": {"prompts.txt": "a ball\na cube\n", "videos.txt": "videos/a.mp4\nvideos/b.mp4\n"},
    "finetrainers, other names": {"caption.txt": "a ball\na cube\n\n", "video.txt": "a.mp4\nb.mp4\n"},
    "finetrainers, a file each": {"a.txt": "a ball", "b.txt": "a cube", "b.mov": ""},
    "diffusion-pipe": {"a.txt": "a ball\n", "b.txt": "a\ncube", "cache/metadata.db": "x"},
    "diffusion-pipe, captions.json": {"captions.json": json.dumps({"a.mp4": "a ball", "b.mp4": ["a cube", "a box"]})},
    "musubi-tuner": {"sub/a.caption": "a ball", "sub/b.caption": "a cube"},
    "musubi-tuner, JSON lines": {
        "mine.jsonl": '{"video_path": "a.mp4", "caption": "a ball"}\n{"video_path": "b.mp4", "caption": "a cube"}\n'
    },
    "FastVideo": {
        "videos2caption.json": json.dumps(
            [{"path": "a.mp4", "cap": ["a ball"], "fps": 16.0}, {"path": "b.mp4", "cap": ["a cube"], "fps": 16.0}]
        ),
        "videos/a.mp4": "",
        "videos/b.mp4": "",
    },
    "VideoX-Fun": {
        "metadata.json": json.dumps(
            [{"file_path": "a.mp4", "text": "a ball", "type": "video"}, {"file_path": "b.mp4", "text": "a cube"}]
        )
    },
    "LTX": {
        "dataset.json": json.dumps(
            [{"caption": "a ball", "media_path": "a.mp4"}, {"caption": "a cube", "media_path": "b.mp4"}]
        )
    },
    "CogVideoX": {"labels/a.txt": "a ball", "labels/b.txt": "a cube", "videos/a.mp4": "", "videos/b.mp4": ""},
    "OpenVid": {
        "OpenVid-1M.csv": "video,caption,frame\na.mp4,a ball,9\nb.mp4,a cube,9\n",
        "video/a.mp4": "",
        "video/b.mp4": "",
    },
    "img2dataset, files": {"a.json": '{"caption": "a ball"}', "b.json": '{"caption": "a cube"}'},
    "VBench": {"a ball-0.mp4": "", "a cube-0.mp4": "", "a cube-1.mp4": ""},
    "VBench-2.0": {"Diversity/a ball-0.mp4": "", "Mechanics/a cube-0.mp4": "", "Mechanics/a cube-1.mp4": ""},
    "Windows paths": {
        "prompts.csv": "file,prompt\nsub\\a.mp4,a ball\nsub\\b.mp4,a cube\n",
        "sub/a.mp4": "",
        "sub/b.mp4": "",
    },
    "columns in capitals": {"metadata.csv": "ID,File_Name,Caption\n1,a.mp4,a ball\n2,b.mp4,a cube\n"},
}


def lay_out(folder: Path, files: dict[str, str]) -> None:
    """Write the texts, and beside them a.mp4 and b.mp4 wherever the layout has its clips."""
    names = [name for name in files if name.endswith((".mp4", ".mov"))]
    listed = json.dumps(files)
    for stem in "ab":
        if not any(Path(name).stem == stem or Path(name).stem[-2:-1] == "-" for name in names):
            inner = next((top for top in ("videos", "sub") if f"{top}/{stem}." in listed), "")
            inner = {"a": "train", "b": "test"}[stem] if "train/metadata.csv" in files else inner
            names.append(f"{inner}/{stem}.mp4" if inner else f"{stem}.mp4")
    for name, text in {**files, **{name: f"clip {name}" for name in names}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, newline="")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_trainer_is_read_as_it_is(tmp_path: Path, layout: str) -> None:
    lay_out(tmp_path, LAYOUTS[layout])
    (tmp_path / "._a.mp4").write_bytes(b"resource fork")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "a.mp4").write_bytes(b"resource fork")
    teacher = FolderTeacher(tmp_path)
    assert sorted(teacher.prompts()) == ["a ball", "a cube"]
    assert teacher.takes("a cube") == (2 if layout.startswith("VBench") else 1)
    assert teacher.generate("a ball", 0, ClipParams()).startswith(b"clip ")
    assert b"a" in teacher.generate("a ball", 0, ClipParams()).removeprefix(b"clip ")
    assert not any("left out" in note for note in teacher.notes)
    assert teacher.source


def test_tars_one_level_down(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "0.tar", "w:") as tar:
        add_member(tar, "0.mp4", b"one")
        add_member(tar, "0.json", b'{"text": "a ball"}')
        add_member(tar, "._0.mp4", b"resource fork")
        add_member(tar, "1.mp4", b"two")
    layout = find_clips(tmp_path)
    assert [clip.prompt for clip in layout.clips] == ["a ball"]
    assert layout.notes == ["left out 1 (1 in 0.tar): no prompt for sample '1'; add 1.txt"]


def beside(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"{i}.mp4").write_bytes(b"x")
        (folder / f"{i}.txt").write_text(f"prompt {i}")


def test_one_odd_file_turns_no_scheme_off_unsaid(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"a ball-{i}.mp4").write_bytes(b"x")
    (tmp_path / "intro.mp4").write_bytes(b"x")
    (tmp_path / "notes.mp4").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("a cube")
    layout = find_clips(tmp_path)
    assert [clip.prompt for clip in layout.clips] == ["a ball"] * 4 + ["a cube"]
    both, left = layout.notes
    assert "4 clips have their prompt in their name, 1 in a text beside them" in both
    assert left.startswith("left out 1 (intro.mp4): no prompt; write it to a .txt of the same name")


def test_names_are_no_prompts_where_most_clips_have_texts(tmp_path: Path) -> None:
    beside(tmp_path, 3)
    (tmp_path / "clip-7.mp4").write_bytes(b"x")
    layout = find_clips(tmp_path)
    assert [clip.prompt for clip in layout.clips] == ["prompt 0", "prompt 1", "prompt 2"]
    assert [note.startswith("left out 1 (clip-7.mp4)") for note in layout.notes] == [True]


def test_names_that_were_cut_are_said(tmp_path: Path) -> None:
    (tmp_path / f"{CUT[:180]}-0.mp4").write_bytes(b"x")
    assert "where VBench and Self-Forcing cut prompts" in find_clips(tmp_path).notes[0]


def test_what_a_listing_does_not_list_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    beside(tmp_path, 3)
    rows = "".join(f"{i}.mp4,prompt {i}\n" for i in (0, 1, 5))
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{rows}0.mp4,\n")
    (tmp_path / "prompts.jsonl").write_text('{"file": "2.mp4", "prompt": "another"}\n')
    (tmp_path / "metadata.csv").rename(tmp_path / "prompts.csv")
    layout = find_clips(tmp_path)
    assert [clip.name for clip in layout.clips] == ["0.mp4", "1.mp4"]
    notes = " | ".join(layout.notes)
    for words in (
        "prompts.jsonl is there as well and is not read",
        "left out 1 (5.mp4): ",
        "lists it and it does not exist",
        "left out 1 (prompts.csv line 5): no prompt there",
        "left out 1 (2.mp4): not usable in prompts.csv",
    ):
        assert words in notes


def test_lists_of_unequal_length_and_with_holes(tmp_path: Path) -> None:
    beside(tmp_path, 2)
    (tmp_path / "videos.txt").write_text("0.mp4\n1.mp4\n")
    (tmp_path / "prompts.txt").write_text("# no comment here\n\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt has 1 lines and .*videos\.txt has 2"):
        find_clips(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n#rain\n")
    layout = find_clips(tmp_path)
    assert [(clip.name, clip.prompt) for clip in layout.clips] == [("1.mp4", "#rain")]
    assert "left out 1 (videos.txt line 1): no prompt there" in layout.notes


@pytest.mark.parametrize(
    "name", ["../secret.mp4", "sub/../../secret.mp4", "link.mp4", "linked/secret.mp4", "{outside}"]
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "txt", "down"])
def test_a_listing_names_nothing_outside_its_folder(tmp_path: Path, name: str, kind: str) -> None:
    folder, secret = tmp_path / "clips", tmp_path / "secret.mp4"
    inner = folder / "train" if kind == "down" else folder
    inner.mkdir(parents=True)
    secret.write_bytes(b"secret")
    beside(inner, 1)
    os.symlink(secret, inner / "link.mp4")
    os.symlink(tmp_path, inner / "linked")
    name = name.replace("{outside}", str(secret))
    if kind == "down":
        name = name.replace("../secret.mp4", "../../secret.mp4")
    row = {"file": name, "prompt": "a ball"}
    {
        "csv": lambda: (folder / "prompts.csv").write_text(f"file,prompt\n0.mp4,x\n{name},a ball\n"),
        "down": lambda: (inner / "metadata.csv").write_text(f"file_name,text\n0.mp4,x\n{name},a ball\n"),
        "jsonl": lambda: (folder / "mine.jsonl").write_text(f'{{"file": "0.mp4", "prompt": "x"}}\n{json.dumps(row)}\n'),
        "json": lambda: (folder / "videos2caption.json").write_text(json.dumps([row])),
        "txt": lambda: [(folder / "videos.txt").write_text(name), (folder / "prompts.txt").write_text("a ball")],
    }[kind]()
    with pytest.raises(ConfigError, match=r"ends outside of .*; move the file itself there") as caught:
        find_clips(folder)
    assert "\n" not in str(caught.value)


def test_paths_that_end_inside_are_taken(tmp_path: Path) -> None:
    beside(tmp_path, 2)
    os.symlink(tmp_path / "1.mp4", tmp_path / "same.mp4")
    rows = [(str(tmp_path / "0.mp4"), "a ball"), ("same.mp4", "a cube")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"video_path": n, "caption": p}) + "\n" for n, p in rows))
    first = FolderTeacher(tmp_path)
    assert first.prompts() == ["a ball", "a cube"]
    assert first.generate("a ball", 0, ClipParams()) == b"x"


def test_links_that_end_outside_are_no_clips_and_no_prompts(tmp_path: Path) -> None:
    folder, secret = tmp_path / "clips", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("a secret")
    beside(folder, 1)
    (folder / "1.mp4").write_bytes(b"x")
    os.symlink(secret, folder / "1.txt")
    os.symlink(secret, folder / "2.mp4")
    os.symlink(tmp_path, folder / "out")
    layout = find_clips(folder)
    assert [clip.prompt for clip in layout.clips] == ["prompt 0"]
    assert "left out 1 (2.mp4): a link that ends outside the folder; copy the file in" in layout.notes
    assert "left out 1 (out/): a link that ends outside the folder; copy it in" in layout.notes


def test_odd_names_and_no_files(tmp_path: Path) -> None:
    beside(tmp_path, 1)
    os.symlink(tmp_path / "loop.mp4", tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    names = ["0.mp4", "nul\0.mp4", "x" * 5000 + ".mp4", "loop.mp4", "pipe.mp4", ".", ""]
    rows = [{"file": name, "prompt": "a ball"} for name in names]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    layout = find_clips(tmp_path)
    assert [clip.name for clip in layout.clips] == ["0.mp4"]
    (tmp_path / "prompts.jsonl").unlink()
    assert [clip.name for clip in find_clips(tmp_path).clips] == ["0.mp4"]


def test_several_listings_are_asked_about_and_one_can_be_named(tmp_path: Path) -> None:
    beside(tmp_path, 2)
    (tmp_path / "one.csv").write_text("video,caption\n0.mp4,a ball\n")
    (tmp_path / "two.csv").write_text("video,caption\n1.mp4,a cube\n")
    with pytest.raises(ConfigError, match=r"several listings \(one\.csv, two\.csv\); say which: teacher\.listing"):
        find_clips(tmp_path)
    assert [clip.prompt for clip in find_clips(tmp_path, tmp_path / "two.csv").clips] == ["a cube"]


def test_files_that_only_look_like_listings_turn_nothing_off(tmp_path: Path) -> None:
    beside(tmp_path, 2)
    (tmp_path / "settings.json").write_text('{"name": "x", "about": "y"}')
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "scores.csv").write_text("file,prompt\ngone.mp4,a ball\n")
    (tmp_path / "train.jsonl").write_text('{"prompt": "prompt 0"}\n')
    assert [clip.prompt for clip in find_clips(tmp_path).clips] == ["prompt 0", "prompt 1"]


def test_the_message_names_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        find_clips(tmp_path)
    for words in (
        "left out 1 (a.mp4)",
        "prompts.csv",
        "metadata.jsonl",
        "videos2caption.json",
        "videos.txt",
        ".tar",
        "x.txt beside",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"metadata\.parquet is not read; write its columns"):
        find_clips(tmp_path)
