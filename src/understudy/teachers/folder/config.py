"""The section of a folder of clips."""

from pathlib import Path
from typing import Literal

from understudy.teachers.config import TeacherSection


class FolderTeacherConfig(TeacherSection):
    """A folder of mp4 files with their prompts."""

    kind: Literal["folder"] = "folder"
    path: Path
    """Folder of mp4 files with prompts.csv (file,prompt), prompts.jsonl or one .txt beside each file."""
