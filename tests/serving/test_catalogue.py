"""What a session may ask for, of any student, and that its frames are its own whoever else is watching."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.errors import ConfigError, PromptRejected
from understudy.serving.catalogue import Catalogue, Plan, Settings
from understudy.serving.scheduler import Limits, Scheduler, Session
from understudy.students.bundle import Bundle
from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec
from understudy.video.clips import ClipForm

RED, BLUE = "a small red ball is dropped", "a large blue ball bounces"
WAN = WanSpec(
    dim=24, ffn_dim=32, layers=2, heads=2, text_dim=8, text_len=6, freq_dim=16, in_channels=4, out_channels=4,
    height=4, width=6, max_frames=6, window=6, sink=1, relative_rope=True, text="words",
)  # fmt: skip


def wan(**changes: object) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = WanStudent(replace(WAN, **changes)).eval()
        codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    return Bundle(student, codec, (1.0, 0.5), ClipForm(32, 48, 12.0, 8), "test")


def catalogue(bundles: dict[str, Bundle], denied: tuple[str, ...] = ()) -> Catalogue:
    return Catalogue(bundles, Limits(), denied)


def frames_of(plan: Plan, blocks: int = 6) -> np.ndarray:
    stream = plan.opener()()
    return np.concatenate([next(stream).frames for _ in range(blocks)])


@pytest.mark.parametrize("family", ["small", "wan", "wan, first block smaller"])
def test_frames_do_not_depend_on_who_else_is_watching(family: str, frame: Bundle) -> None:
    """Bit for bit: one viewer alone, and among seven others who start, switch and leave at other times."""
    bundle = {"small": frame, "wan": wan(), "wan, first block smaller": wan(blocks=(1, 2))}[family]
    offer = catalogue({"one": bundle})

    def watch(others: int) -> np.ndarray:
        scheduler = Scheduler(Limits(ahead=10**6, lead=1e9))
        chosen = scheduler.join(offer.plan(RED, 7, None).opener(), 12.0, lambda: None)
        crowd: list[Session] = []
        for turn in range(1000):
            if len(crowd) < others and turn % 3 == 0:
                crowd.append(scheduler.join(offer.plan(BLUE, turn, None).opener(), 12.0, lambda: None))
            if chosen.blocks == 6:
                scheduler.heard(chosen, prompt=BLUE)
            if chosen.blocks == 12:
                break
            if turn == 40:
                scheduler.leave(crowd[0]) if crowd else None
            scheduler.turn()
        return np.concatenate([part.drawn.frames for part in chosen.outbox])

    alone = watch(0)
    assert np.array_equal(alone, watch(7))
    assert np.array_equal(alone, watch(7))
    assert not np.array_equal(alone[:12], alone[12:24])


@pytest.mark.parametrize("students", [("a",), ("a", "b")])
def test_side_by_side_shows_each_as_it_is_alone_from_the_same_noise(students: tuple[str, ...], frame: Bundle) -> None:
    offer = catalogue({"a": frame, "b": frame.with_window(4, 1)})
    both = frames_of(offer.plan(RED, 3, None, students))
    for place, name in enumerate(students):
        alone = frames_of(offer.plan(RED, 3, None, (name,)))
        assert np.array_equal(both[:, :, 48 * place : 48 * (place + 1)], alone)
    assert both.shape == (12, 48, 48 * len(students), 3)


@pytest.mark.parametrize("settings", [Settings(block=2), Settings(window=4), Settings(sink=1), Settings(steps=4)])
def test_settings_of_a_session_change_its_frames_and_nobody_elses(settings: Settings, frame: Bundle) -> None:
    offer = catalogue({"a": frame})
    before = frames_of(offer.plan(RED, 3, None), 16)
    other = frames_of(offer.plan(RED, 3, None, (), settings), 8 if settings.block else 16)
    assert len(other) == len(before)
    assert not np.array_equal(before, other)
    assert np.array_equal(before, frames_of(offer.plan(RED, 3, None), 16))


def test_its_own_settings_spelled_out_are_its_own(frame: Bundle) -> None:
    offer = catalogue({"a": frame})
    own = offer.facts()[0]
    spelled = Settings(own.block, own.window, own.sink, own.steps)
    assert np.array_equal(frames_of(offer.plan(RED, 3, None)), frames_of(offer.plan(RED, 3, None, (), spelled)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(block=3), "multiple of block_frames 3"),
        (Settings(window=99), "window 99"),
        (Settings(sink=9), "window 8 must hold the sink"),
        (Settings(steps=17), "give 1 to 16"),
    ],
)
def test_senseless_settings_are_refused(settings: Settings, words: str, frame: Bundle) -> None:
    with pytest.raises(ConfigError, match=words):
        catalogue({"a": frame}).plan(RED, 0, None, (), settings)


def test_students_that_do_not_fit_are_served_but_not_beside_one_another(frame: Bundle, block: Bundle) -> None:
    offer = catalogue({"frame": frame, "block": block, "wan": wan()})
    for name in offer.bundles:
        assert frames_of(offer.plan(RED, 0, None, (name,)), 2).dtype == np.uint8
    for pair in (("frame", "block"), ("frame", "wan")):
        with pytest.raises(ConfigError, match="beside one another"):
            offer.plan(RED, 0, None, pair)
    assert offer.plan(RED, 0, None, ("frame", "block"), Settings(block=2)).width == 96


def test_prompts_have_a_length_and_no_denied_words(frame: Bundle) -> None:
    offer = catalogue({"a": frame}, ("Blue  Ball", "", "w.r"))
    assert offer.prompt("  a  red\nball ") == "a red ball"
    for prompt in ("a blue\tBALL bounces", "w.r"):
        with pytest.raises(PromptRejected, match="moderation"):
            offer.prompt(prompt)
    assert offer.prompt("blue balloon, war")
    for prompt in ("", " \n ", "x" * 10_001):
        with pytest.raises(ConfigError, match="1 to 10000 characters"):
            offer.prompt(prompt)
    with pytest.raises(ConfigError, match=r"control character U\+0007"):
        offer.prompt("a red\x07 ball")


def test_the_text_encoder_sets_how_long_a_prompt_may_be(frame: Bundle) -> None:
    offer = catalogue({"a": frame, "wan": wan()})
    length = offer.bundles["a"].student.text_encoder.length
    fits, long = f"{'extraordinarily' * 4} " * length, "a " * (length + 1)
    assert len(fits) > 500
    words = f"this prompt has {length + 1} tokens and the student reads {length}; shorten it"
    assert offer.plan(fits, 0, None).prompt == fits.strip()
    for ask in (lambda: offer.prompt(long), lambda: offer.plan(long, 0, None, ("a",))):
        with pytest.raises(ConfigError, match=words):
            ask()
    assert offer.plan("word " * offer.bundles["wan"].student.text_encoder.length, 0, None, ("wan",))


def test_no_session_is_longer_than_it_may_be(frame: Bundle) -> None:
    offer = Catalogue({"a": frame}, Limits(seconds=10.0))
    assert [offer.plan(RED, 0, frames).frames for frames in (None, 10**9, 7)] == [120, 120, 7]


def test_a_student_that_rolls_needs_a_window(frame: Bundle) -> None:
    with pytest.raises(ConfigError, match="give a window"):
        catalogue({"a": replace(frame, student=frame.student.with_spec(window=0))})


def test_a_student_of_another_family_plays_as_long_as_it_can() -> None:
    """AnyFlow takes no window and has fixed blocks: its clips end, and other blocks are refused."""
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "AnyFlowFARTransformer3DModel"):
        pytest.skip("this diffusers has no AnyFlow-FAR")
    from understudy.students.anyflow.model import AnyFlowSpec, AnyFlowStudent

    model = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 8}
    spec = AnyFlowSpec(8, 8, {**model, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2}, (1, 2, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = AnyFlowStudent(spec, lambda prompts: torch.ones(len(prompts), 5, 8)).eval()
        codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    offer = catalogue({"any": Bundle(student, codec, (1.0, 0.5), ClipForm(64, 64, 12.0, 10), "test")})
    assert not offer.facts()[0].endless
    plan = offer.plan(RED, 0, None)
    assert plan.frames == sum(len(part.frames) for part in plan.opener()()) == 10
    with pytest.raises(ConfigError, match="blocks of an AnyFlow student are fixed"):
        offer.plan(RED, 0, None, (), Settings(block=1))
    with pytest.raises(ConfigError, match="no window"):
        offer.plan(RED, 0, None, (), Settings(window=4))
