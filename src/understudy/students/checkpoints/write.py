"""Writing checkpoints that others load: diffusers folders, Self-Forcing style files and ComfyUI's.

Values are written as they are, in the type they have: reading a written checkpoint gives the same bits. A target that
exists is never overwritten.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.files import new_path, write_json_atomic, write_text_atomic
from understudy.students.bundle import check_tensors
from understudy.students.checkpoints.card import CARD
from understudy.students.checkpoints.layout import WanSizes, diffusers_config, renamed, shapes

SHARD_BYTES: Final = 10 * 10**9
"""Largest file of a diffusers folder, as diffusers itself cuts them."""
_STEM: Final = "diffusion_pytorch_model"


def write_diffusers(
    tensors: Mapping[str, Tensor],
    sizes: WanSizes,
    folder: Path,
    shard_bytes: int = SHARD_BYTES,
    text: str = "",
) -> None:
    """Write a folder for ``WanTransformer3DModel.from_pretrained``: config.json and safetensors, in shards when large.

    Args:
        tensors: by original Wan names; linear weights [D, D_in].
        sizes: of the transformer.
        folder: to make.
        shard_bytes: largest file.
        text: of a card to go with it.

    Raises:
        CheckpointError: ``tensors`` are not those of ``sizes``.
        UnderstudyError: ``folder`` is there already or cannot be written.
    """
    check_tensors(tensors, shapes(sizes), "the student")
    shards = list(_shards(renamed(tensors, sizes, "diffusers"), shard_bytes))
    with _new_path(folder) as draft:
        draft.mkdir()
        where: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            part = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            name = f"{_STEM}{part}.safetensors"
            save_file(shard, draft / name, metadata={"format": "pt"})
            where |= dict.fromkeys(shard, name)
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": where}
            write_json_atomic(draft / f"{_STEM}.safetensors.index.json", index)
        write_json_atomic(draft / "config.json", diffusers_config(sizes))
        if text:
            write_text_atomic(draft / CARD, text)


def write_self_forcing(tensors: Mapping[str, Tensor], sizes: WanSizes, path: Path) -> None:
    """Write a ``.pt`` file as Self-Forcing, Causal-Forcing, CausVid and LongLive read it: a plain dict of state dicts.

    ``generator_ema`` and ``generator`` are the same tensors, stored once, so that it loads with ``--use_ema`` and without.

    Args:
        tensors: by original Wan names; linear weights [D, D_in].
        sizes: of the transformer.
        path: file to write.

    Raises:
        CheckpointError: ``tensors`` are not those of ``sizes``.
        UnderstudyError: ``path`` is there already or cannot be written.
    """
    check_tensors(tensors, shapes(sizes), "the student")
    state = {f"model.{name}": tensors[name].detach().cpu().contiguous() for name in shapes(sizes)}
    with _new_path(path) as draft, draft.open("xb") as file:  # a file, since torch takes no name that starts with a dot
        torch.save({"generator_ema": state, "generator": dict(state)}, file)


def write_comfyui(tensors: Mapping[str, Tensor], sizes: WanSizes, path: Path) -> None:
    """Write a safetensors file as ComfyUI reads its native causal Wan: Wan's own names, and a header that says causal.

    Without that header it is taken for the bidirectional model of the same names.

    Args:
        tensors: by original Wan names; linear weights [D, D_in].
        sizes: of the transformer.
        path: file to write.

    Raises:
        CheckpointError: ``tensors`` are not those of ``sizes``.
        UnderstudyError: ``path`` is there already or cannot be written.
    """
    check_tensors(tensors, shapes(sizes), "the student")
    state = {name: tensors[name].detach().cpu().contiguous() for name in shapes(sizes)}
    with _new_path(path) as draft:
        save_file(state, draft, {"format": "pt", "config": json.dumps({"transformer": {"causal_ar": True}})})


@contextmanager
def _new_path(path: Path) -> Iterator[Path]:
    """Yield ``files.new_path``; what the writers of tensors raise on a full disk becomes one line."""
    with new_path(path) as draft:
        try:
            yield draft
        except (RuntimeError, SafetensorError) as error:
            raise UnderstudyError(f"cannot write {path}: {' '.join(str(error).split())[:200]}") from error


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Cut ``tensors``, in their order, into parts of at most ``limit`` bytes, one tensor at least in each."""
    shard: dict[str, Tensor] = {}
    used = 0
    for name, tensor in tensors.items():
        if shard and used + tensor.nbytes > limit:
            yield shard
            shard, used = {}, 0
        # A copy where the tensor is a view of a larger storage: safetensors refuses shared memory.
        shard[name] = tensor.detach().cpu().contiguous()
        used += tensor.nbytes
    yield shard
