"""A run's folder: which run it holds, and its summary."""

import os
import platform
from pathlib import Path

import torch

from understudy import __version__
from understudy.errors import ConfigError
from understudy.files import write_json_atomic, write_text_atomic
from understudy.recipes.config import RunConfig
from understudy.recipes.files import dump, load_recipe
from understudy.run.clips import build_teacher
from understudy.run.identity import config_hash
from understudy.run.log import RunLog


def main_arm(config: RunConfig) -> str:
    """Return the name of the run's own arm in records and reports."""
    name = config.objective.arm
    return f"{name}-main" if name in config.compare else name


def arm_folder(config: RunConfig, name: str) -> Path:
    """Return where the trained student of arm ``name`` is kept."""
    return config.out / "student" if name == main_arm(config) else config.out / "arms" / name


def claim(config: RunConfig) -> None:
    """Write the resolved config into the run folder, or check that the one there is the same run."""
    check_claim(config)
    write_text_atomic(config.out / "config.yaml", dump(config))


def check_claim(config: RunConfig) -> None:
    """Raise ConfigError when the run folder holds another run."""
    path = config.out / "config.yaml"
    if path.is_file() and config_hash(load_recipe(path, ())) != config_hash(config):
        raise ConfigError(
            f"{config.out} holds a run of another configuration: give another --out, or remove the folder"
        )


def summarise(config: RunConfig, log: RunLog) -> None:
    """Write summary.json from what the log kept."""
    main = main_arm(config)
    named = ("start", "teacher", main)
    write_json_atomic(
        config.out / "summary.json",
        {
            "name": config.name,
            "objective": main,
            "start": log.results["start"],
            "end": log.results[main],
            "teacher_floor": log.results["teacher"],
            "arms": {name: values for name, values in log.results.items() if name not in named},
            "seconds": {**log.seconds, "total": sum(log.seconds.values())},
            "steps": config.train.steps,
            "warmup_steps": config.objective.warmup(config.discriminator),
            "seed": config.seed,
            "version": __version__,
            "probe": log.kept.get("probe", {}),
            "warnings": log.kept.get("warnings", []),
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {config.device}",
            "teacher": build_teacher(config).name,
            "teacher_clips": log.kept.get("clips", 0),
        },
    )
