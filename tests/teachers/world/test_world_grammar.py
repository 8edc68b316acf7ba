import re
from collections import Counter

import pytest

from understudy.errors import PromptRejected
from understudy.teachers.world.grammar import (
    COLOURS,
    DIRECTIONS,
    FAMILIES,
    MATERIALS,
    PLACES,
    SIZES,
    Ball,
    Scene,
    paraphrases,
    parse,
    prompts,
    scenes,
)

RED = Ball("red", "small")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sentence_is_read_as_the_scene_it_was_written_for(family: str) -> None:
    seen = 0
    for scene in scenes([family], COLOURS, materials=(None, *MATERIALS), places=(None, *PLACES)):
        for text in paraphrases(scene):
            assert parse(text) == scene, text
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("speed", ["slow", "fast"])
@pytest.mark.parametrize("direction", [None, *DIRECTIONS])
def test_speed_is_read_too(speed: str, direction: str | None) -> None:
    scene = Scene("throw", (RED,), direction=direction, speed=speed, place="moon", material="clay")
    sentences = paraphrases(scene)
    assert len(sentences) == 8
    assert {parse(text) for text in sentences} == {scene}


class TestParaphrases:
    def test_are_different_and_many(self) -> None:
        for scene in scenes(FAMILIES, COLOURS[:2]):
            sentences = paraphrases(scene)
            assert len(sentences) == len(set(sentences)) >= 2

    def test_say_nothing_that_the_scene_leaves_open(self) -> None:
        for scene in scenes(FAMILIES, COLOURS[:2], directions=(None,)):
            words = {word for text in paraphrases(scene) for word in text.split()}
            assert not words & {*DIRECTIONS, *MATERIALS, *PLACES, "slowly", "fast"}

    def test_are_plain_sentences(self) -> None:
        for scene in scenes(FAMILIES, COLOURS[:2], materials=("steel",), places=("moon",)):
            for text in paraphrases(scene):
                assert re.fullmatch(r"[a-z]+( [a-z]+)*", text), text


class TestScenes:
    def test_are_all_different(self) -> None:
        every = list(scenes(FAMILIES, COLOURS, materials=(None, *MATERIALS), places=(None, *PLACES)))
        assert len(every) == len(set(every))

    @pytest.mark.parametrize(
        ("family", "count"), [("drop", 6), ("throw", 18), ("bounce", 6), ("collision", 12), ("ramp", 18)]
    )
    def test_cover_every_choice(self, family: str, count: int) -> None:
        found = list(scenes([family], ("red", "green", "blue")))
        assert len(found) == count
        assert Counter(scene.balls[0].size for scene in found) == dict.fromkeys(SIZES, count // 2)

    def test_colliding_balls_differ_in_colour(self) -> None:
        for scene in scenes(["collision"], COLOURS):
            first, second = scene.balls
            assert first.colour != second.colour

    def test_order_is_fixed(self) -> None:
        assert list(scenes(FAMILIES, COLOURS)) == list(scenes(FAMILIES, COLOURS))


class TestPrompts:
    def test_draws_different_sentences_of_every_scene(self) -> None:
        choices = list(scenes(["drop", "throw"], ("red", "blue")))
        texts = prompts(choices, 3, seed=0)
        assert len(texts) == len(set(texts)) == 3 * len(choices)
        assert Counter(parse(text) for text in texts) == dict.fromkeys(choices, 3)

    def test_seed_decides(self) -> None:
        choices = list(scenes(["throw"], ("red", "blue")))
        assert prompts(choices, 2, seed=1) == prompts(choices, 2, seed=1)
        assert prompts(choices, 2, seed=1) != prompts(choices, 2, seed=2)

    def test_takes_all_there_are(self) -> None:
        scene = Scene("pendulum", (RED,))
        assert prompts([scene], 100, seed=0) == paraphrases(scene)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "scene"),
        [
            ("A tiny red ball is dropped.", Scene("drop", (RED,))),
            ("Someone lets go of a little   RED ball!", Scene("drop", (RED,))),
            ("a huge blue steel ball is dropped", Scene("drop", (Ball("blue", "large"),), material="steel")),
            ("a big blue ball is tossed to the right", Scene("throw", (Ball("blue", "large"),), direction="right")),
            ("a small red ball is dropped and bounces on the floor", Scene("drop", (RED,))),
            ("a small red ball is thrown and bounces fast", Scene("throw", (RED,), speed="fast")),
            ("on Jupiter a small red ball falls", Scene("drop", (RED,), place="jupiter")),
            (
                "the small red ball hits the large green ball slowly",
                Scene("collision", (RED, Ball("green", "large")), speed="slow"),
            ),
        ],
    )
    def test_free_wording(self, text: str, scene: Scene) -> None:
        assert parse(text) == scene

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("a small red cube is dropped", "the word 'cube' is unknown"),
            ("a small pink ball is dropped", "the word 'pink' is unknown"),
            ("a small red ball is dropped twice", "the word 'twice' is unknown"),
            ("a small red ball is not dropped", "the word 'not' is unknown"),
            ("ein kleiner roter Ball", "the word 'ein' is unknown"),
            ("a small red ball", "no action"),
            ("a small red ball rolls to the left", "no action"),
            ("", "no action"),
            ("123 !?", "no action"),
            ("a small red ball is thrown and swings on a rope", r"several actions \(throw, pendulum\)"),
            ("a small red ball falls down a ramp", r"several actions \(drop, ramp\)"),
            ("a ball is dropped", r"drop needs 1 ball\(s\) like 'small red ball', found 0"),
            ("a red ball is dropped", "found 0"),
            ("a red small ball is dropped", "found 0"),
            ("a small red ball and a small blue ball is dropped", "drop needs 1 .* found 2"),
            ("a small red ball hits", "collision needs 2 .* found 1"),
            ("a small red ball hits a large red ball", "two balls of the same colour"),
            ("a small red ball is thrown to the left and to the right", r"more than one direction \(left, right\)"),
            ("a small red ball is thrown slowly and fast", r"more than one speed \(fast, slowly\)"),
            ("a small red ball falls on the moon and on earth", r"more than one place \(earth, moon\)"),
            (
                "a small red rubber ball hits a small blue steel ball",
                r"more than one material \(rubber, steel\)",
            ),
        ],
    )
    def test_what_is_not_understood_is_rejected_with_a_reason(self, text: str, reason: str) -> None:
        with pytest.raises(PromptRejected, match=reason) as caught:
            parse(text)
        message = str(caught.value)
        assert message.startswith("prompt rejected: ")
        assert "\n" not in message
        assert repr(text) in message

    def test_following_the_advice_helps(self) -> None:
        with pytest.raises(PromptRejected) as caught:
            parse("a small red ball")
        advice = str(caught.value).split("say one of: ")[1].split(", ")
        assert len(advice) == len(FAMILIES)
        families = []
        for words in advice:
            balls = "a small red ball and a small blue ball" if "coll" in words else "a small red ball"
            families.append(parse(f"{balls} {words}").family)
        assert sorted(families) == sorted(FAMILIES)

    def test_quickly_is_fast(self) -> None:
        assert parse("a small red ball is thrown quickly to the left").speed == "fast"
