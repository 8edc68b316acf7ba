"""The start student of a run."""

from dataclasses import replace

from understudy import flow
from understudy.codecs.wan import load_wan_codec
from understudy.errors import ConfigError
from understudy.recipe.config import RunConfig
from understudy.students.bundle import Bundle, load_bundle
from understudy.students.checkpoints.read import names_public_checkpoint
from understudy.students.checkpoints.start import public_bundle
from understudy.students.umt5 import UMT5Text


def load_start(config: RunConfig) -> Bundle:
    """Return the start student with the recipe's levels, window and sink, on its device."""
    codec, text = config.student.codec, config.student.text
    if config.student.dtype != "float32" and not (config.student.lora and config.train.bf16):
        raise ConfigError(
            f"student.dtype {config.student.dtype} is for frozen weights under autocast: set student.lora and train.bf16, "
            "or leave it float32"
        )
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
    if config.student.window is not None or config.student.sink is not None:
        bundle = bundle.with_window(config.student.window, config.student.sink)
    levels = bundle.levels if config.student.levels is None else config.student.levels
    try:
        flow.check_levels(levels)
    except ValueError as error:
        raise ConfigError(f"student.{error}") from None
    bundle.to(config.device)
    return replace(bundle, levels=levels)
