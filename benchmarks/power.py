"""A power cut at any write: what was not synced is dropped, and the run and the store have to go on from the rest.

    python benchmarks/power.py --cuts 60 --json benchmarks/results/power.json

A cut is an exception at one of the program's own calls of fsync, after which a disk is put together as a cut may leave it:
of a file what it held when it was last synced (an empty one if never), of a folder either the names of its last sync or
those that were there, at random, since a name may reach the disk before what it stands for. Then the same work is done again
on that disk. Training has to end in the same bits as without a cut, with one record for every step; a store has to open,
every record's clip has to be whole, and whatever was said to be kept has to be there.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.collection.store import ClipStore, Origin
from understudy.files import sha256_hex
from understudy.objectives.build import build_objective
from understudy.objectives.sft.config import SFTConfig
from understudy.recipes.config import RunConfig, TrainConfig
from understudy.students.bundle import Bundle
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.training.checkpoint import checkpoints
from understudy.training.data import TeacherClips
from understudy.training.loop import Arm, train
from understudy.video.clips import ClipForm

STEPS = 6
CLIPS = 5


class Cut(BaseException):
    """The power is gone."""


class Disk:
    """What would be left of ``root`` if the power went now, and a cut at the call of fsync number ``at``."""

    def __init__(self, root: Path, kept: Path, at: int) -> None:
        self.root, self.kept, self.at, self.calls = root, kept, at, 0
        self.files: dict[int, bytes] = {}  # by inode, which a link keeps from being used again
        self.names: dict[int, dict[str, int]] = {}
        self._sync = os.fsync

    def __enter__(self) -> "Disk":
        self.names[self.root.stat().st_ino] = {}
        os.fsync = self.fsync
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync = self._sync

    def fsync(self, descriptor: int) -> None:
        """Remember what now is on the disk, or end it all."""
        self.calls += 1
        if self.calls == self.at:
            raise Cut
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        elif path.is_file():
            self.files[inode] = path.read_bytes()
            with contextlib.suppress(FileExistsError):
                os.link(path, self.kept / str(inode))

    def left(self, target: Path, rng: random.Random) -> None:
        """Write into ``target`` what a cut may have left."""
        live: dict[int, Path] = {path.stat().st_ino: path for path in (self.root, *self.root.rglob("*"))}

        def write(inode: int, place: Path) -> None:
            there = live.get(inode)
            if inode in self.names or (there is not None and there.is_dir()):
                place.mkdir()
                now = {} if there is None else {path.name: path.stat().st_ino for path in there.iterdir()}
                names = now if rng.random() < 0.5 and there is not None else self.names.get(inode, {})
                for name, inner in names.items():
                    write(inner, place / name)
            else:
                place.write_bytes(self.files.get(inode, b""))

        write(self.root.stat().st_ino, target)


def small() -> tuple[Bundle, TeacherClips]:
    """Return a student of a few weights and six clips in latents [6, 4, 4, 2, 2]."""
    torch.manual_seed(0)
    spec = TransformerSpec(4, 2, 2, 2, 16, 1, 2, max_frames=4, vocabulary=("red", "ball"))
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval().requires_grad_(False)
    bundle = Bundle(CausalVideoTransformer(spec).eval(), codec, (1.0, 0.5), ClipForm(16, 16, 12.0, 8), "test")
    latents = torch.randn((6, 4, 4, 2, 2), generator=torch.Generator().manual_seed(1))
    return bundle, TeacherClips(("red ball", "ball"), latents, ((0, 1, 2), (3, 4, 5)))


def training(folder: Path) -> None:
    """Train in ``folder``, or go on with it."""
    bundle, data = small()
    config = RunConfig(objective=SFTConfig(group=2), train=TrainConfig(steps=STEPS, prompts=2, checkpoint_every=1))
    objective = build_objective(config.objective, config.train, config, data, bundle)
    folder.mkdir(exist_ok=True)
    arm = Arm("sft", folder / "checkpoints" / "sft", folder / "metrics.jsonl", "one", 1, "the same command")
    train(objective, bundle.student, arm, lambda report, steps: None)


def trained(folder: Path) -> Any:
    """Return the last weights and the steps on record."""
    newest = checkpoints(folder / "checkpoints" / "sft")[-1]
    rows = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: tensor.tolist() for name, tensor in load_file(newest / "state.safetensors").items()}, rows


def collecting(folder: Path) -> None:
    """Add clips to the store in ``folder``; what is there is left as it is."""
    store = ClipStore(folder, create=True)
    for number in range(CLIPS):
        origin = Origin("service-1", f"prompt {number}", {}, number, "allowed")
        store.add(origin, f"clip {number}".encode() * 50, {"frames": 1})
        with (folder.parent / "told.txt").open("a") as told:
            told.write(f"{origin.key}\n")  # what a user was told is there


def collected(folder: Path) -> Any:
    """Return the records by their keys; raise when a clip is not the one that is named."""
    store = ClipStore(folder, create=True)
    for record in store:
        if sha256_hex(store.clip_path(record).read_bytes()) != record.clip:
            raise ValueError(f"clip of {record.prompt} is damaged")
    return sorted(record.key for record in store)


def cut(work: Callable[[Path], None], look: Callable[[Path], Any], at: int, rng: random.Random, whole: Any) -> str:
    """Cut the power at sync number ``at`` of ``work``, do it again on what is left, and say what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        place, kept = Path(scratch).resolve() / "disk", Path(scratch).resolve() / "kept"
        place.mkdir(), kept.mkdir()
        ended = True
        with Disk(place, kept, at) as disk:
            try:
                work(place / "work")
            except Cut:
                ended = False
        if ended:
            return "over before"
        disk.left(Path(scratch) / "after", rng)
        after = Path(scratch) / "after" / "work"
        told = place / "told.txt"
        promised = set(told.read_text().split()) if told.is_file() else set()
        try:
            if promised and not promised <= set(look(after)):
                return "bad: what was said to be kept is gone"
            work(after)
            found = look(after)
        except Exception as error:
            return f"bad: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        shutil.rmtree(after)
        return "whole" if found == whole else "bad: another result"


def main() -> None:
    """Cut at syncs drawn from all there are, in training and in collecting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that an older checkpoint was taken
    rng, figures = random.Random(options.seed), dict[str, Any]()
    for name, work, look in (("training", training, trained), ("collecting", collecting, collected)):
        with tempfile.TemporaryDirectory() as scratch:
            place, kept = Path(scratch).resolve() / "disk", Path(scratch).resolve() / "kept"
            place.mkdir(), kept.mkdir()
            with Disk(place, kept, 0) as disk:
                work(place / "work")
            whole, syncs = look(place / "work"), disk.calls
        outcomes: dict[str, int] = {}
        for _ in range(options.cuts):
            outcome = cut(work, look, rng.randint(1, syncs), rng, whole)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        figures[name] = {"syncs": syncs, "cuts": options.cuts, "outcomes": outcomes}
    text = json.dumps(figures, indent=1) + "\n"
    print(text) if options.json is None else options.json.write_text(text)
    sys.exit(1 if any(name.startswith("bad") for part in figures.values() for name in part["outcomes"]) else 0)


if __name__ == "__main__":
    main()
