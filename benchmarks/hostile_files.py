"""Files that are meant to do harm, and how one case of `hostile.py` is run and counted."""

import contextlib
import io
import json
import os
import random
import signal
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy import cli

LIMIT = 60  # seconds for one case, on a busy machine


class TooLong(BaseException):
    """A case did not end in time."""


@dataclass
class Tally:
    """What came of the cases of one part."""

    seconds: float = 0.0
    slowest: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: str, what: str, seconds: float) -> None:
        """Count one case; ``outcome`` begins with "bad" when it should not have happened."""
        self.outcomes[outcome] += 1
        self.seconds, self.slowest = self.seconds + seconds, max(self.slowest, seconds)
        if outcome.startswith("bad"):
            self.bad.append(f"{outcome}: {what}"[:600])

    def figures(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "cases": sum(self.outcomes.values()),
            "outcomes": dict(sorted(self.outcomes.items())),
            "unexpected": len(self.bad),
            "slowest_seconds": round(self.slowest, 2),
            "seconds": round(self.seconds, 1),
            "first_unexpected": self.bad[:5],
        }


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `TooLong` in the block after its time."""

    def stop(number: int, frame: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(arguments: list[str]) -> tuple[str, str]:
    """Run one command line; return its outcome and what it said on standard error."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(arguments)
    except TooLong:
        return "bad: no end", traceback.format_exc()
    except BaseException:
        return "bad: got through", traceback.format_exc()
    said = _said(err) + _said(out)
    if "error: unexpected " in _said(err) or "Traceback" in said:
        return "bad: unexpected", _said(err)
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in _said(err)):
        return "bad: control characters", repr(_said(err))
    errors = [line for line in _said(err).splitlines() if line.startswith("error:")]
    if status and not errors and "stopped:" not in said and arguments[:1] not in (["doctor"], ["store"]):
        return "bad: nothing said", f"status {status}"
    return ("refused" if status else "done"), _said(err)


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")


def harm(count: int, rng: random.Random, folder: Path, outside: Path) -> Tally:
    """Give pipes, devices, links and names that lead out, to every verb that takes a path; watch what is opened."""
    tally, opened = Tally(), list[str]()
    secret = outside / "secret.txt"
    secret.write_text("a prompt that nobody may see\n")
    (outside / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event in ("open", "os.remove") else None)
    makers: list[Callable[[Path], object]] = [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/tty"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to(outside),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"[" * 300_000),
        lambda path: _sparse(path),
        lambda path: path.write_bytes(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))),
        lambda path: path.write_bytes(b""),
    ]
    verbs: list[tuple[str, list[str]]] = [
        ("recipe.yaml", ["train", "FILE", "--print-config"]),
        ("suite.yaml", ["bench", "FILE", "--dry-run"]),
        ("prompts.txt", ["generate", "builtin:nobody", "--prompts", "FILE"]),
        ("prompts.jsonl", ["generate", "builtin:nobody", "--prompts", "FILE"]),
        ("bundle/config.json", ["doctor", "PARENT"]),
        ("bundle/student.safetensors", ["doctor", "PARENT"]),
        ("weights.safetensors", ["export", "FILE", str(folder / "made"), "--to", "diffusers"]),
        ("weights.pt", ["export", "FILE", str(folder / "made"), "--to", "diffusers"]),
        ("clips.tar", ["store", "import", str(folder / "store2"), "FILE"]),
        ("store/records.jsonl", ["store", "list", "PARENT"]),
        ("store/records.jsonl", ["store", "verify", "PARENT", "--decode", "none"]),
        ("clip.mp4", ["doctor", "FILE"]),
        ("run/config.yaml", ["doctor", "PARENT"]),
        ("run/metrics.jsonl", ["report", "PARENT"]),
        ("run/progress.json", ["doctor", "PARENT"]),
    ]
    for number in range(count):
        case = folder / f"case-{number}"
        case.mkdir()
        if number % 4 == 3:
            line = _listing(case, rng, outside) if rng.random() < 0.6 else _linked_store(case, rng, outside)
        else:
            name, line = rng.choice(verbs)
            path = case / name
            path.parent.mkdir(exist_ok=True)
            rng.choice(makers)(path)
            line = [str({"FILE": path, "PARENT": path.parent}.get(word, word)) for word in line]
        opened.clear()
        began = time.perf_counter()
        outcome, said = command(line)
        seconds = time.perf_counter() - began
        if any(name.startswith(str(outside)) for name in opened):
            outcome = "bad: opened outside"
        if {path.name: path.read_bytes() for path in outside.iterdir()} != before or "nobody may see" in said:
            outcome = "bad: outside was changed or shown"
        tally.add(outcome, f"{line!r} -> {said}", seconds)
    return tally


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def _listing(case: Path, rng: random.Random, outside: Path) -> list[str]:
    """Make a folder whose listing, links or tar lead out of it."""
    (case / "in").mkdir()
    link = case / "in" / "link.mp4"
    link.symlink_to(outside / "clip.mp4")
    names = [
        str(outside / "clip.mp4"),
        f"../../{outside.name}/clip.mp4",
        "link.mp4",
        "..",
        "/dev/zero",
        "a" * 300,
        "x\ty.mp4",
    ]
    how = rng.randrange(4)
    if how == 0:
        (case / "in" / "prompts.csv").write_text(f'file,prompt\n"{rng.choice(names)}",a red ball\n')
    elif how == 1:
        (case / "in" / "prompts.jsonl").write_text(json.dumps({"file": rng.choice(names), "prompt": "a red ball"}))
    elif how == 2:
        (case / "in" / "link.txt").symlink_to(outside / "secret.txt")
    else:
        with tarfile.open(case / "in" / "a.tar", "w") as tar:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member = tarfile.TarInfo("../../x.mp4")
                member.type, member.linkname = kind, str(outside / "clip.mp4")
                tar.addfile(member)
    return ["store", "import", str(case / "store"), str(case / "in")]


def _linked_store(case: Path, rng: random.Random, outside: Path) -> list[str]:
    """Make a store with links out of it where stopped writers leave things."""
    clips = case / "store" / "clips"
    (case / "store" / "records.jsonl").parent.mkdir()
    (case / "store" / "records.jsonl").write_text("")
    if rng.random() < 0.4:
        clips.symlink_to(outside)
    else:
        clips.mkdir()
        (clips / "ab").symlink_to(outside)
    return ["store", "pack", str(case / "store")]
