"""Mutated recipes, command lines and record files, and files that are meant to do harm: one line each, or no harm.

    python benchmarks/hostile.py --recipes 6000 --lines 2000 --records 2000 --files 500 --json FILE

Everything runs in this process, in a folder of its own. What counts: an exception that the command line calls unexpected or
that gets through, a case that takes longer than its limit, a message of many lines, a file outside of the folder that was
opened, changed or removed. The numbers are cases; `--seed` makes others.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from hostile_files import Tally, command, harm

from understudy import cli
from understudy.codecs.small import SmallCodec, SmallCodecSpec
from understudy.recipes.shipped import locate, shipped
from understudy.students.bundle import Bundle, save_bundle
from understudy.students.transformer.model import CausalVideoTransformer, TransformerSpec
from understudy.video.clips import ClipForm

ODD: list[Any] = [
    *(None, True, "", "x", "\x1b[31mred", "../../x", "a\0b", "\ud800", "x" * 5000, -1, 0, 1, 0.5, 1e-300, 1e308, 2**31),
    *(
        2**63,
        2**64,
        10**30,
        float("inf"),
        float("nan"),
        [],
        [1, 2],
        [[]],
        {},
        {"kind": "x"},
        {"kind": None},
        "builtin:frame",
    ),
]


# --- recipes and command lines ------------------------------------------------------------------------------------


def mutated(value: Any, rng: random.Random) -> Any:
    """Return a recipe's value with one place in it changed."""
    value = json.loads(json.dumps(value))
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            spots.append((node, key))
            walk(node[key])

    walk(value)
    for _ in range(rng.randint(1, 3)):
        node, key = rng.choice(spots)
        how = rng.randrange(4)
        if how == 0 and isinstance(node, dict):
            node.pop(key, None)
        elif how == 1 and isinstance(node, dict):
            node[rng.choice([f"{key}x", "", "kind", "base", "a.b", "\x1b", str(key).upper()])] = rng.choice(ODD)
        elif key in node if isinstance(node, dict) else True:
            node[key] = rng.choice(ODD)
    return value


def garbled(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` cut, flipped, doubled, or with odd bytes put into it."""
    if not data:
        return data
    at = rng.randrange(len(data))
    how = rng.randrange(6)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if how == 2:
        return (
            data[:at]
            + rng.choice([b"\0", b"\xff\xfe", b"\x1b[2J", b"[" * 5000, b"\n\n", b"1e999", b"NaN", b"null"])
            + data[at:]
        )
    if how == 3:
        return data[:at] + data[at : at + rng.randrange(200)] + data[at:]
    if how == 4:
        return data[:at] + data[at + rng.randrange(1, 60) :]
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def recipes(count: int, rng: random.Random, folder: Path, start: Path) -> Tally:
    """Mutate the recipes that ship, as values and as text; read each, and look at what it would do."""
    tally = Tally()
    whole = [locate(found.name) for found in shipped() if found.kind == "recipe"]
    texts = [path.read_text(encoding="utf-8") for path in whole]
    values = [yaml.safe_load(text) for text in texts]
    places = {"out": str(folder / "run"), "clips": {"store": str(folder / "store")}, "student": {"start": str(start)}}
    full = yaml.safe_load(_resolved(folder, places))
    for number in range(count):
        path = folder / "mutated.yaml"
        if number % 3 == 0:
            path.write_bytes(garbled(rng.choice(texts).encode(), rng))
        else:
            value = mutated(full if number % 3 == 1 else rng.choice(values), rng)
            text = yaml.safe_dump(value) if rng.random() < 0.5 else json.dumps(value)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        dry = ["--dry-run"] if number % 5 == 1 else ["--print-config"]
        began = time.perf_counter()
        outcome, said = command(["train", str(path), *dry])
        tally.add(outcome, f"{path.read_bytes()[:300]!r} -> {said}", time.perf_counter() - began)
    return tally


def _resolved(folder: Path, places: dict[str, Any]) -> str:
    path = folder / "full.yaml"
    path.write_text(yaml.safe_dump({"prompts": {"held_out": 0.3}, **places}))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["train", str(path), "--print-config"]) == 0
    return out.getvalue()


def lines(count: int, rng: random.Random, folder: Path) -> Tally:
    """Mutate command lines: verbs, options and values that are cut, swapped, repeated or odd. None may train or serve."""
    tally = Tally()
    recipe = str(folder / "full.yaml")
    seeds = [
        ["train", recipe, "--dry-run", "--train.steps", "3", "--seed=2"],
        ["collect", recipe, "--dry-run", "--per-prompt", "2", "--budget", "1"],
        ["evaluate", str(folder / "none")],
        ["report", str(folder / "none")],
        ["doctor", recipe],
        ["store", "list", str(folder / "none")],
        ["store", "verify", str(folder / "none"), "--decode", "none"],
        ["store", "pack", str(folder / "none")],
        ["store", "show", str(folder / "none"), "ab"],
        ["export", "builtin:frame", str(folder / "there"), "--to", "selfforcing"],
        ["generate", "builtin:nobody", "a ball", "--seconds", "1", "--switch", "1s:x", "--seed", "3"],
        ["bench", recipe, "--dry-run", "--rows", "a,b", "--seeds", "1,2"],
        ["serve", "builtin:nobody", "--port", "70000"],
        ["config"],
    ]
    words = [
        "",
        "-",
        "--",
        "--help",
        "\x1b[31m",
        "../..",
        "1e309",
        "-1",
        "2" * 400,
        "null",
        "[",
        "{}",
        "\udcff",
        "a=b",
        "@x",
        recipe,
    ]
    for _ in range(count):
        line = list(rng.choice(seeds))
        fixed = {"--dry-run", "builtin:nobody", "70000"}  # without these it could go and do it
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(1, len(line) + 1)
            how = rng.randrange(4)
            if how == 0:
                line.insert(at, rng.choice(words))
            elif at < len(line) and line[at] not in fixed and how == 1:
                line[at] = rng.choice(words)
            elif at < len(line) and line[at] not in fixed and how == 2:
                line[at] = line[at][: rng.randrange(len(line[at]) + 1)] + rng.choice(words)[:40]
            elif at < len(line):
                line.insert(at, line[at])
        began = time.perf_counter()
        outcome, said = command(line)
        tally.add(outcome, f"{line!r} -> {said}", time.perf_counter() - began)
    return tally


# --- record files ---------------------------------------------------------------------------------------------------


def make_start(folder: Path) -> Path:
    """Write a student of a few weights that draws 8 frames of 16x16 and return its folder."""
    torch.manual_seed(0)
    spec = TransformerSpec(4, 2, 2, 2, 16, 1, 2, max_frames=4, vocabulary=("red", "ball"))
    codec = SmallCodec(SmallCodecSpec(channels=4, width=8)).eval()
    form = ClipForm(16, 16, 12.0, 8)
    save_bundle(Bundle(CausalVideoTransformer(spec).eval(), codec, (1.0, 0.5), form, "test"), folder / "start")
    return folder / "start"


def make_run(folder: Path, start: Path) -> Path:
    """Do a whole run of seconds and return its recipe."""
    recipe = {
        "name": "small",
        "out": str(folder / "run"),
        "clips": {"store": str(folder / "store"), "per_prompt": 1},
        "teacher": {"size": 16, "frames": 8, "fps": 12},
        "prompts": {"families": ["drop"], "colours": ["red", "blue"], "per_scene": 1},
        "student": {"start": str(start)},
        "discriminator": {"size": 16, "width": 16, "warmup": 1, "pool": 4, "redraws": 1, "skip_frames": 0},
        "objective": {"group": 2},
        "train": {"steps": 2, "prompts": 2, "checkpoint_every": 1},
        "evaluation": {"prompts": 2, "rollouts": 2, "reference": 2, "floor": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["train", str(path)]) == 0
    return path


def records(count: int, rng: random.Random, folder: Path, start: Path) -> Tally:
    """Damage the files that runs, stores and bundles are made of; look at them, write the report, go on with the run."""
    tally = Tally()
    recipe = make_run(folder, start)
    run, store = folder / "run", folder / "store"
    newest = sorted((run / "checkpoints" / "afd").iterdir())[-1]
    files = [
        run / name for name in ("metrics.jsonl", "progress.json", "summary.json", "config.yaml", "clips/prompts.json")
    ]
    files += [newest / "state.json", store / "records.jsonl", run / "student" / "config.json", start / "config.json"]
    kept = {path: path.read_bytes() for path in (*files, newest / "state.safetensors")}
    for number in range(count):
        path = files[number % len(files)]
        path.write_bytes(garbled(kept[path], rng))
        verbs: dict[Path, list[str]] = {
            store / "records.jsonl": ["store", rng.choice(["list", "pack"]), str(store)],
            run / "student" / "config.json": ["doctor", str(run / "student")],
            start / "config.json": ["train", str(recipe), "--dry-run"],
            newest / "state.json": ["doctor", str(newest)],
        }
        line = verbs.get(path) or rng.choice([["report", str(run)], ["doctor", str(run)]])
        if number % 20 == 19 and path.parent in (run, newest):
            line = ["train", str(recipe)]
        began = time.perf_counter()
        outcome, said = command(line)
        told = f"{path.name} {path.read_bytes()[:200] if path.exists() else b''!r} {line[0]} -> {said}"
        tally.add(f"{outcome}" if not outcome.startswith("bad") else outcome, told, time.perf_counter() - began)
        for name, data in kept.items():
            if not name.is_file() or name.read_bytes() != data:
                name.parent.mkdir(parents=True, exist_ok=True)
                name.write_bytes(data)
    return tally


def main() -> None:
    """Run the parts that are asked for and print or keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("recipes", "lines", "records", "files"):
        parser.add_argument(f"--{name}", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"seed": options.seed}
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(prefix="outside-") as other:
        folder, outside = Path(scratch), Path(other)
        os.chdir(folder)
        start = make_start(folder)
        rng = random.Random(options.seed)
        parts = {
            "recipes": lambda: recipes(options.recipes, rng, folder, start),
            "lines": lambda: lines(options.lines, rng, folder),
            "records": lambda: records(options.records, rng, folder, start),
            "files": lambda: harm(options.files, rng, folder, outside),
        }
        for name, part in parts.items():
            figures[name] = part().figures()
            print(name, json.dumps(figures[name], indent=1), file=sys.stderr, flush=True)
    text = json.dumps(figures, indent=1) + "\n"
    print(text) if options.json is None else options.json.write_text(text)
    sys.exit(1 if any(part["unexpected"] for part in figures.values() if isinstance(part, dict)) else 0)


if __name__ == "__main__":
    main()
