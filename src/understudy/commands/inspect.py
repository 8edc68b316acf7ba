"""Verbs that look and change nothing: doctor, config."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from understudy.commands.base import Verb, say


@dataclass(frozen=True)
class Doctor(Verb):
    """Check this machine, or one recipe, clip store, bundle or run folder; exit status 1 when something fails."""

    target: Annotated[Positional[str | None], arg(metavar="[TARGET]", help_behavior_hint="")] = None
    """What to check; nothing: the machine and the installation."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy doctor",
        "understudy doctor quickstart",
        "understudy doctor runs/quickstart",
    )

    def do(self) -> int:
        """Print one line per finding."""
        from understudy.doctor import diagnose

        findings = diagnose(self.target)
        for finding in findings:
            say(finding)
        return 1 if any(finding.ok is False for finding in findings) else 0


@dataclass(frozen=True)
class Config(Verb):
    """List every field of a recipe with what it takes, its default and what it is for."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy config",
        "understudy train my.yaml --print-config > resolved.yaml",
    )

    def do(self) -> int:
        """Print the list."""
        from understudy.recipes.tree import config_fields

        say("Every field of a recipe. In YAML: keys below keys; on the command line: --train.steps 10")
        section = ""
        for field in config_fields():
            if field.section != section:
                section = field.section
                say(f"\n{section}")
            kind = f"[kind {field.kind}] " if field.kind else ""
            default = f" (default {field.default})" if field.default not in ("", "required") else ""
            required = " (required)" if field.default == "required" else ""
            say(f"  {field.key}: {kind}{field.type}{default}{required}")
            if field.help:
                say(f"      {field.help}")
        return 0
