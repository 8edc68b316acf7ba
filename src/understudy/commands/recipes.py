"""The verb recipes: what ships."""

from dataclasses import dataclass
from typing import ClassVar

from understudy.commands.base import Verb


@dataclass(frozen=True)
class Recipes(Verb):
    """List the recipes and suites that come with the package, with one line each."""

    rows: bool = False
    """The rows of the suites as well: each is a recipe of its own."""

    examples: ClassVar[tuple[str, ...]] = (
        "understudy recipes",
        "understudy train quickstart --print-config > mine.yaml",
    )

    def do(self) -> int:
        """Print the list."""
        from understudy.recipes.shipped import shipped

        heads = {
            "recipe": "understudy train NAME",
            "suite": "understudy bench NAME",
            "row": "rows of the suites, to train",
        }
        found = shipped()
        width = max(len(item.name) for item in found if self.rows or item.kind != "row")
        for kind, head in heads.items():
            if kind != "row" or self.rows:
                print(f"{head}:")
                for item in found:
                    if item.kind == kind:
                        print(f"  {item.name:{width}}  {item.about}")
        return 0
