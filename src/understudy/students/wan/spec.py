"""Sizes of the causal Wan students and the settings that tell their public checkpoints apart.

Self-Forcing (2506.08009), Causal-Forcing (2602.02214) and LongLive (2509.22622) share one network; their checkpoints
differ by block list, window, sink and few-step sampler only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from understudy import flow
from understudy.codecs.spec_fields import check_fields
from understudy.errors import ConfigError
from understudy.video.clips import ClipForm


@dataclass(frozen=True)
class WanSpec:
    """Everything that fixes the network, its blocks and its memory.

    Attributes:
        dim, ffn_dim, layers, heads: width D, inner width of the MLPs, layers, attention heads.
        text_dim, text_len: width of the text encoder's output and the tokens it is padded to; padding is attended.
        freq_dim: width of the sinusoidal embedding of the noise level.
        in_channels, out_channels: latent C.
        patch: (frames, rows, columns) of a patch; one latent frame at a time.
        eps: of every norm.
        height, width: latent h, w that are drawn; any other multiple of the patch is taken as well.
        blocks: latent frames of the first blocks; the last size repeats.
        max_frames: latent frames the student was trained on; the longest span it attends to without a window.
        window: latent frames attended to, own block and sink included; 0 = everything (up to ``max_frames``).
        sink: first frames that stay visible when the window rolls.
        relative_rope: rotary positions count inside the attended window, and keys are cached unrotated; otherwise they
            are absolute, as in the public checkpoints.
        joint_recache: a new prompt's past is cached in one pass whose frames all see each other, and a sink beyond the
            window keeps the prompt it was drawn with, as LongLive was trained; otherwise block by block, as it was drawn.
        text: the text encoder, ``kind`` or ``kind:where``; see ``students.wan.text``.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    layers: int = 30
    heads: int = 12
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    height: int = 60
    width: int = 104
    blocks: tuple[int, ...] = (3,)
    max_frames: int = 21
    window: int = 0
    sink: int = 0
    relative_rope: bool = False
    joint_recache: bool = False
    text: str = "umt5"

    def __post_init__(self) -> None:
        check_fields(self, zero=("window", "sink"))
        if len(self.patch) != 3:
            raise ConfigError(f"patch {list(self.patch)} must be (1, p, q)")
        if self.dim % (2 * self.heads) or self.freq_dim % 2:
            raise ConfigError(
                f"dim {self.dim} must be an even multiple of heads {self.heads}, freq_dim {self.freq_dim} even"
            )
        if self.patch[0] != 1 or self.height % self.patch[1] or self.width % self.patch[2]:
            raise ConfigError(
                f"patch {list(self.patch)} must be (1, p, q) with p, q dividing the latent size {self.height}x{self.width}"
            )
        if not self.blocks or min(self.blocks) < 1 or max(self.blocks) > self.max_frames:
            raise ConfigError(f"blocks {list(self.blocks)} must be sizes from 1 to max_frames ({self.max_frames})")
        if self.window and not max(self.blocks) + self.sink <= self.window <= self.max_frames:
            raise ConfigError(
                f"window {self.window} must hold the sink ({self.sink}) and a block ({max(self.blocks)}) and be at most "
                f"max_frames ({self.max_frames}), the span the student was trained on"
            )

    @property
    def block_frames(self) -> int:
        """Latent frames of the repeating block."""
        return self.blocks[-1]


def wan_1_3b(**changes: Any) -> WanSpec:
    """Return the sizes of Wan2.1-T2V-1.3B: 825 tensors, 1,418,996,800 parameters."""
    return replace(WanSpec(), **changes)


def wan_14b(**changes: Any) -> WanSpec:
    """Return the sizes of Wan2.1-T2V-14B."""
    return replace(WanSpec(dim=5120, ffn_dim=13824, layers=40, heads=40), **changes)


_FORM: Final = ClipForm(480, 832, 16.0, 81)


@dataclass(frozen=True)
class WanPreset:
    """What a public checkpoint needs to be run as it was trained.

    Attributes:
        blocks, window, sink, relative_rope, joint_recache: see ``WanSpec``.
        steps: timesteps of its sampler in 0..1000, before the shift; one list for each of the first blocks.
        shift: timestep shift.
        form: the clips it draws.
        source: where the settings come from.
    """

    blocks: tuple[int, ...]
    window: int
    sink: int
    steps: tuple[tuple[int, ...], ...]
    shift: float
    source: str
    form: ClipForm = _FORM
    relative_rope: bool = False
    joint_recache: bool = False

    @property
    def levels(self) -> flow.Levels:
        """The sampler's noise levels, shifted: what ``rollout`` takes."""
        lists = tuple(_shifted(own, self.shift) for own in self.steps)
        return lists[0] if len(lists) == 1 else lists

    def apply(self, spec: WanSpec) -> WanSpec:
        """Return ``spec`` with this preset's blocks and memory."""
        names = ("blocks", "window", "sink", "relative_rope", "joint_recache")
        return replace(spec, **{name: getattr(self, name) for name in names})


def _shifted(steps: Sequence[int], shift: float) -> tuple[float, ...]:
    return tuple(shift * s / (1000 + (shift - 1) * s) for s in steps)


_FOUR: Final = (1000, 750, 500, 250)
PRESETS: Final[dict[str, WanPreset]] = {
    "selfforcing": WanPreset((3,), 0, 0, (_FOUR,), 5.0, "Self-Forcing, 2506.08009, chunk-wise"),
    "causalforcing_chunk": WanPreset((3,), 0, 0, (_FOUR,), 5.0, "Causal-Forcing, chunk-wise"),
    "causalforcing_frame": WanPreset((1,), 0, 0, (_FOUR,), 5.0, "Causal-Forcing, frame-wise, text or image to video"),
    "causalforcing_frame_2step": WanPreset((1,), 0, 0, (_FOUR, (1000, 500)), 5.0, "Causal-Forcing++, two steps"),
    "causalforcing_frame_1step": WanPreset((1,), 0, 0, (_FOUR, (1000,)), 5.0, "Causal-Forcing++, one step"),
    "longlive": WanPreset((3,), 12, 3, (_FOUR,), 5.0, "LongLive v1.0, 2509.22622", joint_recache=True),
    "longlive_infinity": WanPreset(
        (3,), 12, 3, (_FOUR,), 5.0, "LongLive v1.0 without end", relative_rope=True, joint_recache=True
    ),
    "causvid": WanPreset((3,), 0, 0, ((1000, 757, 522),), 1.0, "CausVid, 2412.07772; its steps are not shifted"),
}
"""Settings of the public checkpoints by name."""


def preset(name: str) -> WanPreset:
    """Return the preset ``name``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
