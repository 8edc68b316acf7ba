"""What arrived is looked at before it counts as a clip."""

from collections.abc import Callable
from pathlib import Path

from understudy.video.decoding import Limits
from understudy.video.ingest.c2pa import check_training_allowed
from understudy.video.ingest.facts import measure
from understudy.video.ingest.guard import probe

Check = Callable[[Path], dict[str, object]]
"""Says what arrived in a file, or raises ClipError when it is no clip."""


def check_video(path: Path, name: str = "the clip that arrived") -> dict[str, object]:
    """Return what is in the video file ``path``, looked at in the guarded process.

    Raises:
        ClipError: it does not decode.
        TrainingForbidden: its content credentials say that it must not be trained on.
    """
    received = probe(path, name).to_json()
    credentials = check_training_allowed(path)
    return {**received, "c2pa": credentials} if credentials else received


def check_own_file(path: Path) -> dict[str, object]:
    """Return what is in a file that this program has just encoded, looked at in this process, which is cheaper."""
    with open(path, "rb") as file:
        return measure(file, "the clip that was drawn", Limits()).to_json()
