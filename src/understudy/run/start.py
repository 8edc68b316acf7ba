"""The start student of a run."""

from dataclasses import replace
from pathlib import Path

import torch

from understudy import flow
from understudy.codecs.wan import load_wan_codec
from understudy.errors import ConfigError, PluginError, UnderstudyError
from understudy.plugins import guarded, load
from understudy.recipes.config import PythonStudentConfig, RunConfig, StudentSection
from understudy.students.bundle import Bundle, bundle_form, load_bundle, read_tensors, save_bundle
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import chosen_preset, clip_form, public_bundle
from understudy.students.umt5 import UMT5Text
from understudy.video.clips import ClipForm


def start_form(config: RunConfig) -> ClipForm | None:
    """Return the clips that the recipe's student draws, without loading it; None when that is not known yet."""
    if isinstance(config.student.given, Bundle):
        return config.student.given.form
    if config.student.kind == "python":
        return None
    try:
        if config.student.preset is not None:
            return clip_form(config.student, chosen_preset(config.student))
        return bundle_form(config.student.start)
    except UnderstudyError:  # whoever loads the student says what is wrong
        return None


def load_start(config: RunConfig) -> Bundle:
    """Return the start student with the recipe's levels, window and sink, on its device."""
    codec, text = config.student.codec, config.student.text
    check_settings(config)
    if isinstance(config.student, PythonStudentConfig) or config.student.given is not None:
        return _settled(config, _own(config.student))
    placed = None if codec is None else load_wan_codec(codec.path, codec.dtype, codec.tile)
    if config.student.preset is not None or names_public_checkpoint(config.student.start):
        bundle = public_bundle(config.student, placed)
    elif config.student.size is not None or config.student.frames is not None:
        raise ConfigError(
            "student.size and student.frames are for public checkpoints: a bundle has a clip form of its own"
        )
    else:
        bundle = load_bundle(config.student.start, placed)
    if text is not None:
        bundle.student.use_text(UMT5Text(text.path, text.cache, text.length, text.dtype, config.device))
    return _settled(config, bundle)


def keep_start(config: RunConfig) -> None:
    """Write a start student that was given from Python to where the recipe names it, so that the run's folder is whole.

    Raises:
        ConfigError: another one is there already.
    """
    bundle, folder = config.student.given, Path(config.student.start)
    if not isinstance(bundle, Bundle):
        return
    if (folder / "config.json").is_file():
        kept, own = read_tensors(folder / "student.safetensors"), bundle.student.state_dict()
        if kept.keys() != own.keys() or not all(torch.equal(kept[name], own[name].cpu()) for name in kept):
            raise ConfigError(f"{config.out} holds a run that began with another student: give another out")
        return
    save_bundle(bundle, folder)


def _own(section: StudentSection) -> Bundle:
    """Return the bundle that the section holds or that the user's function makes, to be drawn from as it is."""
    made, label = section.given, "student"
    if isinstance(section, PythonStudentConfig):
        label = f"student {section.call}"
        made = guarded(label, made or load(section.call, "student"), **section.settings)
    if not isinstance(made, Bundle):
        raise PluginError(f"{label} made a {type(made).__name__}, not an understudy.Bundle")
    made.student.eval().requires_grad_(False)
    made.codec.eval().requires_grad_(False)
    return made


def _settled(config: RunConfig, bundle: Bundle) -> Bundle:
    """Return ``bundle`` with the recipe's levels, window and sink, on its device."""
    if config.student.window is not None or config.student.sink is not None:
        bundle = bundle.with_window(config.student.window, config.student.sink)
    levels = bundle.levels if config.student.levels is None else config.student.levels
    _check_levels(levels)
    bundle.to(config.device)
    return replace(bundle, levels=levels)


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError where the recipe's settings of the student do not go together; no file is looked at."""
    own = config.student
    if own.dtype != "float32" and not (own.lora and config.train.bf16):
        raise ConfigError(
            f"student.dtype {own.dtype} is for frozen weights under autocast: set student.lora and train.bf16, "
            "or leave it float32"
        )
    if own.levels is not None:
        _check_levels(own.levels)


def _check_levels(levels: flow.Levels) -> None:
    try:
        flow.check_levels(levels)
    except ValueError as error:
        raise ConfigError(f"student.{error}") from None
