"""`understudy collect` with a service that may charge: what it says, asks and refuses before the first request."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.collection.store import ClipStore
from understudy.students.bundle import ClipForm, load_bundle, save_bundle
from understudy.teachers.world.server import World, serve
from understudy.teachers.world.teacher import WorldTeacher

pytest.importorskip("httpx")

RECIPE = """
prompts: {{kind: world, families: [drop], colours: [red, blue], sizes: [small], per_scene: 2, held_out: 0.5}}
clips: {{store: {store}, per_prompt: 1}}
teacher: {{kind: api, url: "{url}", model: world, frames: 4, fps: 8, width: 16, height: 16, price_per_second: 0.5{more}}}
collection: {{poll: 0.05}}
evaluation: {{prompts: 1, rollouts: 2, reference: 2, floor: 2, shown: 1}}
out: {out}
student: {{start: {start}}}
"""
READ = ", terms: {training: conditional, note: fine for research, url: https://x.example/terms, checked: 2026-11-01}"


@pytest.fixture
def world() -> Iterator[World]:
    world = World(WorldTeacher(size=16, frames=4, fps=8.0))
    server = serve(world)
    world.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield world
    server.shutdown()
    server.server_close()


@pytest.fixture
def recipe(world: World, tmp_path: Path, start: Path) -> Callable[[str], Path]:
    """Writes a recipe whose teacher sends what its student draws: 4 frames at 8 a second."""
    save_bundle(replace(load_bundle(start), form=ClipForm(16, 16, 8.0, 4)), start)

    def write(more: str = READ) -> Path:
        path = tmp_path / "paid.yaml"
        path.write_text(
            RECIPE.format(
                store=tmp_path / "store",
                out=tmp_path / "run",
                url=world.url,  # type: ignore[attr-defined]
                more=more,
                start=start,
            )
        )
        return path

    return write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(text + "\n"))


def test_terms_and_an_estimate_come_before_the_first_request(world, recipe, tmp_path, monkeypatch, capsys) -> None:
    answer(monkeypatch, "")
    assert main(["collect", str(recipe())]) == 1
    said = capsys.readouterr()
    assert (
        "training on outputs: conditional; fine for research (https://x.example/terms, checked 2026-11-01)" in said.out
    )
    assert "2 clips to ask openai-videos/127.0.0.1/world-" in said.out
    assert "at about 0.25 USD each: 0.50 USD" in said.out
    assert "nothing was asked" in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # a script, not a person
    assert main(["collect", str(recipe())]) == 1
    assert "give --yes to go on at this price" in capsys.readouterr().err
    assert sum(world.asked.values()) == 0
    answer(monkeypatch, "y")
    assert main(["collect", str(recipe())]) == 0
    said = capsys.readouterr()
    assert "2 of 2 clips settled" in said.out
    assert "spent in this store: 0.50 USD" in said.out
    assert {record.provenance["cost"] for record in ClipStore(tmp_path / "store")} == {"0.25 USD"}


def test_a_budget_stops_it_before_it_is_exceeded(world, recipe, tmp_path, capsys) -> None:
    arguments = ["collect", str(recipe()), "--yes", "--per-prompt", "4"]
    for budget, clips in ((["--budget", "0.60"], 2), (["--budget-clips", "3"], 3)):
        assert main([*arguments, *budget]) == 0
        assert len(world.jobs) == len(ClipStore(tmp_path / "store")) == clips
        assert f"the budget is used up: {8 - clips} clips were not asked for" in capsys.readouterr().out
    seeds = [record.seed for record in ClipStore(tmp_path / "store")]
    assert len(set(seeds)) == 3


def test_unread_terms_need_a_permission_in_words(world, recipe, tmp_path, capsys) -> None:
    path = str(recipe(""))
    for said in ([], ["--permission", "yes"]):
        assert main(["collect", path, "--yes", *said]) == 1
        assert "unless you state, in a sentence" in capsys.readouterr().err
    assert sum(world.asked.values()) == 0
    words = "these are the weights of our own lab"
    assert main(["collect", path, "--yes", "--permission", words]) == 0
    assert all(words in record.terms for record in ClipStore(tmp_path / "store"))


def test_training_asks_nobody_and_names_the_command_that_does(world, recipe, capsys) -> None:
    assert main(["train", str(recipe())]) == 1
    said = capsys.readouterr().err
    assert "`understudy collect` asks for them" in said
    assert sum(world.asked.values()) == 0


def test_no_key_is_one_clear_line(recipe, monkeypatch, capsys) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert main(["collect", str(recipe(READ + ", key_env: NO_SUCH_KEY")), "--yes"]) == 1
    assert "set the environment variable NO_SUCH_KEY" in capsys.readouterr().err


def test_the_exit_status_says_what_happened_and_refusals_can_be_taken_back(world, recipe, tmp_path, capsys) -> None:
    path, draw = str(recipe()), world.submit
    world.fault = lambda stage, kinds: "403" if stage == "submit" else ""
    assert main(["collect", path, "--yes"]) == 3
    assert "stay queued" in capsys.readouterr().err
    world.fault = lambda stage, kinds: "500" if stage == "submit" else ""
    assert main(["collect", path, "--yes"]) == 4
    assert "--retry-unsure asks again, and may pay twice" in capsys.readouterr().err
    world.fault = lambda stage, kinds: ""
    assert main(["collect", path, "--yes"]) == 4  # they are not asked for again
    assert len(world.jobs) == 0

    def refuse(request, key, name=""):
        job = draw(request, key, name)
        job.ended = "moderated"
        return job

    world.submit = refuse
    assert main(["collect", path, "--yes", "--retry-unsure"]) == 0
    said = capsys.readouterr().out
    assert "2 refused by the teacher" in said
    assert f"`understudy store requeue {tmp_path / 'store'}` takes refusals back" in said
    for more, words in (
        (["--reason", "no such"], "0 refusals taken"),
        (["--dry-run"], "2 refusals would be"),
        ([], "2 ref"),
    ):
        assert main(["store", "requeue", str(tmp_path / "store"), *more]) == 0
        assert words in capsys.readouterr().out
    world.submit = draw
    assert main(["collect", path, "--yes"]) == 0
    assert "2 of 2 clips settled" in capsys.readouterr().out
    assert {record.status for record in ClipStore(tmp_path / "store")} == {"done"}
