"""Students with recorded weights, and what public code computed with them: see tests/data/README.md."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

from understudy.students.wan.model import WanStudent
from understudy.students.wan.spec import WanSpec

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Recording:
    """A student with the recording's weights; tensors by name; the settings that the public code ran with."""

    student: WanStudent
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def _read(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture
def recorded() -> Callable[..., Recording]:
    """(file, file of the weights if another, changes to the spec) -> the recording."""

    def read(name: str, weights: str | None = None, **changes: Any) -> Recording:
        head, tensors = _read(name)
        config, settings = json.loads(head["config"]), json.loads(head.get("settings", "{}"))
        same = ("dim", "ffn_dim", "layers", "heads", "text_dim", "text_len", "freq_dim", "height", "width")
        channels = config["channels"]
        spec = WanSpec(
            **{key: config[key] for key in same},
            in_channels=channels,
            out_channels=channels,
            blocks=tuple(settings.get("blocks", [config["block"]])),
            window=settings.get("window", 0),
            sink=settings.get("sink", 0),
            relative_rope=settings.get("relative", False),
        )
        student = WanStudent(replace(spec, **changes)).eval()
        kept = _read(weights)[1] if weights else tensors
        state = {key[2:]: value for key, value in kept.items() if key.startswith("w.")}
        student.load_state_dict(state, strict=True)
        return Recording(student, tensors, settings)

    return read


@pytest.fixture
def gap() -> Callable[[Tensor, Tensor], float]:
    """Relative distance |found - wanted| / |wanted|."""
    return lambda found, wanted: float((found.detach() - wanted).norm() / wanted.norm())
