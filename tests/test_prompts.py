from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.prompts import clean, normalise, prompt_id, read_prompt_file, read_prompts


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
        ("p.csv", "file_name,Text\na.mp4,a red ball\nb.mp4,a blue ball\n"),
        ("p.tsv", "id\tcaption\n1\ta red ball\n2\ta blue ball\n"),
        ("p.jsonl", '{"video": "a.mp4", "caption": "a red ball"}\n{"cap": ["a blue ball", "another"]}\n'),
        ("p.json", '["a red ball", {"prompt": "a blue ball"}]'),
        ("p.json", '{"data": [{"caption": "a red ball"}, {"text": "a blue ball"}]}'),
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
        ("p.csv", b"", r"no column 'prompt', nor one of text, caption, cap \(columns: none\)"),
        ("p.csv", b"name,id\na,1\n", r"no column 'prompt'.* \(columns: name, id\)"),
        ("p.csv", b"id,prompt\n1,a\n2,\n", "line 3 has no 'prompt'"),
        ("p.csv", b"prompt\na red, round ball\n", "line 2 has more cells than columns; put quotes"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("p.jsonl", b'{"name": "a"}\n', r"no column 'prompt'.* \(columns: name\)"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": ""}\n', "line 2 has no 'prompt'"),
        ("p.json", b'{"a": ', "is not JSON"),
        ("p.json", b"3", "neither a list nor an object"),
        ("p.json", b"[" * 100_000, "is not JSON"),
        ("p.txt", b"a\x00b\n", r"line 1 holds the control character U\+0000"),
        ("p.txt", b"a\na \x1b[31mball\n", r"line 2 holds the control character U\+001B"),
        ("p.txt", b"a\x1cb\n", r"U\+001C"),
        ("p.txt", "a\x9bb\n".encode(), r"U\+009B"),
        ("p.csv", b"prompt\na\x07b\n", r"line 2 holds the control character U\+0007"),
        ("p.jsonl", b'{"prompt": "a\\u0008"}\n', r"line 1 holds the control character U\+0008"),
        ("p.jsonl", b'{"prompt": "a \\ud83d"}\n', r"U\+D83D"),
        ("p.txt", b"one\rtwo\r", "line 1 holds a carriage return alone; save the file with line ends"),
        ("p.jsonl", b'["a"]\n', "line 1 has no 'prompt'"),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1 has no 'prompt'"),
        ("p.txt", b"caf\xe9\n", r"not UTF-8 text \(byte 3\)"),
        ("p.docx", b"x", "must end in .txt, .jsonl, .json, .csv or .tsv"),
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


@pytest.mark.parametrize("between", ["\u2028", "\u2029", "\x85", "\f", "\v", "\t"])
def test_only_line_ends_end_a_line(tmp_path: Path, between: str) -> None:
    (tmp_path / "p.txt").write_bytes(f"a red ball{between}falls\r\na cube\n".encode())
    assert read_prompts(tmp_path / "p.txt") == ["a red ball falls", "a cube"]
    (tmp_path / "p.csv").write_bytes(f"prompt\r\na red ball{between}falls\r\na cube\r\n".encode())
    assert read_prompts(tmp_path / "p.csv") == ["a red ball falls", "a cube"]


def test_what_is_left_out_is_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# balls\n#\n## more\n#rain on a window\na ball\n\na  ball\n")
    found = read_prompt_file(tmp_path / "p.txt")
    assert found.prompts == ("#rain on a window", "a ball")
    comments, tags, repeats = found.notes
    assert "3 lines are comments and left out, the first: '# balls'" in comments
    assert "1 lines begin with # and are prompts, the first: '#rain on a window'" in tags
    assert "1 of 3 prompts are repeats" in repeats
    (tmp_path / "q.txt").write_text("a ball\na cube\n")
    assert read_prompt_file(tmp_path / "q.txt").notes == ()


def test_a_prompt_is_cleaned_once() -> None:
    assert clean(" a\u2028b\t c ", "it") == "a b c"
    with pytest.raises(ConfigError, match=r"^it holds the control character U\+007F; remove it$"):
        clean("a\x7f", "it")


@pytest.mark.parametrize(
    "value", ["[" * 100_000, '{"prompt": ' + "9" * 9_000 + "}", '{"prompt": "a \\ud800 ball"}', "7"]
)
def test_a_damaged_line_of_a_prompt_file_is_one_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a ball"}\n' + value + "\n")
    with pytest.raises(ConfigError, match=r"prompts\.jsonl line 2") as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_half_a_surrogate_pair_has_one_spelling() -> None:
    assert normalise(" a \ud800 ") == "a \ufffd"
    assert len(prompt_id("a \ud800")) == 12
