"""The base of all sections of a recipe."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: frozen, unknown keys forbidden, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
