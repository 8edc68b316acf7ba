"""Checkpoints: safetensors plus JSON, written whole or not at all, the previous one kept until the new one stands.

A checkpoint is a folder ``step-000060`` with ``state.safetensors`` (weights, optimiser moments, pools, random states) and
``state.json`` (step, hash of the config, digest of the tensors). It is written under a temporary name and renamed, so a
``kill -9`` at any moment leaves a loadable one. Loading never executes code.
"""

import hashlib
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from understudy import __version__
from understudy.errors import CheckpointError, UnderstudyError, shown
from understudy.files import TEMPORARY_PREFIX, ensure_folder, sync, write_bytes_atomic, write_json_atomic
from understudy.reading import Unreadable, open_regular, read_json
from understudy.students.bundle import load_weights, own_state, read_tensors
from understudy.training.state import TrainState

_PREFIX: Final = "step-"
_KEEP: Final = 2
_HEAD: Final = {"step": int, "config": str, "sha256": str, "optimisers": dict}


def save_checkpoint(state: TrainState, folder: Path, config_hash: str) -> Path:
    """Write the state under ``folder``, then remove all but the two newest checkpoints.

    Raises:
        UnderstudyError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    ensure_folder(folder)
    target = folder / f"{_PREFIX}{state.step:06d}"
    draft = folder / f"{TEMPORARY_PREFIX}{target.name}"
    shutil.rmtree(draft, ignore_errors=True)
    data = save(_tensors(state))
    try:
        ensure_folder(draft)
        write_bytes_atomic(draft / "state.safetensors", data)
        head = {"step": state.step, "config": config_hash, "sha256": hashlib.sha256(data).hexdigest()}
        write_json_atomic(draft / "state.json", {**head, **_made_by(state), "optimisers": _groups(state)})
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
        sync(folder)  # the new name reaches the disk before older checkpoints go
    except (UnderstudyError, OSError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {state.step} was not written ({error}); earlier ones are kept"
        ) from error
    for old in checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints under ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file()]
    return sorted((path for path in found if _step_of(path) >= 0), key=_step_of)


def _step_of(folder: Path) -> int:
    """Return the step that a checkpoint's folder is named after, -1 for any other folder."""
    number = folder.name.removeprefix(_PREFIX)
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 19 else -1


def load_checkpoint(state: TrainState, folder: Path, config_hash: str) -> bool:
    """Load the newest whole checkpoint under ``folder`` into ``state``; False when there is none.

    A damaged newest checkpoint, head or tensors, falls back to the one before it, which is said; so is one that another
    version, or another number of threads, has made.

    Raises:
        CheckpointError: it belongs to another config, or all of them are damaged.
    """
    found = checkpoints(folder)
    problems: list[str] = []
    for path in reversed(found):
        try:
            head = _read_head(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if head["config"] != config_hash and "version" in head:  # earlier versions had another idea of what decides
            raise CheckpointError(
                f"{path} belongs to another configuration: use another --out, or remove {folder.parent} to start again"
            )
        wrong = verify_checkpoint(path) or _misfits(state, head, path)
        if wrong:
            problems.append(wrong[0])
            continue
        for problem in problems:
            warnings.warn(f"{problem}; going on from {path.name}", stacklevel=2)
        for line in _differences(head, state):
            warnings.warn(f"{path.name} was made with {line}: the rest may not have the same bits", stacklevel=2)
        _restore(state, read_tensors(path / "state.safetensors"), head, path / "state.safetensors")
        return True
    if found:
        raise CheckpointError(f"no checkpoint under {folder} is whole ({problems[0]}): remove it to start again")
    return False


def verify_checkpoint(folder: Path) -> list[str]:
    """Return what is wrong with one checkpoint folder, one line each; empty when it is whole."""
    try:
        head = _read_head(folder)
        with open_regular(folder / "state.safetensors") as file:
            data = file.read()
    except (CheckpointError, OSError) as error:
        return [str(error)]
    except Unreadable as error:
        return [f"{folder / 'state.safetensors'} cannot be read ({error})"]
    if hashlib.sha256(data).hexdigest() != head.get("sha256"):
        return [f"{folder / 'state.safetensors'} does not match its digest: it is damaged"]
    tensors = read_tensors(folder / "state.safetensors")
    bad = [key for key, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    return [f"{folder} holds values that are not finite, first in {bad[0]!r}"] if bad else []


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Flatten the state: weights, moments, pools [N, T, 3, s, s], random states.

    Contiguous copies, since safetensors refuses shared memory.
    """
    flat: dict[str, Tensor] = {}
    for name, module in state.modules.items():
        flat |= {f"module.{name}.{key}": tensor for key, tensor in own_state(module).items()}
    for name, optimiser in state.optimisers.items():
        for index, values in optimiser.state_dict()["state"].items():
            flat |= {f"optimiser.{name}.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    flat |= {f"tensor.{name}": tensor for name, tensor in state.tensors.items()}
    flat["random.training"] = state.generator.get_state()
    flat["random.torch"] = torch.get_rng_state()
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in flat.items()}


def _groups(state: TrainState) -> dict[str, Any]:
    return {name: optimiser.state_dict()["param_groups"] for name, optimiser in state.optimisers.items()}


def _restore(state: TrainState, flat: dict[str, Tensor], head: dict[str, Any], path: Path) -> None:
    for name, module in state.modules.items():
        load_weights(module, _below(flat, f"module.{name}."), path)
    for name, optimiser in state.optimisers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(flat, f"optimiser.{name}.").items():
            index, field = key.split(".", 1)
            moments.setdefault(int(index), {})[field] = tensor
        optimiser.load_state_dict({"state": moments, "param_groups": head["optimisers"][name]})
    state.tensors.clear()
    state.tensors.update(_below(flat, "tensor."))
    state.step = int(head["step"])
    torch.set_rng_state(flat["random.torch"])
    state.generator.set_state(flat["random.training"])  # last: building modules above may have drawn numbers


def _below(flat: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in flat.items() if key.startswith(prefix)}


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        head = read_json(path)
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove this checkpoint") from error
    if not isinstance(head, dict) or not all(_is(head.get(name), kind) for name, kind in _HEAD.items()):
        raise CheckpointError(f"{path} is not the head of a checkpoint: remove this checkpoint")
    if head["step"] != _step_of(folder):
        raise CheckpointError(f"{path} is of step {head['step']}, not of this folder's: remove this checkpoint")
    return head


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _misfits(state: TrainState, head: dict[str, Any], folder: Path) -> list[str]:
    """Return what keeps the optimisers of a checkpoint's head from being loaded; empty when they fit.

    Looked at before anything is loaded: a state that is half of one checkpoint and half of another is none.
    """
    for name, own in _groups(state).items():
        told = head["optimisers"].get(name)
        strict = head.get("torch") == torch.__version__  # another one may know more settings, or fewer
        if (
            not isinstance(told, list)
            or len(told) != len(own)
            or not all(_like(*pair, strict) for pair in zip(told, own, strict=True))
        ):
            return [f"{folder / 'state.json'} holds no settings for optimiser {name!r}: remove this checkpoint"]
    return []


def _like(told: object, own: dict[str, Any], strict: bool) -> bool:
    """Say whether a group of an optimiser's settings has the names and kinds of ``own``."""
    if not isinstance(told, dict) or told.get("params") != own["params"] or "lr" not in told:
        return False
    if strict and told.keys() != own.keys():
        return False
    return all(_of_kind(told[name], value) for name, value in own.items() if name in told)


def _of_kind(value: object, like: object) -> bool:
    if isinstance(like, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    if isinstance(like, tuple | list):  # JSON has lists
        return isinstance(value, tuple | list) and len(value) == len(like) and all(map(_of_kind, value, like))
    return isinstance(value, type(like))


def _made_by(state: TrainState) -> dict[str, Any]:
    """Return what does not decide a run's results, and may decide their last bits."""
    device = state.policy("student").device.type
    return {"version": __version__, "torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}


def _differences(head: dict[str, Any], state: TrainState) -> list[str]:
    """Return in words what a checkpoint was made with, where that is not what goes on from it."""
    now = _made_by(state)
    words = {"version": "understudy {}", "torch": "torch {}", "threads": "{} torch threads", "device": "device {}"}
    if "version" not in head:
        return [f"an earlier understudy, now it is {now['version']}"]
    return [
        f"{word.format(shown(head[name]))}, now it is {now[name]}"
        for name, word in words.items()
        if name in head and head[name] != now[name]
    ]
