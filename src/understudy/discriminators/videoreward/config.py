"""The section of VideoReward."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from understudy.discriminators.config import JudgeConfig
from understudy.recipes.section import far


class VideoRewardConfig(JudgeConfig):
    """VideoReward: Qwen2-VL with LoRA and a scalar head (needs the wan extra); defaults as far as the paper gives them."""

    kind: Literal["videoreward"] = "videoreward"
    path: Path
    """Transformers folder of Qwen2-VL-2B-Instruct, tokenizer included."""
    reward: Path | None = None
    """Public VideoReward weights, folder or file; null: fresh LoRA layers and head on the base model."""
    weights: Path | None = None
    """A trained discriminator's LoRA layers and head (discriminator.pt or .safetensors), put on top."""
    template: Path | None = None
    """Text file of the request, with {prompt} and the three rating tokens; null: the built-in one."""
    dimension: Literal["overall", "visual", "motion", "text"] = "overall"
    """Rating used as score; overall: the sum of the three."""
    rank: int = Field(64, ge=1, le=far(65_536))
    """Rank of LoRA on the language model's linear layers."""
    alpha: int = Field(128, ge=1, le=far(1_000_000))
    """LoRA's alpha; public weights were trained with 64 and 128."""
    fps: float = Field(2.0, gt=0, ge=far(0.01), le=far(1000))
    """Frames per second it looks at."""
    min_pixels: int = Field(128 * 28 * 28, ge=28 * 28, le=far(10**8))
    """Smallest area of a frame; smaller ones are enlarged."""
    max_pixels: int = Field(256 * 28 * 28, ge=28 * 28, le=far(10**8))
    """Largest area of a frame; larger ones are scaled down."""
    clips_at_once: int = Field(2, ge=1, le=far(10_000))
    """Clips that run through it together."""
    checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, a third more time."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen weights and the arithmetic."""
    noise: float = Field(0.0, ge=0, le=far(100))
    """Instance noise on frames in [-1, 1]."""
    rerender: float | None = Field(None, gt=0, lt=1)
    """Noise level from which the start student draws teacher clips again in its own look; null: only the codec."""
    lr: float = Field(5e-6, ge=0, le=far(10))
    """AdamW learning rate; 0 freezes it after warm-up."""
    rates: tuple[float, float] = (1e-7, 5e-6)
    """Smallest and largest learning rate that the controller may choose; it spends most of a run near the largest."""
    penalty: float = Field(0.0, ge=0, le=far(1e6))
    """Weight of the R1 and R2 finite-difference penalties; 0 spares their pass."""
    pool: int = Field(64, ge=1, le=far(1_000_000))
    """Rollouts in the warm-up's pool."""
