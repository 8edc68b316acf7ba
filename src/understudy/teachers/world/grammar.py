"""Plain-English prompts of the embedded world: scenes to sentences, and sentences back to scenes.

A prompt says what happens but leaves things open (place, height, exact speed, sometimes the direction): it stands for
a distribution of clips, as a prompt to any real generator does.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from understudy.errors import PromptRejected

FAMILIES: Final = ("drop", "throw", "bounce", "collision", "ramp", "pendulum")
COLOURS: Final = ("red", "yellow", "green", "cyan", "blue", "purple")
SIZES: Final = ("small", "large")
DIRECTIONS: Final = ("left", "right")
MATERIALS: Final = ("rubber", "steel", "clay")
PLACES: Final = ("moon", "earth", "jupiter")

_SYNONYMS: Final = {"little": "small", "tiny": "small", "big": "large", "huge": "large", "quickly": "fast"}

_TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "drop": (
        "a {ball} is dropped",
        "a {ball} falls to the floor",
        "someone lets go of a {ball}",
        "a {ball} is released and falls",
    ),
    "throw": (
        "a {ball} is thrown {direction}",
        "someone throws a {ball} {direction}",
        "a {ball} flies {direction}",
        "a {ball} is tossed {direction}",
    ),
    "bounce": (
        "a {ball} is bounced on the floor",
        "someone bounces a {ball} hard",
        "a {ball} is slammed on the floor",
    ),
    "collision": (
        "a {ball} and a {other} collide",
        "a {ball} rolls into a {other}",
        "a {ball} hits a {other} head on",
    ),
    "ramp": (
        "a {ball} rolls down a ramp {direction}",
        "a {ball} runs down a slope {direction}",
    ),
    "pendulum": (
        "a {ball} swings on a rope",
        "a {ball} hangs from a rope and swings",
    ),
}
_DIRECTION_PHRASES: Final[dict[str | None, tuple[str, ...]]] = {
    "left": ("to the left", "toward the left side"),
    "right": ("to the right", "toward the right side"),
    None: ("across the room", "through the room"),
}
_PLACE_PHRASES: Final = {"moon": "on the moon", "earth": "on earth", "jupiter": "on jupiter"}
_FAMILY_WORDS: Final[dict[str, frozenset[str]]] = {
    "drop": frozenset({"dropped", "falls", "lets", "released"}),
    "throw": frozenset({"thrown", "throws", "flies", "tossed"}),
    "bounce": frozenset({"bounced", "bounces", "slammed"}),
    "collision": frozenset({"collide", "hits", "into"}),
    "ramp": frozenset({"ramp", "slope"}),
    "pendulum": frozenset({"swings", "rope"}),
}
_SPEED_WORDS: Final = {"slowly": "slow", "fast": "fast"}
_GLUE: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "and",
        "someone",
        "go",
        "of",
        "to",
        "on",
        "toward",
        "side",
        "across",
        "through",
        "room",
        "floor",
        "hard",
        "head",
        "down",
        "rolls",
        "runs",
        "hangs",
        "from",
        "ball",
        "with",
        "it",
    ]
)
_BALL: Final = re.compile(
    rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)})(?: ({'|'.join(MATERIALS)}))? ball\b",
)


@dataclass(frozen=True)
class Ball:
    """A ball as a prompt describes it."""

    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What one prompt says; ``None`` means the prompt leaves it open.

    ``material`` and ``place`` change the law (restitution, gravity). They are ``None`` in the one-law world.
    """

    family: str
    balls: tuple[Ball, ...]
    direction: str | None = None
    speed: str | None = None
    material: str | None = None
    place: str | None = None


def parse(text: str) -> Scene:
    """Return the scene a prompt describes.

    Raises:
        PromptRejected: the prompt is not understood; the message says which word or part, as a service would.
    """
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", text.lower())]
    known = _GLUE | set(SIZES) | set(COLOURS) | set(MATERIALS) | set(PLACES) | set(DIRECTIONS) | set(_SPEED_WORDS)
    known = known.union(*_FAMILY_WORDS.values())
    for word in words:
        if word not in known:
            raise PromptRejected(f"prompt rejected: the word {word!r} is unknown to this world, in {text!r}")
    found = _BALL.findall(" ".join(words))
    families = [family for family in FAMILIES if _FAMILY_WORDS[family] & set(words)]
    if "bounce" in families and len(families) > 1:  # "is dropped and bounces": the bounce follows from the fall
        families.remove("bounce")
    if len(families) != 1:
        what = "no action" if not families else f"several actions ({', '.join(families)})"
        raise PromptRejected(
            f"prompt rejected: {what} in {text!r}; say one of: "
            "is dropped, is thrown, bounces, collide, rolls down a ramp, swings on a rope"
        )
    expected = 2 if families[0] == "collision" else 1
    if len(found) != expected:
        raise PromptRejected(
            f"prompt rejected: {families[0]} needs {expected} ball(s) like 'small red ball', found {len(found)} in {text!r}"
        )
    balls = tuple(Ball(colour=colour, size=size) for size, colour, _ in found)
    if len({ball.colour for ball in balls}) != len(balls):
        raise PromptRejected(f"prompt rejected: two balls of the same colour in {text!r}")
    return Scene(
        family=families[0],
        balls=balls,
        direction=_only(words, DIRECTIONS, "direction", text),
        speed=_SPEED_WORDS.get(_only(words, tuple(_SPEED_WORDS), "speed", text) or ""),
        material=_only([material for _, _, material in found], MATERIALS, "material", text),
        place=_only(words, PLACES, "place", text),
    )


def _only(words: Sequence[str], options: Sequence[str], what: str, text: str) -> str | None:
    hits = sorted(set(words) & set(options))
    if len(hits) > 1:
        raise PromptRejected(f"prompt rejected: more than one {what} ({', '.join(hits)}) in {text!r}")
    return hits[0] if hits else None


def paraphrases(scene: Scene) -> list[str]:
    """Return every sentence of the grammar that describes ``scene``, in a fixed order."""
    names = [
        " ".join(part for part in (ball.size, ball.colour, scene.material, "ball") if part) for ball in scene.balls
    ]
    tails = [_PLACE_PHRASES[scene.place]] if scene.place else []
    if scene.speed:
        tails.insert(0, {"slow": "slowly", "fast": "fast"}[scene.speed])
    sentences = []
    for template, direction in itertools.product(_TEMPLATES[scene.family], _DIRECTION_PHRASES[scene.direction]):
        if "{direction}" not in template and direction != _DIRECTION_PHRASES[scene.direction][0]:
            continue
        text = template.format(ball=names[0], other=names[-1], direction=direction)
        if scene.family == "ramp" and scene.direction is None:
            text = text.replace(f" {direction}", "")
        sentences.append(" ".join([text, *tails]))
    return list(dict.fromkeys(sentences))


def scenes(
    families: Sequence[str],
    colours: Sequence[str],
    sizes: Sequence[str] = SIZES,
    directions: Sequence[str | None] = (None, *DIRECTIONS),
    materials: Sequence[str | None] = (None,),
    places: Sequence[str | None] = (None,),
) -> Iterator[Scene]:
    """Yield every scene of the given choices, in a fixed order."""
    for family, size, material, place in itertools.product(families, sizes, materials, places):
        open_directions = directions if family in ("throw", "ramp") else (None,)
        for direction in open_directions:
            for first, second in itertools.product(colours, colours if family == "collision" else (None,)):
                if first == second:
                    continue
                balls = (Ball(first, size),) + ((Ball(second, size),) if second else ())
                yield Scene(family, balls, direction=direction, material=material, place=place)


def prompts(choices: Sequence[Scene], per_scene: int, seed: int) -> list[str]:
    """Draw ``per_scene`` different paraphrases (or all, if there are fewer) of every scene."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for scene in choices:
        sentences = paraphrases(scene)
        picks = rng.permutation(len(sentences))[:per_scene]
        texts.extend(sentences[i] for i in sorted(picks))
    return texts
