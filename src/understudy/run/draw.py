"""Clips of a student as files, or as a stream of mp4 pieces."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from understudy.errors import ConfigError
from understudy.files import ensure_folder
from understudy.prompts import prompt_id
from understudy.run.remarks import say_cut
from understudy.students.bundle import Bundle, load_bundle
from understudy.students.generate import draw_long_clip, read_given, stream_clip
from understudy.video.clips import write_mp4
from understudy.video.mp4 import FragmentedMp4, Frames


def generate(
    bundle: str,
    prompts: Sequence[str],
    out: Path,
    seconds: float | None,
    seed: int,
    per_prompt: int,
    window: int | None,
    sink: int | None,
    threads: int,
    switches: Sequence[tuple[float, str]] = (),
    given: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write ``per_prompt`` mp4 files for every prompt into ``out`` and return their paths.

    ``say`` is told in a line what of the prompts the student does not read.

    Raises:
        ConfigError: there is no prompt, or the length needs a window.
    """
    if not prompts:
        raise ConfigError("there are no prompts: give them as arguments or with --prompts FILE")
    student, first = _generator(bundle, window, sink, threads, given)
    say_cut(student.student.text_encoder, [*prompts, *(prompt for _, prompt in switches)], say)
    length = seconds if seconds is not None else student.form.frames / student.form.fps
    ensure_folder(out)
    paths = []
    for prompt in prompts:
        for take in range(per_prompt):
            clip = draw_long_clip(student, prompt, seed + take, length, switches, first)
            path = out / f"{prompt_id(prompt)}-{seed + take}.mp4"
            write_mp4(path, clip)
            paths.append(path)
    return paths


def stream(
    bundle: str,
    prompt: str,
    seconds: float | None,
    seed: int,
    window: int | None,
    sink: int | None,
    threads: int,
    switches: Sequence[tuple[float, str]] = (),
    given: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[bytes]:
    """Yield one clip as fragmented mp4, a piece for every block as it is drawn; ``seconds`` None goes on for ever."""
    student, first = _generator(bundle, window, sink, threads, given)
    say_cut(student.student.text_encoder, [prompt, *(other for _, other in switches)], say)
    blocks = stream_clip(student, prompt, seed, math.inf if seconds is None else seconds, switches, first)
    writer = FragmentedMp4(student.form.height, student.form.width, student.form.fps)
    header = writer.header
    for frames in blocks:  # nothing is written before the first block is there: an error leaves no half video
        yield header + writer.push(frames)
        header = b""


def _generator(
    bundle: str, window: int | None, sink: int | None, threads: int, given: Path | None
) -> tuple[Bundle, Frames | None]:
    """Return the student to generate with and the frames it goes on from."""
    if threads:
        torch.set_num_threads(threads)
    student = load_bundle(bundle).with_window(window, sink)
    return student, None if given is None else read_given(given, student.form)
