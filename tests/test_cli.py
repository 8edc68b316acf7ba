import errno
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file, save_file

from understudy import __version__, cli
from understudy.collection.collect import CollectReport
from understudy.collection.store import ClipStore
from understudy.commands.base import RecipeVerb
from understudy.errors import ConfigError
from understudy.recipes.files import load_recipe
from understudy.training.loop import Interrupted
from understudy.video.clips import decode_mp4

MINI = """
name: mini
out: {out}
teacher: {{kind: world, size: 16, frames: 8, fps: 12}}
prompts: {{kind: world, families: [drop], colours: [red, blue], sizes: [small], per_scene: 2, held_out: 0.5}}
clips: {{store: {store}, per_prompt: 1}}
student: {{start: {start}}}
"""


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line, of exactly one, with a status that says so."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.status != 0
        assert "Traceback" not in self.err + self.out
        return line


Run = Callable[..., Said]


@pytest.fixture
def understudy(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> Said:
        capsys.readouterr()
        status = cli.main([str(arg) for arg in args])
        caught = capsys.readouterr()
        return Said(status, caught.out, caught.err)

    return run


@pytest.fixture
def recipe(tmp_path: Path, start: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(MINI.format(out=tmp_path / "run", store=tmp_path / "store", start=start), encoding="utf-8")
    return path


def stub(monkeypatch: pytest.MonkeyPatch, name: str, result: object) -> list[Any]:
    """Replace ``run.name``, as "main.run"; return the list of what it is called with. An exception is raised."""
    calls: list[Any] = []

    def replacement(*args: Any, **named: Any) -> object:
        calls.append(named or args[0])
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(f"understudy.run.{name}", replacement)
    return calls


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- help -------------------------------------------------------------------------------------------------------


def test_no_verb_shows_all_verbs(understudy: Run) -> None:
    said = understudy()
    assert said.status == 0
    assert all(f" {verb} " in said.out for verb in cli.VERBS)
    assert said.err == ""


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb: str, understudy: Run) -> None:
    said = understudy(*verb.split(), "--help")
    assert said.status == 0
    _, _, examples = said.out.partition("Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.startswith("  understudy ")]
    assert any(line.startswith(f"understudy {verb}") for line in lines)
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])[1:]
        name, rest = cli._verb_name(words)
        if issubclass(cli.VERBS[name], RecipeVerb):
            rest = cli._split(name, rest)[0]
        assert isinstance(cli._parse(name, rest), cli.VERBS[name])


def test_help_and_usage_errors_do_not_load_torch() -> None:
    code = (
        "import sys; from understudy.cli import main\n"
        "assert (main([]), main(['train', '--help']), main(['train', 'x', '--nope', '1'])) == (0, 0, 2)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_version(understudy: Run) -> None:
    assert understudy("--version").out == f"understudy {__version__}\n"


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "understudy", "trian"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no verb 'trian'; did you mean train?\n"


def test_config_lists_fields_with_type_default_and_help(understudy: Run) -> None:
    said = understudy("config")
    assert said.status == 0
    assert "train.steps: whole number >= 1 (default " in said.out
    assert "teacher.path: [kind folder] path (required)" in said.out


# --- recipes and overrides --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["RECIPE", "--train.steps", "7", "--objective.old-decay=0.25"],
        ["--train.steps=7", "RECIPE", "--objective.old_decay", "0.25"],
        ["--train.steps", "9", "--objective.old_decay", "0.25", "RECIPE", "--train.steps", "7"],
    ],
)
def test_fields_are_set_in_either_form_and_anywhere(
    args: list[str], recipe: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stub(monkeypatch, "main.run", Path("runs/x"))
    said = understudy("train", *[str(recipe) if arg == "RECIPE" else arg for arg in args])
    assert said.status == 0
    assert "runs/x" in said.out
    assert calls == [load_recipe(recipe, [("train.steps", "7"), ("objective.old_decay", "0.25")])]


def test_negative_values_reach_the_field(recipe: Path, understudy: Run) -> None:
    assert "train.lr is -1; expected number > 0" in understudy("train", recipe, "--train.lr", "-1").error


def test_print_config_is_a_recipe_again(recipe: Path, tmp_path: Path, understudy: Run) -> None:
    before = files(tmp_path)
    said = understudy("train", recipe, "--train.steps", "7", "--print-config")
    assert (said.status, said.err, files(tmp_path)) == (0, "", before)
    (tmp_path / "resolved.yaml").write_text(said.out, encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml") == load_recipe(recipe, [("train.steps", "7")])


@pytest.mark.parametrize("verb", ["collect", "train"])
def test_dry_run_says_what_it_would_do_and_writes_nothing(
    verb: str, recipe: Path, tmp_path: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, "describe.describe", ["a line"])
    before = files(tmp_path)
    said = understudy(verb, recipe, "--dry-run")
    assert said.status == 0
    assert said.out.startswith("a line\nmissing clips: 2 of 2\ndry run: nothing was written")
    assert files(tmp_path) == before


# --- what the verbs do ------------------------------------------------------------------------------------------


def test_collect_fills_the_store_and_says_so(recipe: Path, tmp_path: Path, understudy: Run) -> None:
    said = understudy("collect", recipe)
    assert said.status == 0
    assert "2 of 2 clips settled" in said.out
    assert "2 collected" in said.out
    assert len(ClipStore(tmp_path / "store")) == 2
    assert "2 there already" in understudy("collect", recipe).out


def test_collect_asks_for_the_recipe(recipe: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub(monkeypatch, "clips.collect", CollectReport(total=3, done=1, skipped=1, rejected=1))
    assert "3 of 3 clips settled" in understudy("collect", recipe).out
    assert calls == [load_recipe(recipe)]


def test_generate_draws_every_prompt(start: Path, tmp_path: Path, understudy: Run) -> None:
    (tmp_path / "p.txt").write_text("a ball\n", encoding="utf-8")
    said = understudy(
        "generate", start, " red  ball ", "red ball", "--prompts", tmp_path / "p.txt", "--out", tmp_path / "o"
    )
    assert (said.status, said.err) == (0, "")
    written = said.out.splitlines()
    assert len(written) == 2
    assert all(Path(path).is_file() for path in written)


def test_generate_passes_everything_on(understudy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub(monkeypatch, "draw.generate", [Path("a.mp4")])
    options = "--out o --seconds 2.5 --seed 3 --per-prompt 4 --window 5 --sink 1 --threads 2 --given g.png"
    switch = ("--switch", "8s: a  blue ball", "9:c")
    assert understudy("generate", "builtin:frame", "a", "b", *options.split(), *switch).out == "a.mp4\n"
    assert callable(calls[0].pop("say"))
    assert calls == [
        {
            "bundle": "builtin:frame",
            "prompts": ["a", "b"],
            "out": Path("o"),
            "seconds": 2.5,
            "seed": 3,
            "per_prompt": 4,
            "window": 5,
            "sink": 1,
            "threads": 2,
            "switches": ((8.0, "a blue ball"), (9.0, "c")),
            "given": Path("g.png"),
        }
    ]


def test_generate_streams_to_standard_output(start: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["generate", str(start), "a", "--stream", "-", "--seconds", "3", "--window", "4"]) == 0
    clip = decode_mp4(capfdbinary.readouterr().out)
    assert (clip.frames.shape, clip.fps) == ((36, 16, 16, 3), 12.0)


def test_evaluate_takes_a_run_folder(tmp_path: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub(monkeypatch, "main.evaluate", {})
    assert str(tmp_path / "summary.json") in understudy("evaluate", tmp_path).out
    assert calls == [tmp_path]


def test_doctor_exits_with_1_when_something_fails(tmp_path: Path, start: Path, understudy: Run) -> None:
    assert understudy("doctor", start).status == 0
    said = understudy("doctor", tmp_path / "nothing")
    assert (said.status, said.err) == (1, "")
    assert said.out.startswith("fail ")


# --- what goes wrong --------------------------------------------------------------------------------------------

USAGE = [
    ("trian x", "there is no verb 'trian'; did you mean train?"),
    ("bogus", "there is no verb 'bogus'; choose one of collect, train,"),
    ("train", "RECIPE is missing"),
    ("train a.yaml b.yaml", "unrecognized options: b.yaml"),
    ("train a.yaml --train.stepz 3", "there is no option --train.stepz; did you mean --train.steps?"),
    ("train a.yaml --beta 3", "there is no option --beta; did you mean --objective.beta?"),
    ("train a.yaml --dryrun", "there is no option --dryrun; did you mean --dry-run?"),
    ("train a.yaml --qqqq", "there is no option --qqqq; `understudy config` lists all fields"),
    ("train a.yaml --train.steps", "--train.steps needs a value"),
    ("train a.yaml --train.steps --dry-run", "--train.steps needs a value"),
    ("generate", "BUNDLE is missing"),
    ("generate b", "there are no prompts"),
    ("generate b ''", "a prompt is empty"),
    ("generate b p --secods 3", "unrecognized options: --secods, 3; did you mean --seconds?"),
    ("generate b p --seconds x", "--seconds cannot be 'x'"),
    ("generate b p --seconds 0", "--seconds is 0.0; give a number above 0"),
    ("generate b p --seconds nan", "--seconds is nan; give a number above 0"),
    ("generate b p --per-prompt x", "--per-prompt cannot be 'x'"),
    ("generate b p --per-prompt 0", "--per-prompt is 0; give a whole number of at least 1"),
    ("generate b p --per-prompt", "missing value for argument '--per-prompt'"),
    ("generate b p --seed -1", "--seed is -1"),
    ("evaluate", "RUN is missing"),
    ("doctor a b", "unrecognized options: b"),
    ("config x", "unrecognized options: x"),
    ("--bogus", "there is no verb '--bogus'"),
]


@pytest.mark.parametrize(("line", "words"), USAGE)
def test_wrong_usage_is_one_line_and_status_2(line: str, words: str, understudy: Run) -> None:
    said = understudy(*shlex.split(line))
    assert said.status == 2
    assert words in said.error
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train nowhere.yaml", "recipe nowhere.yaml does not exist"),
        ("train .", "cannot read recipe .: is a directory"),
        ("collect RECIPE --train.steps many", 'train.steps is "many"; expected whole number >= 1'),
        ("train RECIPE --student.start nowhere", "nowhere is not a student"),
        ("train RECIPE --student.start builtin:nothing", "builtin:nothing"),
        (
            "train RECIPE --prompts.kind file --prompts.train nowhere.txt --prompts.held_out b.txt",
            "nowhere.txt does not",
        ),
        ("train RECIPE --teacher.kind folder --teacher.path nowhere", "clip folder nowhere does not exist"),
        ("generate nowhere p", "nowhere is not a student"),
        ("generate START p --window 1 --sink 3", "window 1 must hold the sink"),
        ("generate START p --out RECIPE", "as a folder: it, or a parent of it, is a file"),
        ("generate START --prompts nowhere.txt", "nowhere.txt does not exist"),
        ("evaluate nowhere", "run folder nowhere does not exist"),
        ("evaluate START", "holds no finished run"),
        ("report nowhere", "run folder nowhere does not exist"),
        ("report RECIPE", "is not a folder"),
    ],
)
def test_wrong_input_is_one_line_and_status_1(
    line: str, words: str, recipe: Path, start: Path, understudy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = understudy(*shlex.split(line.replace("RECIPE", str(recipe)).replace("START", str(start))))
    assert said.status == 1
    assert words in said.error


def test_zero_prompts_in_a_file_are_one_line(tmp_path: Path, start: Path, understudy: Run) -> None:
    (tmp_path / "p.txt").write_text("# none\n", encoding="utf-8")
    assert "has no prompts" in understudy("generate", start, "--prompts", tmp_path / "p.txt").error


def test_several_problems_are_a_line_each(recipe: Path, understudy: Run) -> None:
    said = understudy("train", recipe, "--train.steps", "a", "--train.lr", "b")
    assert said.status == 1
    assert [line.split()[0] for line in said.err.splitlines()] == ["error:", "error:"]


def test_a_bundle_with_a_value_that_is_not_finite_is_one_line(recipe: Path, start: Path, understudy: Run) -> None:
    weights = load_file(start / "student.safetensors")
    weights["patch_in.bias"][0] = float("nan")
    save_file(weights, start / "student.safetensors")
    for args in (("train", recipe), ("generate", start, "p")):
        assert "not finite in 'patch_in.bias'" in understudy(*args).error


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_a_truncated_bundle_is_one_line(keep: int, recipe: Path, start: Path, understudy: Run) -> None:
    path = start / "student.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is damaged" in understudy("train", recipe).error


def test_a_truncated_clip_in_the_store_is_one_line(recipe: Path, tmp_path: Path, understudy: Run) -> None:
    assert understudy("collect", recipe).status == 0
    clip = next((tmp_path / "store" / "clips").glob("*/*.mp4"))
    clip.write_bytes(clip.read_bytes()[:-200])
    assert clip.name in understudy("train", recipe).error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_line(
    number: int, recipe: Path, tmp_path: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    assert os.strerror(number).lower() in understudy("collect", recipe).error
    assert len(ClipStore(tmp_path / "store")) == 0
    monkeypatch.undo()
    assert understudy("collect", recipe).status == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_one_line(recipe: Path, tmp_path: Path, understudy: Run) -> None:
    (tmp_path / "fixed").mkdir(mode=0o500)
    assert "permission denied" in understudy("collect", recipe, "--clips.store", tmp_path / "fixed" / "s").error


ERRORS = [
    (ConfigError("a line"), 1, "error: a line"),
    (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: x: no space left on device; free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "error: x: permission denied; choose a place"),
    (MemoryError(), 1, "error: out of memory; use"),
    (RuntimeError("two\nlines"), 1, "error: unexpected RuntimeError: two lines; please report it"),
    (KeyError("dropp"), 1, "error: unexpected KeyError: 'dropp'"),
    (KeyboardInterrupt(), 130, "stopped: run the same command again to go on"),
    (KeyboardInterrupt("stopped: 3 of 5 jobs"), 130, "stopped: 3 of 5 jobs"),
    (Interrupted("stopped after step 3", signal.SIGINT), 130, "stopped: after step 3"),
    (Interrupted("stopped after step 3", signal.SIGTERM), 143, "stopped: after step 3"),
]


@pytest.mark.parametrize(("error", "status", "line"), ERRORS, ids=[repr(item[0]) for item in ERRORS])
def test_every_sort_of_error_has_its_status_and_one_line(
    error: BaseException, status: int, line: str, recipe: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, "main.run", error)
    monkeypatch.delenv("UNDERSTUDY_TRACEBACK", raising=False)
    said = understudy("train", recipe)
    assert said.status == status
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1


def test_a_traceback_is_shown_when_asked_for(recipe: Path, understudy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, "main.run", ConfigError("a line"))
    monkeypatch.setenv("UNDERSTUDY_TRACEBACK", "1")
    said = understudy("train", recipe)
    assert said.status == 1
    assert "Traceback" in said.err
    assert said.err.endswith("\nerror: a line\n")


def test_a_closed_pipe_is_silent() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "config"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=120,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "config"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: no space left on device")
    assert done.stderr.count(b"\n") == 1
