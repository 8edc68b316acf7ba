"""The section of a discriminator from Python."""

from typing import ClassVar, Literal

from understudy.discriminators.config import JudgeConfig
from understudy.plugins import PythonSection


class PythonDiscriminatorConfig(PythonSection, JudgeConfig):
    """A class or function that makes an ``understudy.Discriminator``."""

    kind: Literal["python"] = "python"

    what: ClassVar[str] = "discriminator"
