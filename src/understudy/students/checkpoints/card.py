"""The card that goes out with an exported student: what it is, what it stands on, how it is loaded and drawn from."""

from pathlib import Path
from typing import Final

from understudy import __version__, flow
from understudy.files import write_text_atomic
from understudy.reading import TEXT_BYTES, read_limited
from understudy.students.bundle import Bundle

CARD: Final = "README.md"
_MADE: Final = "made with Understudy"


def card(title: str, base: str, note: str, how: str, settings: str = "") -> str:
    """Return a card as Markdown.

    Args:
        title: what it is.
        base: what it stands on.
        note: how it stands on that.
        how: the call that loads it.
        settings: how it is drawn from, see ``settings_of``; empty for what does not draw by itself.
    """
    drawn = f"## How it is drawn from\n\n{settings}\n\n" if settings else ""
    return (
        f"---\ntags: [understudy, text-to-video, causal, wan]\n---\n\n# {title}\n\nA causal few-step video student, {_MADE} "
        f"{__version__}.\n\n- Base: {base}\n- {note}\n- Licence: the base's holds for this as well, and the terms of the "
        f"teacher whose clips it was trained on.\n\n## How it is loaded\n\n    {how}\n\n{drawn}"
    )


def settings_of(bundle: Bundle) -> str:
    """Return how a student is drawn from: its blocks, memory, noise levels and clips."""
    spec, form = bundle.student.spec, bundle.form
    levels = "; then ".join(", ".join(f"{level:g}" for level in own) for own in flow.level_lists(bundle.levels))
    memory = f"window {spec.window}, sink {spec.sink}" if spec.window else f"no window, {spec.max_frames} at most"
    return (
        f"- Latent frames a block: {', '.join(map(str, bundle.student.block_list))}, the last repeats; {memory}\n"
        f"- Noise levels of a block: {levels}; between them its clean prediction is noised anew\n"
        f"- Clips: {form.frames} frames of {form.height}x{form.width} at {form.fps:g} a second"
    )


def beside(file: Path, text: str) -> None:
    """Write a card beside a single file, under its name; one that is there stays."""
    path = file.with_name(f"{file.name}.md")
    if not path.exists():
        write_text_atomic(path, text)


def is_ours(folder: Path) -> bool:
    """Return whether ``folder`` holds such a card: a diffusers config alone does not tell a causal student."""
    try:
        return _MADE in read_limited(folder / CARD, TEXT_BYTES).decode("utf-8")
    except (OSError, ValueError):
        return False
