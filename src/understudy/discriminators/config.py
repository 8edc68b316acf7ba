"""What the sections of all discriminators have."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from understudy.recipes.section import Section, far

_Share = Annotated[float, Field(ge=far(0.0), le=far(1.0))]
_Rate = Annotated[float, Field(ge=far(1e-12), le=far(10.0))]


class JudgeConfig(Section):
    """What every kind of discriminator has."""

    kind: str

    noise: float = Field(0.4, ge=0, le=far(100))
    """Instance noise on frames in [-1, 1]."""
    rerender: float | None = Field(0.5, gt=0, lt=1)
    """Noise level from which the start student draws teacher clips again in its own look; null: only the codec."""
    rerender_own: bool = True
    """Draw the student's rollouts again in the same way before they are scored, so that both sides carry its traces."""
    redraws: int = Field(1, ge=1, le=256)
    """Times each teacher clip is drawn again (with ``rerender``), each with noise of its own."""
    every: int | None = Field(None, ge=1)
    """It looks at every so many frames of both sides; null: as many as it takes for clips of another rate to move evenly."""
    lr: float = Field(5e-4, ge=0, le=far(10))
    """AdamW learning rate; 0 freezes it after warm-up."""
    penalty: float = Field(3.0, ge=0, le=far(1e6))
    """Weight of the R1 and R2 finite-difference penalties; 0 spares their pass."""
    sigma: float = Field(0.1, gt=0, ge=far(1e-6), le=far(100))
    """Step of the finite differences."""
    ceiling: float = Field(0.95, gt=0.5, le=1)
    """It rests while it ranks more than this share of pairs rightly: past that it ranks trifles. 1: never rests."""
    rests_above: float | None = Field(None, gt=0, le=1)
    """The same once the student moves; null: as ``ceiling``. Low: it learns only where the student has caught up."""
    warmup: int = Field(60, ge=0, le=far(10_000_000))
    """Steps on a fixed pool of start rollouts before the student moves."""
    pool: int = Field(480, ge=1, le=far(1_000_000))
    """Rollouts in that pool."""
    steps: int = Field(2, ge=0, le=far(1000))
    """Steps per student update."""
    loss: Literal["paired", "unpaired"] = "paired"
    """paired: Bradley-Terry on pairs of a prompt; unpaired: binary cross-entropy, an ablation."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the teacher clips it never trains on: pair accuracy on them shows when it memorises the others."""
    controller: Literal["none", "rate"] = "none"
    """rate: lr is only where it begins; it is then led so that pair accuracy stays inside ``band``."""
    band: tuple[_Share, _Share] = (0.7, 0.9)
    """Pair accuracies between which the controller leaves the learning rate alone."""
    rates: tuple[_Rate, _Rate] = (1e-5, 5e-4)
    """Smallest and largest learning rate that the controller may choose; it spends most of a run near the largest."""

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for name in ("band", "rates"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low:g}, {high:g}]; the first must not be above the second")
        return self

    @property
    def warmup_lr(self) -> float:
        """Learning rate of the warm-up: ``lr``, or the kind's default where 0 freezes it afterwards."""
        return self.lr or float(type(self).model_fields["lr"].default)
