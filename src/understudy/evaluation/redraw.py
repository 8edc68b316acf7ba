"""The teacher's motion in the student's own look: what a student that takes the motion and keeps its look would draw."""

from collections.abc import Sequence

from understudy.errors import PromptRejected
from understudy.evaluation.law import law_error
from understudy.evaluation.metrics import ClipSet
from understudy.evaluation.parse import track
from understudy.evaluation.picture import ideal
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.physics import Law
from understudy.video.clips import Clip


def in_own_look(clips: ClipSet) -> ClipSet:
    """Return the clips drawn again in the house look at their parsed places; clips of unknown prompts as they are.

    Distribution distances against raw teacher clips would measure the grade and the grain, not the motion.
    """
    return ClipSet(
        clips.prompts, tuple(_redrawn(p, group) for p, group in zip(clips.prompts, clips.clips, strict=True))
    )


def _redrawn(prompt: str, group: Sequence[Clip]) -> tuple[Clip, ...]:
    try:
        scene = parse(prompt)
    except PromptRejected:
        return tuple(group)
    drawn = []
    for clip in group:
        seen = track(clip.frames, scene)
        drawn.append(Clip(ideal(seen, law_error(seen, scene, Law(), clip.fps), scene), clip.fps))
    return tuple(drawn)
