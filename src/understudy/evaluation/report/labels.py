"""What each metric is called, what it means in one line, and which way is better."""

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["lower", "higher"]
Group = Literal["motion", "appearance", "prompt", "distribution", "other"]

GROUPS: Final[dict[Group, str]] = {
    "motion": "Motion and physics",
    "appearance": "Appearance",
    "prompt": "Prompt",
    "distribution": "Distribution",
    "other": "Other",
}


@dataclass(frozen=True)
class Label:
    """A metric in words.

    Attributes:
        text: its name in a sentence.
        unit: short unit, "" for a plain number.
        meaning: one plain line.
        group: where it stands in the table.
        better: which way is better, or None when more is neither better nor worse.
        target: the right value where there is one: a number, or "teacher" for what the teacher's own clips have.
        headline: one of the few that the first lines of the report are made of.
    """

    text: str
    unit: str
    meaning: str
    group: Group
    better: Direction | None = None
    target: float | Literal["teacher"] | None = None
    headline: bool = False


METRICS: Final[dict[str, Label]] = {
    "law_error": Label(
        "Law error",
        "px",
        "How far a clip's motion is from the nearest motion that the teacher's physics allows.",
        "motion",
        "lower",
        headline=True,
    ),
    "law_error_vertical": Label(
        "Vertical law error", "px", "The up-and-down part of the law error.", "motion", "lower"
    ),
    "motion_distance": Label(
        "Motion distance",
        "px",
        "Energy distance to the teacher's motions for a prompt, variety included. 0 is the same.",
        "motion",
        "lower",
        headline=True,
    ),
    "gravity_error": Label(
        "Gravity error",
        "",
        "Fitted gravity against the true one, as a share of the true one.",
        "motion",
        "lower",
    ),
    "bounce_error": Label("Bounce error", "", "Speed kept in a bounce against the true share.", "motion", "lower"),
    "velocity_error": Label(
        "Velocity error",
        "px/frame",
        "Speed and heading against the nearest lawful motion.",
        "motion",
        "lower",
    ),
    "acceleration_error": Label(
        "Acceleration error",
        "px/frame²",
        "Change of velocity against the nearest lawful motion.",
        "motion",
        "lower",
    ),
    "energy_gain": Label(
        "Energy from nothing", "of steps", "Steps in which energy rises without a cause.", "motion", "lower"
    ),
    "magnitude": Label("Amount of motion", "px/frame", "How fast things move.", "motion", target="teacher"),
    "permanence": Label(
        "Permanence",
        "of frames",
        "Frames that show the right number of objects: none vanishes or doubles.",
        "motion",
        "higher",
    ),
    "look_error": Label(
        "Look error",
        "",
        "Difference from a perfect drawing of the same scene at the same places, of full scale 1.",
        "appearance",
        "lower",
        headline=True,
    ),
    "sharpness": Label(
        "Sharpness",
        "",
        "Edges against a perfect drawing: below 1 is blurred.",
        "appearance",
        target=1.0,
        headline=True,
    ),
    "first_sharpness": Label(
        "First-frame sharpness",
        "",
        "The same for the first two frames, where the prompt leaves most open: averaging shows as blur.",
        "appearance",
        target=1.0,
        headline=True,
    ),
    "colour_error": Label("Colour error", "", "Colour of the objects against the prompt's.", "appearance", "lower"),
    "mass_error": Label("Size error", "", "Area of the objects against the right one.", "appearance", "lower"),
    "drift": Label(
        "Drift in a clip",
        "",
        "Look error of the last quarter less that of the first: decay over time.",
        "appearance",
        "lower",
    ),
    "detail": Label("Fine detail", "", "Fine detail against the reference clips'.", "appearance", target=1.0),
    "seam": Label("Block seams", "", "Change where blocks meet against change inside them.", "appearance", target=1.0),
    "flicker": Label(
        "Steadiness", "", "VBench's temporal flickering: 1 is a still picture, so not better.", "appearance"
    ),
    "pixel_motion": Label("Pixel change", "", "Mean change from frame to frame.", "appearance"),
    "prompt_ok": Label("Prompt followed", "of clips", "Colour, number and direction all as told.", "prompt", "higher"),
    "colour_ok": Label("Colour as told", "of clips", "The told colours are there.", "prompt", "higher"),
    "count_ok": Label("Number as told", "of clips", "As many objects as told.", "prompt", "higher"),
    "direction_ok": Label("Direction as told", "of clips", "It first moves to the told side.", "prompt", "higher"),
    "spread": Label(
        "Variety",
        "px",
        "How much the motions of one prompt's clips differ from each other.",
        "distribution",
        target="teacher",
    ),
    "rfd": Label(
        "Random-feature distance",
        "",
        "RFD: Fréchet distance of random features to the teacher's clips. Read it beside the floor.",
        "distribution",
        "lower",
        headline=True,
    ),
}
"""All metrics with a name of their own, in the order of the report."""


def label(metric: str) -> Label:
    """Return the label of ``metric``; one that is not in the table keeps its raw name and is not judged."""
    return METRICS.get(metric) or Label(metric, "", "", "other")


def direction(metric: str) -> Direction | None:
    """Return which way ``metric`` is better; None where neither is (it has a target, or is only for the record)."""
    return label(metric).better


_ARMS: Final = {
    "teacher": "Teacher",
    "start": "Start",
    "afd": "AFD",
    "sft": "SFT",
    "random": "Random reward",
    "gan": "Direct GAN",
}


def arm_name(arm: str) -> str:
    """Return how the report calls an arm of the run."""
    return _ARMS.get(arm, arm)
