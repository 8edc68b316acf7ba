"""The documents say what is there: links, functions, keys, verbs and options, names of Python, the README's length."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

import understudy as us
from understudy.recipes.config import RunConfig
from understudy.recipes.tree import field_named

ROOT = Path(__file__).parents[1]
UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|mailto:)([^)\s]+)\)")
OURS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benchmarks", "examples", "tests/data")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for name in OURS
    for path in ([ROOT / name] if name.endswith(".md") else (ROOT / name).rglob("*.md"))
)
# What a document may name as `module.name` or `module.name.part`, beside the keys of a recipe.
ROOMS = sorted(path.stem for path in (ROOT / "src" / "understudy").iterdir() if path.suffix in ("", ".py"))
NAMED = re.compile(rf"`((?:{'|'.join(ROOMS)})(?:\.[A-Za-z_][A-Za-z_0-9]*)+)`")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def anchors(name: str) -> set[str]:
    """Return the anchors of a page's headings, as its readers make them."""
    prose = FENCE.sub("", text(name))
    heads = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head)).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_lead_somewhere(name: str) -> None:
    broken = []
    for link in LINK.findall(text(name)):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if (
            not target.exists()
            or not target.resolve().is_relative_to(ROOT)
            or (
                anchor
                and target.suffix == ".md"
                and anchor not in anchors(target.resolve().relative_to(ROOT).as_posix())
            )
        ):
            broken.append(link)
    assert broken == []


def test_the_readme_is_short() -> None:
    assert len(text("README.md").split()) <= 700


def exists(name: str) -> bool:
    """Return whether `a.b.c` is a module of the package, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["understudy", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[cut:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


def is_key(name: str) -> bool:
    """Return whether `a.b` is a field of a recipe, whatever the kind of its section."""
    section, _, field = name.partition(".")
    return section in RunConfig.model_fields and f"{name}:" in config_page() and bool(field)


@cache
def config_page() -> str:
    done = subprocess.run([UNDERSTUDY, "config"], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


@pytest.mark.parametrize("name", ["docs/method.md", "docs/glossary.md", "docs/tuning.md", "docs/results.md"])
def test_functions_and_keys_that_are_named_exist(name: str) -> None:
    named = set(NAMED.findall(text(name)))
    assert [one for one in sorted(named) if not exists(one) and not is_key(one)] == []


def test_the_method_ties_its_equations_to_functions() -> None:
    lines = text("docs/method.md").split("| step | equation | function |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    steps = [line.split(" | ") for line in lines]
    assert len(steps) == 11
    for row in steps:
        assert all(exists(one) for one in re.findall(r"`([\w.]+)`", row[2])), row[0]
        assert "`" in row[2], row[0]
        assert row[4].strip(" |"), row[0]


def commands() -> list[tuple[str, str]]:
    """Return every command line of the documents with its page."""
    found = []
    for name in ("README.md", *(one for one in PAGES if one.startswith("docs/"))):
        prose = re.sub(r"^```(?!sh|bash).*?^```", "", text(name), flags=re.M | re.S)
        lines = re.findall(r"^    (understudy [^#\n]+)", prose, re.M) + re.findall(r"`(understudy [^`\n]+)`", prose)
        found += [(name, line.strip()) for line in lines]
    return found


@cache
def help_of(*verb: str) -> str:
    done = subprocess.run([UNDERSTUDY, *verb, "--help"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout if done.returncode == 0 else ""


def test_verbs_and_options_that_are_named_exist() -> None:
    wrong = []
    for name, line in commands():
        words = line.split()
        if words[1].startswith("--") or words[1] == "VERB":
            continue
        verb = words[1:3] if words[1] in ("store", "world") else words[1:2]
        page = help_of(*verb)
        if not page:
            wrong.append((name, line))
        for option in re.findall(r"(?<=\s)--([a-z][\w.-]*)", line):
            field = option.replace("-", "_")
            if f"--{option}" not in page and f"{field}:" not in config_page():
                wrong.append((name, line, option))
    assert wrong == []
    assert len(commands()) > 40


def test_recipes_and_suites_that_are_named_ship() -> None:
    done = subprocess.run([UNDERSTUDY, "recipes"], capture_output=True, text=True, check=True, cwd=ROOT)
    shipped = set(re.findall(r"^  (\S+)", done.stdout, re.M))
    named = {word for _, line in commands() for word in re.findall(r"^understudy (?:train|bench) ([a-z_0-9.]+)", line)}
    assert named - shipped - {"wan"} == set()


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_python_names_what_the_door_has(name: str) -> None:
    code = [block for language, block in FENCE.findall(text(name)) if language == "python"]
    assert code
    for tree in map(ast.parse, code):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = {"us": us, "student": us.Student, "run": us.Run, "stream": us.Stream, "clip": us.Clip}.get(
                    node.value.id
                )
                fields = set(getattr(owner, "__dataclass_fields__", ()))
                assert owner is None or hasattr(owner, node.attr) or node.attr in fields, ast.unparse(node)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("us.Run", "us.recipe"):
                given = {keyword.arg for keyword in node.keywords}
                for field in given - {
                    "teacher",
                    "student",
                    "reward",
                    "objective",
                    "discriminator",
                    "beside",
                    "on_event",
                }:
                    assert field_named(field), field


def test_yaml_in_the_documents_is_yaml() -> None:
    blocks = [block for name in PAGES for language, block in FENCE.findall(text(name)) if language == "yaml"]
    assert blocks
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks)


def test_every_benchmark_has_its_line() -> None:
    page = text("benchmarks/README.md")
    assert [path.name for path in sorted((ROOT / "benchmarks").glob("*.py")) if f"]({path.name})" not in page] == []
