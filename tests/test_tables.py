"""Text and JSON from whoever it comes."""

import pytest

from understudy.tables import mended, read_json


def test_halves_of_surrogate_pairs_are_replaced_and_pairs_joined() -> None:
    assert mended("plain é \U0001f600") == "plain é \U0001f600"
    assert mended("a \ud83d\ude00 b \ud800 c \udfff") == "a \U0001f600 b \ufffd c \ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 2_000 + "1" + "}" * 2_000,
        "[" * 150 + "]" * 150,
        "9" * 9_000,
        "{",
        "",
        "\ufeff{}",
        b"\xff\x00\x80",
    ],
)
def test_json_that_is_none_is_a_value_error_and_nothing_else(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)


def test_json_is_cleaned_at_every_depth() -> None:
    assert read_json('{"\\ud800": ["\\udfff", {"a": "\\ud83d\\ude00"}]}') == {"\ufffd": ["\ufffd", {"a": "\U0001f600"}]}
