"""The guarded process: reads requests as JSON lines, decodes one file for each, answers in JSON.

Started by ``ingest.guard`` with the file descriptor that decoded frames go to. It limits itself before it opens
anything, and speaks nothing but JSON and raw bytes, so that a file that takes it over cannot pass objects to its parent.
"""

import json
import math
import os
import resource
import stat
import sys
from contextlib import suppress
from io import BufferedReader
from typing import Any

import numpy as np

from understudy.errors import ClipError
from understudy.video import decoding
from understudy.video.clips import ClipForm, Fit, fitted, nearest_frames, resize
from understudy.video.decoding import Limits
from understudy.video.display import pixels as upright
from understudy.video.ingest.c2pa import read_manifest
from understudy.video.ingest.facts import measure
from understudy.video.mp4 import Frames


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    result = int(sys.argv[1])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)  # whatever a library prints must not get between the answers
    decoding.listen()
    for line in iter(requests.readline, b""):
        answers.write(json.dumps(_answer(json.loads(line), result)).encode() + b"\n")
        answers.flush()


def _answer(request: dict[str, Any], result: int) -> dict[str, Any]:
    limits = Limits(**request["limits"])
    try:
        _limit(limits)
        with _regular(request["path"], request["source"]) as file:
            if request["do"] == "probe":
                return {"facts": measure(file, request["source"], limits).to_json()}
            if request["do"] == "check":
                with decoding.opened(file, request["source"], limits) as video:
                    return {"count": sum(1 for _ in decoding.frames(video, limits))}
            if request["do"] == "manifest":
                return {"manifest": read_manifest(file)}
            form = None if request["form"] is None else ClipForm(**request["form"])
            return {"frames": _frames(file, request["source"], limits, form, request["fit"], result)}
    except ClipError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"{request['source']} needs more memory than the decoder may use; export it smaller"}
    except Exception as error:  # no file may end the worker by an exception
        return {"refused": f"{request['source']} cannot be decoded ({type(error).__name__}: {decoding.reason(error)})"}


def _limit(limits: Limits) -> None:
    """Bound this process: memory, processor time of this file, file size, no core dumps."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + limits.seconds) + 1
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits.result_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(OSError, ValueError):  # a system without this limit: the others and the parent's clock remain
            _, hard = resource.getrlimit(what)
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _regular(path: str, source: str) -> BufferedReader:
    """Open ``path`` when it is a regular file: a pipe or a device may never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ClipError(f"{source} does not exist") from None
    except OSError as error:
        raise ClipError(f"cannot read {source}: {(error.strerror or str(error)).lower()}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ClipError(f"{source} is not a regular file; give a video file")
    return os.fdopen(descriptor, "rb")


def _frames(
    file: BufferedReader, source: str, limits: Limits, form: ClipForm | None, how: Fit, result: int
) -> dict[str, Any]:
    """Write the frames, uint8 [T, H, W, 3], to descriptor ``result`` and return their shape and rate."""
    kept: list[Frames] = []
    times: list[float | None] = []
    os.ftruncate(result, 0)
    os.lseek(result, 0, os.SEEK_SET)
    written, shape = 0, (0, 0, 3)
    with decoding.opened(file, source, limits) as video:
        until = math.inf if form is None else _last_time(form, video)
        for frame, display in decoding.frames(video, limits):
            times.append(frame.time)
            pixels, size = upright(frame, display, source), display.size(frame)
            shown_for = decoding.seconds_of(frame)
            if form is None:
                pixels = resize(pixels, *size)
                shape = pixels.shape
                written += pixels.nbytes
                if written > limits.result_bytes:
                    raise ClipError(f"{source} is too large: its frames fill more than {limits.result_bytes} bytes")
                _write(result, pixels)
            else:
                kept.append(fitted(pixels, form.height, form.width, how, size))
            if times[0] is not None and times[-1] is not None and times[-1] - times[0] > until:
                break  # the rest was checked when the clip came in
        fps, variable = decoding.frame_rate(video.stream, times, source)
    if form is None:
        return {"shape": [len(times), *shape], "fps": fps}
    last = shown_for or 1 / fps if variable else 1 / fps
    shown = np.array(times, dtype=float) - times[0] if variable else np.arange(len(times)) / fps
    index = nearest_frames(shown, last, form.fps, form.frames)
    for i in index:
        _write(result, kept[i])
    return {"shape": [len(index), form.height, form.width, 3], "fps": form.fps}


def _last_time(form: ClipForm, video: decoding.Opened) -> float:
    """Return the time in seconds past which no frame is needed; infinity when nothing says the rate."""
    rate = video.stream.average_rate
    return (form.frames - 1) / form.fps + 2 / float(rate) if rate else math.inf


def _write(descriptor: int, pixels: Frames) -> None:
    data = np.ascontiguousarray(pixels).data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
