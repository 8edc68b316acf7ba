"""House rules that no linter holds: smells, docstrings, shape legends, nothing left open, no private paths.

Each rule is a generator of violations, so that one run names every offending ``file:line``.
"""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "understudy"

MODULE_LINES, FUNCTION_LINES, PUBLIC_METHODS, PARAMETERS, GROUND_FLOOR = 400, 80, 12, 7, 9
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # of the standard library, in spite of their spelling
# Rooms that still break a rule. This list only shrinks: an entry that keeps the rule has to go.
PENDING = {
    ("sizes", "benchmarks/provider.py"),
    ("sizes", "benchmarks/serving.py"),
    ("sizes", "benchmarks/video_kinds.py"),
    ("sizes", "src/understudy/collection/store.py"),
    ("sizes", "src/understudy/doctor.py"),
    ("sizes", "src/understudy/teachers/world/dialects.py"),
    ("crowded_classes", "src/understudy/collection/ledger.py"),
    ("crowded_classes", "src/understudy/collection/worker.py"),
    ("crowded_classes", "src/understudy/teachers/wire.py"),
    ("private_names", "src/understudy/codecs/wan.py"),  # diffusers' own cache, which it has no public name for
}
TENSOR_PLACES = ("students/", "codecs/", "discriminators/", "objectives/", "training/", "flow.py")
# They have no CPU build to match every torch, and we need nothing from them.
BANNED_IMPORTS = {"torchvision", "torchaudio"}

LEFT_OPEN = re.compile(r"\b(?:TO[D]O|FIX[M]E)\b")  # bracketed, so that a search for them skips this line
SHAPE = re.compile(r"\[[BKFNTCHWhwLD](?:\]|,)")
PRIVATE_PATH = re.compile(r"""(?<![\w.~/-])/(?:home|Users|root|tmp|var/(?:tmp|folders))(?=[/\s'"`),;]|$)""")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Violations = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class Module:
    """One source file, read and parsed once."""

    name: str  # path below src/understudy, with forward slashes
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.name)


def sizes(module: Module) -> Violations:
    """Long functions and modules hide more than one idea."""
    lines = len(module.text.splitlines())
    if lines > MODULE_LINES:
        yield MODULE_LINES + 1, f"module has {lines} lines, limit {MODULE_LINES}"
    for node in ast.walk(module.tree):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, limit {FUNCTION_LINES}"


def crowded_classes(module: Module) -> Violations:
    """A class with many parameters or many public methods is several; properties are no methods."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        methods = [item for item in node.body if isinstance(item, FUNCTIONS)]
        public = [item for item in methods if not item.name.startswith("_") and not _is_property(item)]
        if len(public) > PUBLIC_METHODS:
            yield node.lineno, f"{node.name} has {len(public)} public methods, limit {PUBLIC_METHODS}"
        for item in methods:
            count = len(item.args.posonlyargs + item.args.args + item.args.kwonlyargs) - 1
            if item.name == "__init__" and count > PARAMETERS:
                yield item.lineno, f"{node.name} takes {count} parameters, limit {PARAMETERS}"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(mark).split(".")[-1] in ("property", "cached_property") for mark in node.decorator_list)


def private_names(module: Module) -> Violations:
    """What begins with an underscore belongs to its module: no other imports it or reaches for it."""
    own = {node.name for node in ast.walk(module.tree) if isinstance(node, Definition)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    for node in ast.walk(module.tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "__future__":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr not in own | PUBLIC:
            names = [node.attr]
        for name in names:
            if name.startswith("_") and not name.startswith("__"):
                yield node.lineno, f"{name} is private to another module"


def docstrings(module: Module) -> Violations:
    """Every public name says what it is for; overloads and setters speak through their partner."""

    def missing(body: list[ast.stmt], prefix: str) -> Violations:
        for node in body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
            if ast.get_docstring(node) is None and not decorators & {"overload", "setter", "deleter"}:
                yield node.lineno, f"{prefix}{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from missing(node.body, f"{prefix}{node.name}.")

    yield from missing(module.tree.body, "")


def nothing_left_open(module: Module) -> Violations:
    """Open ends belong in an issue, where they are seen."""
    for number, line in enumerate(module.text.splitlines(), start=1):
        if match := LEFT_OPEN.search(line):
            yield number, f"{match.group()} left in the source"


def banned_imports(module: Module) -> Violations:
    """The two companions of torch that no part may lean on, not even inside a function."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] in BANNED_IMPORTS:
                yield node.lineno, f"imports {name}"


def shape_legend(module: Module) -> Violations:
    """A module that names ``Tensor`` in an annotation says in its prose what the dimensions are."""
    if not module.name.startswith(TENSOR_PLACES):
        return
    annotations: list[ast.expr | None] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            annotations.append(node.annotation)
        elif isinstance(node, FUNCTIONS):
            annotations.append(node.returns)
    tensors = [note.lineno for note in annotations if note and re.search(r"\bTensor\b", ast.unparse(note))]
    if not tensors:
        return
    # Comments and strings only: in code, `list[T]` or `x[B, 0]` would pass for a legend.
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    prose = (token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING))
    if not any(SHAPE.search(text) for text in prose):
        yield min(tensors), "handles tensors but no docstring or comment gives a shape like [B, F, C]"


SMELLS: list[Callable[[Module], Violations]] = [sizes, crowded_classes, private_names]  # in scripts too
RULES: list[Callable[[Module], Violations]] = [
    *SMELLS,
    docstrings,
    nothing_left_open,
    banned_imports,
    shape_legend,
]


def _report(rule: str, found: list[str]) -> None:
    assert not found, f"{rule}: {len(found)} violation(s)\n  " + "\n  ".join(found)


def read(path: Path, below: Path) -> Module:
    return Module(path.relative_to(below).as_posix(), path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    paths = sorted(SOURCE.rglob("*.py"))
    assert paths, f"no sources under {SOURCE}"
    return {path.relative_to(ROOT).as_posix(): read(path, SOURCE) for path in paths}


@pytest.fixture(scope="module")
def scripts() -> dict[str, Module]:
    paths = sorted((ROOT / "benchmarks").glob("*.py")) + sorted((ROOT / "examples").glob("*.py"))
    return {path.relative_to(ROOT).as_posix(): read(path, ROOT) for path in paths}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_sources_keep_the_rule(
    rule: Callable[[Module], Violations], modules: dict[str, Module], scripts: dict[str, Module]
) -> None:
    found, pending = [], {file for name, file in PENDING if name == rule.__name__}
    kept = set(pending)
    for file, module in {**modules, **(scripts if rule in SMELLS else {})}.items():
        for line, message in rule(module):
            kept.discard(file)
            found += [] if file in pending else [f"{file}:{line}: {message}"]
    _report(rule.__name__, found)
    assert not kept, f"these keep {rule.__name__} by now: take them off PENDING: {', '.join(sorted(kept))}"


def test_the_ground_floor_is_small() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    floor = sorted(layers[-1].split(" : "))
    assert len(floor) <= GROUND_FLOOR, f"the ground floor has {len(floor)} modules, limit {GROUND_FLOOR}: {floor}"


def test_no_private_paths_in_shipped_text() -> None:
    folders = ("src", "docs", "benchmarks")
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to tell the project's files from a run's output")
    # Files not added yet count too, so that the rule speaks before the commit and not after it.
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" in content:  # binary, as git itself judges it
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if match := PRIVATE_PATH.search(line):
                found.append(f"{name}:{number}: absolute path {match.group()}")
    _report("private paths", found)


LONG_BODY = "    x = 1\n" * FUNCTION_LINES
OFFENCES = [
    (sizes, f"def f():\n{LONG_BODY}", 1),
    (sizes, "x = 1\n" * (MODULE_LINES + 1), MODULE_LINES + 1),
    (crowded_classes, "class A:\n" + "".join(f"    def f{n}(self): ...\n" for n in range(PUBLIC_METHODS + 1)), 1),
    (crowded_classes, "class A:\n    x = 1\n    def __init__(self, a, b, c, d, *, e, f, g, h): ...", 3),
    (private_names, "from understudy.flow import _levels", 1),
    (private_names, "import x\nx.y._z = 1\nx.y._w", 3),
    (private_names, "class A(B):\n    def f(self):\n        return self._from_b", 3),
    (docstrings, "def f(): ...", 1),
    (docstrings, 'class A:\n    """A."""\n    def f(self): ...', 3),
    (nothing_left_open, "x = 1\n# todo: y".upper(), 2),
    (banned_imports, "def f():\n    from torchvision.io import read_video", 2),
    (shape_legend, "from torch import Tensor\ndef f(x: Tensor) -> list[T]: ...", 2),
]


@pytest.mark.parametrize(("rule", "text", "line"), OFFENCES)
def test_each_rule_bites(rule: Callable[[Module], Violations], text: str, line: int) -> None:
    assert [found for found, _ in rule(Module("flow.py", text))] == [line]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (docstrings, "def _f(): ...\nclass _A:\n    def f(self): ..."),
        (docstrings, '@overload\ndef f(): ...\ndef f():\n    """F."""\n    def g(): ...'),
        (crowded_classes, "class A:\n" + "    @property\n    def f(self): ...\n" * 20),
        (crowded_classes, "class A:\n    def __init__(self, a, b, c, d, e, f, g, **more): ..."),
        (private_names, "def _f(): ...\nx._f\ny._replace()\nself._z = 1\nother._z\nz.__dict__"),
        (shape_legend, 'def f(x: torch.Tensor) -> None:\n    """``x`` is [B, F, C, h, w]."""'),
        (shape_legend, "import torch\ntorch.manual_seed(0)"),
    ],
)
def test_rules_leave_good_code_alone(rule: Callable[[Module], Violations], text: str) -> None:
    assert list(rule(Module("flow.py", text))) == []


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("out: /home/ann/clips", True),
        ('path = "/tmp"', True),
        ("docs/home/page.md and https://example.org/home/x", False),
        ("tmp_path / name", False),
    ],
)
def test_private_paths_are_told_from_others(line: str, private: bool) -> None:
    assert bool(PRIVATE_PATH.search(line)) is private
