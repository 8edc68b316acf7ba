"""A run's clips as looping pictures inside the page.

WebP and not mp4: the runs' 4:4:4 H.264 does not play in every browser, an animated picture does, in step with others.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from PIL import Image

from understudy.errors import ClipError
from understudy.evaluation.report.record import Record
from understudy.reading import read_json
from understudy.video.clips import Clip, read_mp4

_SIDE: Final = 144  # px of the longer side on the page, at least
_LARGEST: Final = 288
_SECONDS: Final = 8.0
_TOTAL: Final = 4 << 20  # bytes of all pictures; base64 adds a third
_PROMPTS, _TAKES = 8, 2
_FIRST, _LAST = ("teacher", "start", "sft"), 99
# (quality, keep every n-th frame, scale): each step about halves the bytes
_LADDER: Final = ((90, 1, 1.0), (75, 1, 1.0), (50, 1, 1.0), (50, 2, 0.7), (35, 3, 0.5))


@dataclass(frozen=True)
class Player:
    """A looping picture, or why there is none.

    Attributes:
        uri: data URI of an animated WebP, "" when the clip is missing.
        width, height: in px.
        seconds: how long the clip lasts; longer ones are shown up to ``shown`` seconds.
        problem: what to say in its place.
    """

    uri: str
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    shown: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """The clips of one prompt: for each arm its takes."""

    prompt: str
    players: dict[str, list[Player]]


def rows(record: Record) -> list[Row]:
    """Return what to play, prompt by prompt, every arm in the same order; empty when the run kept no clips."""
    found = _files(record.folder / "clips")
    arms = _order(found, record.main)
    names = _prompts(record.folder / "clips" / "prompts.json")
    ids = [key for key in names if any(key in found[arm] for arm in arms)]
    ids += sorted({key for arm in arms for key in found[arm]} - set(ids))
    ids = ids[:_PROMPTS]
    takes = {key: min(_TAKES, max(len(found[arm].get(key, [])) for arm in arms)) for key in ids}
    left, budget = sum(takes[key] * len(arms) for key in ids), _TOTAL
    made = []
    for key in ids:
        clips = {arm: [_read(path) for path in found[arm].get(key, [])[: takes[key]]] for arm in arms}
        lengths = [clip.seconds for group in clips.values() for clip in group if isinstance(clip, Clip)]
        longest = min(_SECONDS, max(lengths, default=0.0))
        players: dict[str, list[Player]] = {}
        for arm in arms:
            players[arm] = [] if clips[arm] else [Player("", problem="no clip")]
            for clip in clips[arm]:
                player = _player(clip, longest, budget // max(1, left))
                budget, left = budget - len(player.uri) * 3 // 4, left - 1
                players[arm].append(player)
            left -= takes[key] - len(clips[arm])
        made.append(Row(names.get(key, key), players))
    return made


def _files(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return the mp4 files by arm and prompt id, takes in order."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.glob("*/*.mp4")):
        key, _, take = path.stem.rpartition("-")
        if not key or not take.isdigit():
            key = path.stem
        found.setdefault(path.parent.name, {}).setdefault(key, []).append(path)
    for arm in found.values():
        for paths in arm.values():
            paths.sort(key=lambda path: (len(path.stem), path.stem))
    return found


def _order(arms: Iterable[str], main: str) -> list[str]:
    first = [*_FIRST, main]
    return sorted(arms, key=lambda arm: (first.index(arm) if arm in first else _LAST, arm))


def _prompts(path: Path) -> dict[str, str]:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _read(path: Path) -> Clip | ClipError:
    try:
        return read_mp4(path)
    except ClipError as error:
        return error


def _player(clip: Clip | ClipError, longest: float, budget: int) -> Player:
    """Return a picture of at most about ``budget`` bytes that loops every ``longest`` seconds."""
    if isinstance(clip, ClipError):
        return Player("", problem="clip cannot be read")
    data = b""
    width, height = _display_size(clip)
    for quality, stride, scale in _LADDER:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        data = _webp(clip, size, quality, stride, longest)
        if len(data) <= budget:
            break
    uri = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    return Player(uri, width, height, clip.seconds, min(clip.seconds, longest))


def _display_size(clip: Clip) -> tuple[int, int]:
    """Return (width, height) in px: small pictures grow, so that 48 px are visible, and large ones shrink."""
    side = max(clip.size)
    factor = min(max(side, _SIDE), _LARGEST) / side
    return max(1, round(clip.width * factor)), max(1, round(clip.height * factor))


def _webp(clip: Clip, size: tuple[int, int], quality: int, stride: int, longest: float) -> bytes:
    """Encode every ``stride``-th frame at true speed; a clip shorter than ``longest`` waits on its last frame.

    All pictures of a row so have the same period and stay in step.
    """
    count = min(clip.length, max(1, round(longest * clip.fps)))
    starts = list(range(0, count, stride))
    times = [round(1000 * k / clip.fps) for k in starts] + [round(1000 * longest)]
    durations = [max(1, b - a) for a, b in pairwise(times)]
    images = [Image.fromarray(clip.frames[k]).resize(size, Image.Resampling.BICUBIC) for k in starts]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        quality=quality,
        method=2,
    )
    return buffer.getvalue()
