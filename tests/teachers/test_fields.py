import pytest

from understudy.teachers.base import ClipParams, ClipRequest
from understudy.teachers.fields import asked_by, fill, request_fields


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{frames}", 8),
        ("{frames!s}", "8"),
        ("{size!u}", "32X16"),
        ("{prompt}, please", "a ball, please"),
        ({"a": "{missing}", "b": ["{frames}", "{missing}"]}, {"b": [8]}),
        (True, True),
    ],
)
def test_fields_are_filled_as_what_they_are(template: object, filled: object) -> None:
    values = {"frames": 8, "size": "32x16", "prompt": "a ball", "missing": None}
    assert fill(template, values) == filled


@pytest.mark.parametrize(
    ("width", "height", "ratio", "resolution"),
    [(832, 480, "16:9", "480p"), (480, 832, "9:16", "480p"), (64, 64, "1:1", "64p"), (32, 16, "2:1", "16p")],
)
def test_what_services_call_a_size(width: int, height: int, ratio: str, resolution: str) -> None:
    values = request_fields(ClipRequest("a ball", 7, ClipParams(81, 16.0, width, height), "k"))
    assert (values["size"], values["ratio"], values["resolution"]) == (f"{width}x{height}", ratio, resolution)
    assert (values["seconds"], values["duration"], values["fps"], values["seed"]) == (5.062, 5, 16, 7)


def test_what_was_left_to_the_teacher_has_no_value() -> None:
    values = request_fields(ClipRequest("a ball", 7, ClipParams(), "k"))
    assert fill({"prompt": "{prompt}", "n": "{frames}", "size": "{size}"}, values) == {"prompt": "a ball"}


def test_only_what_is_sent_counts_as_asked() -> None:
    whole = ClipParams(81, 16.0, 832, 480)
    assert asked_by({"a": "{prompt}", "b": "{frames}"}, whole) == ClipParams(frames=81)
    assert asked_by(["{size}", "{duration!s}"], whole) == whole
