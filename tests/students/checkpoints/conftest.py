"""The recorded tiny Wan: its weights in both layouts, sizes, inputs and outputs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from understudy.students.checkpoints.layout import WanSizes, renamed

RECORDING = Path(__file__).parents[2] / "data" / "mapping.safetensors"


@dataclass(frozen=True)
class Recorded:
    sizes: WanSizes
    diffusers: Mapping[str, Tensor]
    original: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    flow: Tensor


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    with safe_open(RECORDING, framework="pt") as file:
        told = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    names = ("dim", "ffn_dim", "heads", "layers", "freq_dim", "text_dim")
    sizes = WanSizes(**{name: told[name] for name in names})
    diffusers = {key.removeprefix("w."): tensor for key, tensor in tensors.items() if key.startswith("w.")}
    inputs = {key.removeprefix("in."): tensor for key, tensor in tensors.items() if key.startswith("in.")}
    return Recorded(sizes, diffusers, renamed(diffusers, sizes, "original"), inputs, tensors["out.flow"])


@pytest.fixture
def assert_same() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]:
    """Two state dicts hold the same names, types and bits."""

    def check(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].dtype == second[key].dtype, key
            assert torch.equal(first[key], second[key]), key

    return check
