"""What a suite is: rows (recipes) x settings x seeds, read from one YAML file into cells."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from understudy.errors import ConfigError
from understudy.files import sha256_hex
from understudy.recipes.config import RunConfig
from understudy.recipes.files import load_recipe, read_yaml
from understudy.recipes.section import Section, check_name
from understudy.recipes.shipped import locate
from understudy.run.folder import config_hash
from understudy.students.bundle import bundle_folder

_SEED: Final = "{seed}"


class DistilConfig(Section):
    """Few-step distillation of what a row has trained, on the clips it was trained on."""

    steps: int = Field(400, ge=1, le=10_000_000)
    """Updates."""
    lr: float = Field(8e-4, gt=0, le=10)
    """AdamW learning rate."""
    ode_steps: int = Field(12, ge=1, le=10_000)
    """Steps of the probability-flow ODE whose end points are learnt."""
    levels: tuple[float, ...] = (1.0, 0.5)
    """Noise levels of the new sampler."""


class RowConfig(Section):
    """One row of the table."""

    recipe: Path
    """Its recipe, relative to the suite."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that differ, by dotted key."""
    train: bool = True
    """false: the start student as it is."""
    after: str | None = None
    """Begin with what this row has trained, in the same setting and with the same seed."""
    start: str | None = None
    """Bundle to begin with, {seed} in it standing for the seed; left out, and said to be, where there is none."""
    distil: DistilConfig | None = None
    """Distil the result to few steps."""
    against: str = "start"
    """Row that counts as its start in differences."""

    def bundle(self, seed: int) -> str | None:
        """Return the bundle to begin with for this seed, if it names one."""
        return None if self.start is None else self.start.replace(_SEED, str(seed))


class LongConfig(Section):
    """Long rollouts: drift with place in the clip."""

    times: int = Field(10, ge=2, le=10_000)
    """Length in training lengths."""
    prompts: int = Field(8, ge=1, le=100_000)
    """Held-out prompts."""
    rollouts: int = Field(2, ge=1, le=10_000)
    """Clips per prompt."""
    windows: dict[str, tuple[int, int]] = Field(default_factory=lambda: {"window 8": (8, 0)})
    """Attention windows and sinks in latent frames, by name."""


class SuiteConfig(Section):
    """A suite."""

    kind: Literal["bench"] = "bench"
    name: str
    """Its name."""
    about: str = ""
    """What it asks, for the head of the results."""
    out: Path
    """Folder of the results and of all cells."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**62)], ...] = Field(min_length=1, max_length=10_000)
    """Seeds of training."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of every row's recipe, by dotted key."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Circumstances every row is tried under, each with the fields that differ; none: one, called all."""
    rows: dict[str, RowConfig] = Field(min_length=1)
    """The rows, by name; one called start is what differences are taken from."""
    long: LongConfig | None = None
    """Long rollouts as well."""
    beside: tuple[str, ...] = ("afd",)
    """Rows that all others are compared with, seed by seed, as they are with their start."""
    words: tuple[str, ...] = ()
    """Words of prompts by which the errors of the law are shown apart, such as the places that decide on gravity."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its place in it, its folder, its resolved recipe, and the folder of the row before it."""

    setting: str
    row: str
    seed: int
    folder: Path
    config: RunConfig
    spec: RowConfig
    origin: str
    before: Path | None
    long: LongConfig | None

    @property
    def name(self) -> str:
        """Its place in words."""
        return f"{self.setting} / {self.row} / seed {self.seed}"

    @property
    def digest(self) -> str:
        """What decides its result; another one in its folder is another cell's."""
        rest = self.spec.model_dump_json(include={"train", "distil", "after"})
        long = self.long.model_dump_json() if self.long else ""
        return sha256_hex(f"{config_hash(self.config)} {rest} {long}".encode())


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite: a file, or the name of one that ships.

    Raises:
        ConfigError: it is no suite, or rows begin with rows that are not there.
    """
    path = locate(path)
    data = read_yaml(path, "suite")
    if not isinstance(data, dict) or data.get("kind") != "bench":
        raise ConfigError(f"suite {path} is none: its first line is `kind: bench`; a recipe is for `understudy train`")
    try:
        suite = SuiteConfig.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"suite {path}: {where}: {' '.join(str(first['msg']).split())}") from None
    for name in (*suite.rows, *suite.settings):
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(f"suite {path}: {error}") from None
        if "," in name:
            raise ConfigError(
                f"suite {path}: the name {name!r} has a comma, which --rows and --settings split at: say it without"
            )
    for name in suite.beside if "beside" in data else ():
        if name not in suite.rows:
            raise ConfigError(f"suite {path}: beside has {name!r}, which is no row; there are: {', '.join(suite.rows)}")
    for name, row in suite.rows.items():
        seen = {name}
        while row.after is not None:
            if row.after not in suite.rows or row.after in seen:
                raise ConfigError(f"suite {path}: rows.{name}.after leads to {row.after!r}, which is no earlier row")
            seen.add(row.after)
            row = suite.rows[row.after]
    return suite


def cells(suite: SuiteConfig, path: Path, chosen: tuple[int, ...] = ()) -> tuple[list[Cell], list[str]]:
    """Return the suite's cells, seed by seed so that an early table has every row, and what is left out, in words.

    ``chosen`` are the seeds of training, if not the suite's. A student that is not trained keeps the suite's first: it is
    the same with every seed, and a second run of it must not count as another.
    """
    found, left_out = [], []
    first, trained = suite.seeds[0], chosen or suite.seeds
    for setting, changes in (suite.settings or {"all": {}}).items():
        for name, row in suite.rows.items():
            seeds = trained if row.train or _SEED in (row.start or "") else (first,)
            absent = [
                bundle
                for seed in seeds
                if (bundle := row.bundle(seed)) and not (bundle_folder(bundle) / "config.json").is_file()
            ]
            if absent:
                left_out.append(
                    f"{name} ({setting}): there is no bundle {absent[0]}; the suite's head says what makes it"
                )
                continue
            found += [_cell(suite, path, setting, changes, name, seed) for seed in seeds]
    order = {seed: i for i, seed in enumerate(dict.fromkeys((first, *trained)))}
    missing = {line.split(" (")[0] for line in left_out}
    kept = [cell for cell in found if suite.rows[cell.row].after not in missing]
    return sorted(kept, key=lambda cell: order[cell.seed]), left_out


def _cell(suite: SuiteConfig, path: Path, setting: str, changes: dict[str, Any], name: str, seed: int) -> Cell:
    row, folder = suite.rows[name], suite.out / setting / name / f"seed-{seed}"
    values = {**suite.set, **changes, **row.set}
    overrides = [(key, json.dumps(value)) for key, value in values.items()]
    overrides += [("seed", str(seed)), ("out", json.dumps(str(folder))), ("name", json.dumps(f"{name}, {setting}"))]
    if (bundle := row.bundle(seed)) is not None:
        overrides.append(("student.start", json.dumps(bundle)))
    config = load_recipe(locate(path).parent / row.recipe, overrides).model_copy(update={"compare": {}})
    origin, before = config.student.start, None
    if row.after is not None:
        other = suite.rows[row.after]
        before = suite.out / setting / row.after / f"seed-{seed if other.train else suite.seeds[0]}"
        student = config.student.model_copy(update={"start": str(before)})
        config = config.model_copy(update={"student": student})
    return Cell(setting, name, seed, folder, config, row, origin, before, suite.long)
