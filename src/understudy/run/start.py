"""The start student of a run."""

from dataclasses import replace

from understudy import flow
from understudy.clips import ClipForm
from understudy.codecs.wan import load_wan_codec
from understudy.errors import ConfigError, PluginError, UnderstudyError
from understudy.plugins import guarded, load
from understudy.recipes.config import PythonStudentConfig, RunConfig
from understudy.students.bundle import Bundle, bundle_form, load_bundle
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import chosen_preset, clip_form, public_bundle
from understudy.students.umt5 import UMT5Text


def start_form(config: RunConfig) -> ClipForm | None:
    """Return the clips that the recipe's student draws, without loading it; None when that is not known yet."""
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
    if isinstance(config.student, PythonStudentConfig):
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


def _own(section: PythonStudentConfig) -> Bundle:
    """Return the bundle that the section holds or that the user's function makes."""
    call = section.call
    made = section.given
    if made is None:
        made = guarded(f"student {call}", load(call, "student"), **section.settings)
    if not isinstance(made, Bundle):
        raise PluginError(f"student {call} made a {type(made).__name__}, not an understudy.Bundle")
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
