"""The section of a folder of clips."""

from pathlib import Path
from typing import Literal

from understudy.teachers.config import TeacherSection


class FolderTeacherConfig(TeacherSection):
    """A folder of mp4 files with their prompts."""

    kind: Literal["folder"] = "folder"
    path: Path
    """Folder of clips with their prompts, in this project's layout or another trainer's: prompts.csv, metadata.csv or
    .jsonl, videos2caption.json, prompts.txt with videos.txt, WebDataset tars, a .txt beside each clip, VBench's names."""
    listing: Path | None = None
    """The table that lists the clips, when the folder has several or it lies elsewhere; null: the one in the folder."""
