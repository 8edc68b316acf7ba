from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from understudy.errors import ConfigError
from understudy.objectives.sft.config import SFTConfig
from understudy.recipes import shipped
from understudy.recipes.config import RunConfig
from understudy.recipes.files import dump, load_recipe
from understudy.recipes.tree import canonical_key, config_fields, near_key
from understudy.teachers.folder.config import FolderTeacherConfig
from understudy.teachers.world.config import WorldTeacherConfig

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def problems(path: Path, *overrides: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).split("\n")


# --- a strategy for every configuration, read off the models ----------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["no", "~", "5e-4", "1:30", "010", "0x1f", "<<", "=", "2026-01-01", "a: b", " a", "a\nb ", "'", "null", "\x85"]
)


def bounds(metadata: list[Any]) -> dict[str, Any]:
    names = {"ge": "min_value", "gt": "min_value", "le": "max_value", "lt": "max_value"}
    found: dict[str, Any] = {}
    for item in metadata:
        for name, argument in names.items():
            if (value := getattr(item, name, None)) is not None:
                found[argument] = value
                if name in ("gt", "lt"):
                    found[f"exclude_{argument[:3]}"] = True
    return found


def values(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return st.one_of(values(argument, metadata) for argument in arguments)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0], []), max_size=3)
    if origin in (dict, Mapping):
        return st.dictionaries(TEXTS, values(arguments[1], []), max_size=2)
    if hasattr(annotation, "__metadata__"):
        return values(annotation.__origin__, [])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sections(annotation)
    limits = bounds(metadata)
    if annotation is int:
        low = limits["min_value"] + limits.pop("exclude_min", 0) if "min_value" in limits else -(2**40)
        return st.integers(low, limits.get("max_value", 2**70))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        float: st.floats(**limits, allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: TEXTS,
        Path: TEXTS,
        type(None): st.none(),
        Any: st.one_of(TEXTS, st.booleans(), st.integers(-9, 9)),
    }
    return simple[annotation]


def sections(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: values(field.annotation, field.metadata) for name, field in model.model_fields.items()}
    required = {
        name: fields[name] for name, field in model.model_fields.items() if field.is_required() or name == "kind"
    }
    return st.fixed_dictionaries(required, optional={k: v for k, v in fields.items() if k not in required})


def configs() -> st.SearchStrategy[RunConfig]:
    def build(data: dict[str, Any]) -> RunConfig | None:
        try:
            return RunConfig.model_validate(data)
        except ValidationError:  # a rule over several fields
            return None

    return sections(RunConfig).map(build).filter(lambda config: config is not None)  # type: ignore[return-value]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs())
def test_what_dump_writes_loads_back_as_equal(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("recipe"), dump(config))
    loaded = load_recipe(path)
    assert loaded == config
    assert dump(loaded) == dump(config)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs())
def test_other_readers_of_yaml_see_the_same_texts(config: RunConfig) -> None:
    def leaves(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for item in value.values() for text in leaves(item)]
        if isinstance(value, list):
            return [text for item in value for text in leaves(item)]
        return [value] if isinstance(value, str) else []

    assert leaves(yaml.safe_load(dump(config))) == leaves(config.model_dump(mode="json"))


# --- what a recipe may say --------------------------------------------------------------------------------------


def test_keys_left_out_have_their_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "name: a\ntrain:\nteacher:\n")) == RunConfig(name="a")


def test_numbers_are_what_people_mean(tmp_path: Path) -> None:
    config = load_recipe(write(tmp_path, "name: 1:30\ntrain:\n  lr: 5e-4\n  steps: 12\n  clip: 2\n  bf16: yes\n"))
    assert (config.name, config.train.lr, config.train.steps, config.train.clip) == ("1:30", 5e-4, 12, 2.0)
    assert config.train.bf16


def test_a_section_without_its_kind_is_of_the_default_kind(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "teacher: {size: 32}\n")).teacher == WorldTeacherConfig(size=32)


def test_relative_paths_count_from_the_working_directory(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "out: runs/x\n")).out == Path("runs/x")


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = "compare:\n  a: &arm {objective: {kind: sft}, lr: 0.1}\n  b: {<<: *arm, lr: 0.2}\n"
    config = load_recipe(write(tmp_path, text))
    assert [config.compare[name].lr for name in "ab"] == [0.1, 0.2]
    assert config.compare["b"].objective == SFTConfig()


RECIPES = [
    path
    for path in sorted(shipped.FOLDER.glob("**/*.yaml"))
    if "\nkind: " not in path.read_text(encoding="utf-8")  # such a file describes something else than a run
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_load(path: Path) -> None:
    assert load_recipe(path).name


# --- inheritance ------------------------------------------------------------------------------------------------


def test_a_base_is_merged_under_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "name: base\ntrain: {steps: 7, lr: 0.5}\nteacher: {size: 32, frames: 9}\n", "base.yaml")
    write(tmp_path, "base: ../base.yaml\ntrain: {lr: 0.25}\n", "sub/middle.yaml")
    config = load_recipe(write(tmp_path, "base: sub/middle.yaml\nname: own\nteacher: {size: 48}\n"))
    assert (config.name, config.train.steps, config.train.lr) == ("own", 7, 0.25)
    assert config.teacher == WorldTeacherConfig(size=48, frames=9)


def test_a_new_kind_replaces_the_section_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, "teacher: {size: 32}\ncompare: {a: {objective: {kind: afd, beta: 0.2}}}\n", "base.yaml")
    text = "base: base.yaml\nteacher: {kind: folder, path: clips}\ncompare: {a: {objective: {kind: sft}}}\n"
    config = load_recipe(write(tmp_path, text))
    assert config.teacher == FolderTeacherConfig(path=Path("clips"))
    assert config.compare["a"].objective == SFTConfig()


@pytest.mark.parametrize("empty", ["compare:", "compare: {}"])
def test_an_empty_section_drops_what_the_base_says(empty: str, tmp_path: Path) -> None:
    write(tmp_path, "compare: {a: {objective: {kind: sft}}}\ntrain: {steps: 7}\n", "base.yaml")
    config = load_recipe(write(tmp_path, f"base: base.yaml\n{empty}\n"))
    assert config.compare == {}
    assert config.train.steps == 7


def test_bases_in_a_circle_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "base: r.yaml\n", "other.yaml")
    (line,) = problems(write(tmp_path, "base: other.yaml\n"))
    assert "circle" in line
    assert "other.yaml" in line


def test_an_error_in_a_base_names_the_base_and_its_line(tmp_path: Path) -> None:
    write(tmp_path, "name: a\ntrain:\n  steps: -4\n", "base.yaml")
    (line,) = problems(write(tmp_path, "base: base.yaml\nseed: 1\n"))
    assert "base.yaml line 3: train.steps is -4; expected whole number >= 1" in line


# --- overrides --------------------------------------------------------------------------------------------------


def test_overrides_win_and_the_last_of_two_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {steps: 3, lr: 0.1}\n")
    config = load_recipe(path, [("train.steps", "4"), ("train.steps", "5"), ("teacher.size", "32")])
    assert (config.train.steps, config.train.lr, config.teacher) == (5, 0.1, WorldTeacherConfig(size=32))


@pytest.mark.parametrize(
    ("text", "value"), [("2024", "2024"), ("no", "no"), ("a: b #1", "a: b #1"), ('"x y"', "x y"), ("*", "*")]
)
def test_text_needs_no_second_quotes_on_the_command_line(tmp_path: Path, text: str, value: str) -> None:
    assert load_recipe(write(tmp_path, "seed: 1\n"), [("name", text)]).name == value


def test_an_override_of_the_kind_replaces_the_section_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path, "teacher: {size: 32}\n")
    for overrides in ([("teacher.path", "x"), ("teacher.kind", "folder")], [("teacher", "{kind: folder, path: x}")]):
        assert load_recipe(path, overrides).teacher == FolderTeacherConfig(path=Path("x"))


def test_arms_can_be_added_and_changed(tmp_path: Path) -> None:
    path = write(tmp_path, "compare: {a: {objective: {kind: sft}}}\n")
    config = load_recipe(path, [("compare.a.lr", "0.5"), ("compare.b-1", "{objective: {kind: afd}}")])
    assert config.compare["a"].lr == 0.5
    assert config.compare["b-1"].objective.kind == "afd"


def test_a_list_and_null_can_be_given(tmp_path: Path) -> None:
    config = load_recipe(
        write(tmp_path, "student: {window: 3}\n"), [("student.levels", "[1, 0.5]"), ("student.window", "null")]
    )
    assert (config.student.levels, config.student.window) == ((1.0, 0.5), None)


# --- everything that can be wrong -------------------------------------------------------------------------------

WRONG = [
    ("train:\n  stepz: 60\n", "line 2: unknown key train.stepz (value 60); did you mean train.steps?"),
    ("beta: 3\n", "line 1: unknown key beta (value 3); did you mean objective.beta?"),
    ("zzzz: 3\n", "unknown key zzzz (value 3); there are the keys name, out,"),
    ("teacher:\n  path: x\n", '"x"); only kinds diffusers, folder have it: set teacher.kind'),
    ("teacher:\n  kind: wrold\n", 'kind is "wrold"; expected one of world, api, comfyui, diffusers, folder, python'),
    ("teacher:\n  kind: 3\n", "teacher.kind is 3; expected one of world, api, comfyui, diffusers, folder, python"),
    ("teacher:\n  kind: folder\n", "teacher.path is missing; expected path (Folder of clips"),
    ("teacher: 3\n", "teacher is 3; expected section of kind world or api or comfyui"),
    ("objective:\n  space: vleocity\n", '"vleocity"; expected one of x0, velocity; did you mean velocity?'),
    ("train:\n  steps: many\n", 'train.steps is "many"; expected whole number >= 1'),
    ("train:\n  steps: '60'\n", 'train.steps is "60"; expected whole number >= 1'),
    ("train:\n  steps: 2.5\n", "train.steps is 2.5; expected whole number >= 1"),
    ("train:\n  steps: true\n", "train.steps is true; expected whole number >= 1"),
    ("train:\n  steps:\n", "train.steps is null; expected whole number >= 1"),
    ("train:\n  steps: 010\n", 'train.steps is "010"; expected whole number >= 1'),
    ("train:\n  lr: .nan\n", "train.lr is NaN; expected number > 0"),
    ("train:\n  bf16: 1\n", "train.bf16 is 1; expected true or false"),
    ("train: 3\n", "train is 3; expected section"),
    ("name: 3\n", "name is 3; expected text"),
    ("student:\n  levels: 3\n", "student.levels is 3; expected list of numbers like [1, 0.5], or null"),
    ("student:\n  levels: [1, a]\n", 'line 2: student.levels.1 is "a"; expected number'),
    ("compare: 3\n", "compare is 3; expected names, each with a section"),
    ("compare:\n  a:\n    lr: 1\n", "line 2: compare.a.objective is missing; expected section of kind afd or dmd"),
    ("compare:\n  a:\n    objective: {lr: 1}\n", "line 3: compare.a.objective.kind is missing; expected one of afd, dmd"),
    ("compare:\n  a:\n    objective: {kind: sft, leevls: 1}\n", "did you mean compare.a.objective.levels?"),
    ("train:\n  steps: 3\n  lr: 1\n  steps: 4\n", "line 4: train.steps is given twice, first on line 2; keep one"),
    ('"a\\nb": 1\n', "line 1: unknown key a b (value 1)"),
    ("1: a\n", "line 1: key 1 is no text; put it in quotes"),
    ("", "is empty; write at least one key"),
    ("# only a remark\n", "is empty; write at least one key"),
    ("- a\n", 'is ["a"], not keys with values'),
    ("just words\n", 'is "just words", not keys with values'),
    ("name: a: b\n", "line 1 is not YAML: mapping values are not allowed here"),
    ("name: a\ntrain:\n\tsteps: 3\n", "line 3 is not YAML: found character"),
    ("name: a\nout: b\x00\n", "line 2 is not YAML: special characters are not allowed"),
    ("name: a\n---\nname: b\n", "is not YAML: but found another document"),
    ("name: !!python/name:os.system x\n", "line 1 is not YAML: could not determine a constructor"),
    ("name: !!timestamp 2026-01-01\n", "holds a value that no key takes"),
    ("name: &a [*a]\n", "line 1: name.0 refers to itself"),
    ("name: " + "[" * 3000 + "\n", "nested too deeply"),
    ("base: nowhere.yaml\n", 'line 1: base "nowhere.yaml" does not exist (looked for'),
    ("base: [a]\n", 'line 1: base is ["a"]; expected the path of another recipe'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[repr(text[:30]) for text, _ in WRONG])
def test_what_is_wrong_is_one_line_with_file_key_value_and_expectation(tmp_path: Path, text: str, words: str) -> None:
    (line,) = problems(write(tmp_path, text))
    assert words in line
    assert "r.yaml" in line
    assert len(line) < 400


WRONG_OVERRIDES = [
    ("train.stepz", "3", 'command line: unknown key train.stepz (value "3"); did you mean train.steps?'),
    ("train.steps", "many", 'command line: train.steps is "many"; expected whole number >= 1'),
    ("train.steps", "[1", "command line: train.steps"),
    ("train.steps", "", "command line: train.steps is null; expected whole number >= 1"),
    ("train", "3", "command line: train is 3; expected section"),
    ("name", "\udcff", "command line: the value of name is not UTF-8 text"),
    ("teacher.path", "x", "only kinds diffusers, folder have it"),
    ("prompts.kind", "fiel", 'command line: prompts.kind is "fiel"; expected one of world, file; did you mean file?'),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG_OVERRIDES, ids=[repr(item[:2]) for item in WRONG_OVERRIDES])
def test_a_wrong_override_is_one_line(tmp_path: Path, key: str, value: str, words: str) -> None:
    (line,) = problems(write(tmp_path, "seed: 1\n"), (key, value))
    assert words in line


def test_an_override_does_not_hide_what_the_recipe_says_wrongly(tmp_path: Path) -> None:
    (line,) = problems(write(tmp_path, "train: 3\n"), ("train.steps", "4"))
    assert "train is 3; expected section" in line


def test_several_problems_are_several_lines_but_never_more_than_five(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {steps: a, lr: b}\n")
    assert len(problems(path)) == 2
    path = write(tmp_path, "".join(f"{letter * 9}: 1\n" for letter in "bcfgjkqw"))
    lines = problems(path)
    assert len(lines) == 5
    assert lines[-1].endswith("(and 3 more problems)")


def test_too_many_aliases_are_stopped(tmp_path: Path) -> None:
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (line,) = problems(write(tmp_path, "\n".join(rows) + "\n"))
    assert "refers to itself or to too much" in line


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == [
        f"recipe {tmp_path / 'none.yaml'} does not exist; `understudy recipes` lists those that ship"
    ]
    assert "is a directory" in problems(tmp_path)[0]
    (tmp_path / "b.yaml").write_bytes(b"name: \xff\n")
    assert "not UTF-8" in problems(tmp_path / "b.yaml")[0]


# --- the list of fields -----------------------------------------------------------------------------------------


def test_every_listed_field_is_a_key_and_every_leaf_of_a_dump_is_listed() -> None:
    listed = {field.key for field in config_fields()}
    assert all(canonical_key(key) == key for key in listed if not key.endswith(".*"))

    def leaves(value: Any, prefix: str) -> list[str]:
        if isinstance(value, dict):
            return [key for name, item in value.items() for key in leaves(item, f"{prefix}.{name}".lstrip("."))]
        return [prefix]

    sections = {
        "compare",
        "student.codec",
        "student.lora",
        "student.text",
    }  # empty or null by default: their own keys are listed
    assert set(leaves(RunConfig().model_dump(mode="json"), "")) - sections <= listed
    assert all(any(key.startswith(f"{section}.") for key in listed) for section in sections)


def test_fields_say_kind_default_and_bounds() -> None:
    fields = {(field.key, field.kind): field for field in config_fields()}
    assert fields["teacher.kind", ""].type == "one of world, api, comfyui, diffusers, folder, python"
    assert fields["teacher.path", "folder"].default == "required"
    assert fields["train.steps", ""].type == "whole number >= 1"
    assert fields["train.steps", ""].default == str(RunConfig().train.steps)
    assert fields["compare.NAME.objective.*", ""].type == "as objective.*"
    assert not any("None" in field.type for field in fields.values())


def test_keys_are_found_by_their_last_word() -> None:
    assert near_key("trian.steps") == "train.steps"
    assert near_key("train.stpes") == "train.steps"
    assert near_key("dry-rnu", ["dry-run"]) == "dry-run"
    assert near_key("qqqq") is None
    assert canonical_key("objective.old-decay") == "objective.old_decay"
    assert canonical_key("compare.my-arm.lr") == "compare.my-arm.lr"
    assert canonical_key("train.") is None
