"""The verb export: a student in the formats that others load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from understudy.commands.base import Verb, say


@dataclass(frozen=True)
class Export(Verb):
    """Write a student, or its LoRA adapter, as diffusers, Self-Forcing, ComfyUI and PEFT read it, or as a bundle."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A run folder, a bundle, a built-in one (builtin:frame, block or base), or a public Wan checkpoint (file or folder)."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder, or the .pt file, to write; nothing is overwritten."""
    to: Annotated[
        Literal["diffusers", "selfforcing", "comfyui", "lora", "lora-diffusers", "lora-comfyui", "bundle"],
        arg(help_behavior_hint="(required)"),
    ]
    """What to write."""
    weights: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the averaged ones)")] = None
    """Which weights of a public .pt file: generator, generator_ema, or the key they are under."""
    heads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 128 wide)")] = None
    """Attention heads of a public checkpoint that does not say."""
    adapter: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """A LoRA to merge into a public checkpoint: LongLive's lora.pt, a PEFT folder, a file in kohya's or diffusers' names."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy export runs/quickstart student --to bundle",
        "understudy export runs/selfforcing adapter --to lora",
        "understudy export self_forcing_dmd.pt folder --to diffusers",
        "understudy export runs/selfforcing student.safetensors --to comfyui",
    )

    def do(self) -> int:
        """Write it, and say what was written."""
        from understudy.students.checkpoints.export import export

        say(f"{self.out}: {export(self.source, self.to, self.out, self.weights, self.heads, self.adapter)}")
        return 0
