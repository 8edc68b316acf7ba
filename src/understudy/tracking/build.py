"""From a recipe's ``track`` to the trackers it names."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from understudy.errors import ConfigError, UnderstudyError
from understudy.tracking.base import Tracker, Tracking
from understudy.tracking.hosted import Trackio, WandB
from understudy.tracking.tensorboard import TensorBoard

_MAKERS: Final[dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]]] = {
    "tensorboard": lambda out, name, config: TensorBoard(out / "tensorboard"),
    "wandb": WandB,
    "trackio": Trackio,
}

_EXTRAS: Final = {"tensorboard": "track"}


def check(track: Sequence[str]) -> None:
    """Raise ConfigError when a package that ``track`` needs is not installed; nothing is imported."""
    for name in track:
        if find_spec(name) is None:
            extra = _EXTRAS.get(name, name)
            raise ConfigError(
                f"track: {name} is not installed; pip install 'understudy[{extra}]', or leave it out of track"
            )


def open_tracking(
    track: Sequence[str], out: Path, name: str, config: Mapping[str, Any], say: Callable[[str], None]
) -> Tracking:
    """Return the feed to the trackers that ``track`` names.

    Args:
        track: tensorboard, wandb, trackio.
        out: the run folder.
        name: of the run, there.
        config: the resolved recipe, as JSON values.
        say: is told in a line what went wrong with a tracker later on.

    Raises:
        ConfigError, MissingExtra: a package is not installed.
    """
    check(track)
    trackers: dict[str, Tracker] = {}
    for kind in dict.fromkeys(track):
        try:
            trackers[kind] = _MAKERS[kind](out, name, config)
        except UnderstudyError:
            raise
        except Exception as error:  # somebody else's code: no network, no key, a full disk
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(f"track: {kind} cannot begin ({why}); mend it or leave it out of track") from None
    return Tracking(out, trackers, say)
