from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.prompts import clean, normalise, prompt_id, read_json, read_prompts


@given(st.lists(st.text(alphabet="abc é", min_size=1), min_size=1), st.sampled_from([" ", "\n", "\t  "]))
def test_spacing_does_not_change_a_prompt(words: list[str], space: str) -> None:
    assert prompt_id(space + space.join(words) + space) == prompt_id(" ".join(words))
    assert normalise(normalise(space.join(words))) == normalise(space.join(words))


def test_prompt_id_is_stable() -> None:
    assert prompt_id("a red ball rolls left") == "bef4a1a91fab"
    assert prompt_id("a red ball") != prompt_id("a Red ball")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "# balls\na red  ball\n\n  a blue ball \na red ball\n"),
        ("p.txt", "\ufeffa red ball\r\na blue ball\r\n"),
        ("p.jsonl", '{"prompt": "a red ball", "weight": 2}\n\n{"prompt": "a blue\\nball"}\n'),
        ("p.csv", "prompt\na red ball\na blue ball\n"),
        ("P.CSV", 'id, prompt\n1,a red ball\n,\n2,"a blue\nball"\n'),
    ],
)
def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_prompts(tmp_path / name) == ["a red ball", "a blue ball"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.txt", b"# nothing\n\n", "has no prompts"),
        ("p.jsonl", b"\n", "has no prompts"),
        ("p.csv", b"prompt\n", "has no prompts"),
        ("p.csv", b"", r"no column 'prompt' \(columns: none\)"),
        ("p.csv", b"text,id\na,1\n", r"no column 'prompt' \(columns: text, id\)"),
        ("p.csv", b"id,prompt\n1,a\n2,\n", "line 3 has no 'prompt'"),
        ("p.csv", b"prompt\na red, round ball\n", "line 2 has more cells than columns; put quotes"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n', "line 1 has no 'prompt'"),
        ("p.jsonl", b'["a"]\n', "line 1 has no 'prompt'"),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1 has no 'prompt'"),
        ("p.txt", b"caf\xe9\n", r"not UTF-8 text \(byte 3\)"),
        ("p.docx", b"x", "must end in .txt, .jsonl or .csv"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        read_prompts(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"p\.txt does not exist"):
        read_prompts(tmp_path / "p.txt")
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(ConfigError, match="cannot read prompt file"):
        read_prompts(tmp_path / "d.txt")


def test_halves_of_surrogate_pairs_are_replaced_and_pairs_joined() -> None:
    assert clean("plain é \U0001f600") == "plain é \U0001f600"
    assert clean("a \ud83d\ude00 b \ud800 c \udfff") == "a \U0001f600 b \ufffd c \ufffd"
    assert normalise(" a \ud800 ") == "a \ufffd"
    assert len(prompt_id("a \ud800")) == 12


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


@pytest.mark.parametrize("value", ["[" * 100_000, '{"prompt": ' + "9" * 9_000 + "}", '{"prompt": ["a"]}', "7"])
def test_a_damaged_line_of_a_prompt_file_is_one_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a \\ud800 ball"}\n' + value + "\n")
    with pytest.raises(ConfigError, match=r"prompts\.jsonl line 2") as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
    path.write_text('{"prompt": "a \\ud800 ball"}\n')
    assert read_prompts(path) == ["a \ufffd ball"]
