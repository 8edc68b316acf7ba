"""TensorBoard: one event file an arm and sitting, below ``tensorboard/`` in the run folder; the home of that extra.

Nothing but the tensorboard package is needed. Its video summaries want an encoder of their own, so clips are animated GIFs
in image summaries, which its page plays.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from understudy.errors import MissingExtra
from understudy.video.clips import read_mp4


class TensorBoard:
    """See `understudy.tracking.base.Tracker`.

    Args:
        folder: where the arms' folders go; ``tensorboard --logdir`` takes it.

    Raises:
        MissingExtra: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise MissingExtra("tracking with TensorBoard", "track") from error
        self._event, self._summary, self._writer = event_pb2, summary_pb2, EventFileWriter
        self._folder, self._files = folder, dict[str, Any]()

    def begin(self, arm: str) -> None:
        """Begin a file whose first event tells the page to forget the arm's earlier ones."""
        session = self._event.SessionLog(status=self._event.SessionLog.START)
        self._file(arm).add_event(self._event.Event(step=0, file_version="brain.Event:2"))
        self._file(arm).add_event(self._event.Event(step=0, session_log=session))

    def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
        """Write one point of several curves."""
        scalars = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(arm, step, scalars)

    def clip(self, arm: str, step: int, name: str, path: Path, caption: str) -> None:
        """Write a clip as an animated picture under its prompt."""
        clip = read_mp4(path)
        data = io.BytesIO()
        first, *rest = (Image.fromarray(frame) for frame in clip.frames)
        first.save(data, "GIF", save_all=True, append_images=rest, duration=round(1000 / clip.fps), loop=0)
        image = self._summary.Summary.Image(
            height=clip.height, width=clip.width, colorspace=3, encoded_image_string=data.getvalue()
        )
        self._add(arm, step, [self._summary.Summary.Value(tag=f"{caption}/{name}", image=image)])

    def close(self) -> None:
        """Write out and close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, arm: str) -> Any:
        if arm not in self._files:
            self._files[arm] = self._writer(str(self._folder / arm), flush_secs=10)
        return self._files[arm]

    def _add(self, arm: str, step: int, values: list[Any]) -> None:
        self._file(arm).add_event(self._event.Event(step=step, summary=self._summary.Summary(value=values)))
