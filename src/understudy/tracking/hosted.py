"""Weights & Biases and trackio, which speak one interface: one run of theirs a run of ours. The home of both packages.

Weights & Biases works without its service: with no key, or ``WANDB_MODE=offline``, it writes into the run folder, and
``wandb sync`` sends that later. trackio keeps everything on this machine.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from understudy.errors import ConfigError
from understudy.files import sha256_hex, write_json_atomic
from understudy.reading import read_json

_SAVED_EVERY: Final = 20
_PROJECT: Final = "understudy"


class Hosted:
    """What both have in common; see `understudy.tracking.base.Tracker`.

    Points that an earlier sitting gave are not given again: ``memory`` remembers the last step of each arm.

    Args:
        module: the package.
        run: what its ``init`` returned.
        memory: a JSON file in the run folder.
    """

    def __init__(self, module: Any, run: Any, memory: Path) -> None:
        self._module, self._run, self._memory = module, run, memory
        self._last: dict[str, int] = {}
        self._unsaved = 0
        with suppress(OSError, ValueError):
            kept = read_json(memory)
            self._last = {arm: step for arm, step in kept.items() if isinstance(step, int)}

    def begin(self, arm: str) -> None:
        """Nothing to do: what was given is remembered."""

    def figures(self, arm: str, step: int, values: Mapping[str, float]) -> None:
        """Give one point of several curves, named ARM/NAME."""
        measured = any(name.startswith("evaluation/") for name in values)
        if not measured and step <= self._last.get(arm, -1):
            return
        self._log({f"{arm}/{name}": value for name, value in values.items()}, arm, step)
        if not measured:
            self._last[arm] = step
            self._unsaved += 1
            if self._unsaved >= _SAVED_EVERY:
                self._save()

    def clip(self, arm: str, step: int, name: str, path: Path, caption: str) -> None:
        """Give a clip as it lies in the run folder."""
        self._log({f"{arm}/clips/{name}": self._module.Video(str(path), caption=caption, format="mp4")}, arm, step)

    def close(self) -> None:
        """Finish the run there."""
        self._save()
        self._run.finish()

    def _log(self, values: dict[str, Any], arm: str, step: int) -> None:
        raise NotImplementedError

    def _save(self) -> None:
        write_json_atomic(self._memory, self._last)
        self._unsaved = 0


class WandB(Hosted):
    """Weights & Biases. Its own step only grows, so every arm has an axis of its own, ARM/step."""

    def __init__(self, out: Path, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(
                "tracking with Weights & Biases needs a package: pip install 'understudy[wandb]'"
            ) from None
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            id=_identity(out),
            resume="allow",
            dir=str(out),
            config=dict(config),
            mode=mode,
        )
        super().__init__(wandb, run, out / "wandb.json")
        self._axes: set[str] = set()

    def _log(self, values: dict[str, Any], arm: str, step: int) -> None:
        if arm not in self._axes:
            self._axes.add(arm)
            self._run.define_metric(f"{arm}/step")
            self._run.define_metric(f"{arm}/*", step_metric=f"{arm}/step")
        self._run.log({**values, f"{arm}/step": step})


class Trackio(Hosted):
    """trackio, on this machine; ``trackio show`` opens its page."""

    def __init__(self, out: Path, name: str, config: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ImportError:
            raise ConfigError("tracking with trackio needs a package: pip install 'understudy[trackio]'") from None
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        run = trackio.init(project=project, name=f"{name}-{_identity(out)[:6]}", config=dict(config), resume="allow")
        super().__init__(trackio, run, out / "trackio.json")

    def _log(self, values: dict[str, Any], arm: str, step: int) -> None:
        self._run.log(values, step=step)


def _identity(out: Path) -> str:
    """Return what names the run of this folder there, the same in every sitting."""
    return sha256_hex(str(out.resolve()).encode())[:16]
