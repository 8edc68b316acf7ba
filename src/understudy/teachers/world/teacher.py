"""The embedded world behind the teacher contract: prompt and seed in, finished mp4 out.

The true states of a clip can be written to a sealed folder, named by the hash of the mp4. Only
``understudy.evaluation.sealed`` reads it; nothing a trainer sees refers to it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from understudy.errors import ConfigError
from understudy.files import ensure_folder
from understudy.teachers.base import ClipParams
from understudy.teachers.world.config import WorldTeacherConfig
from understudy.teachers.world.grammar import parse
from understudy.teachers.world.looks import LOOKS, render
from understudy.teachers.world.physics import Law, States, freedom, poor_law, simulate
from understudy.video.clips import Clip, encode_mp4


@dataclass(frozen=True)
class WorldTeacher:
    """A physics world as a black-box generator.

    Attributes:
        look: name of a look in ``LOOKS``.
        size: pixels of the square frame when the request leaves it open.
        fps, frames: rate and length when the request leaves them open.
        poor: draw a new, random law for every clip (the physics-poor world that start students learn from).
        sealed: folder for the true states, or None.
    """

    look: str = "film"
    size: int = 64
    fps: float = 24.0
    frames: int = 32
    poor: bool = False
    sealed: Path | None = None
    own_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise ConfigError(f"unknown look {self.look!r}; choose one of {', '.join(LOOKS)}")

    @property
    def name(self) -> str:
        """Stable identity of the world and its settings."""
        return f"world-1/{self.look}-{self.size}px-{self.fps:g}fps-{self.frames}f{'-poor' if self.poor else ''}"

    @property
    def terms(self) -> str:
        """The world's clips are free to train on."""
        return "embedded world, Apache-2.0: training on outputs allowed"

    def generate(self, prompt: str, seed: int, params: ClipParams) -> bytes:
        """Draw one clip of the prompt's distribution; see ``Teacher.generate``."""
        clip, states = self.draw(prompt, seed, params)
        mp4 = encode_mp4(clip)
        if self.sealed is not None:
            ensure_folder(self.sealed)
            path = self.sealed / f"{hashlib.sha256(mp4).hexdigest()}.npz"
            np.savez(path, positions=states.positions, radii=states.radii)
        return mp4

    def draw(self, prompt: str, seed: int, params: ClipParams) -> tuple[Clip, States]:
        """Return the raw clip (frames uint8 [T, H, W, 3]) with its true states: for tests, evaluation and pre-training."""
        scene = parse(prompt)
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")])
        law = poor_law(rng) if self.poor else Law()
        frames, fps = params.frames or self.frames, params.fps or self.fps
        size = (params.height or self.size, params.width or self.size)
        states = simulate(scene, law, rng.uniform(size=freedom(scene)), frames, fps)
        return Clip(render(states, scene, LOOKS[self.look], size, rng), fps), states


def build(config: WorldTeacherConfig, sealed: Path | None) -> WorldTeacher:
    """Return the embedded world; ``sealed`` is where it leaves its true states."""
    return WorldTeacher(config.look, config.size, config.fps, config.frames, config.poor, sealed)
