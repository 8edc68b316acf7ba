"""Video files of other people are decoded in a process of their own, with limits on memory and time.

A decoder that crashes, hangs or is taken over then costs one file and never the run: its process is killed and started
again. It gets no secrets (its environment is empty), and answers in JSON and raw bytes, nothing that could be executed.
"""

import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import ClipError
from understudy.video.clips import Clip, ClipForm, Fit
from understudy.video.decoding import Limits
from understudy.video.ingest.facts import VideoFacts

_ANSWER_BYTES = 1 << 22
_FILES_PER_WORKER = 2000  # then a fresh one: whatever a decoder leaks is bounded
_GRACE_SECONDS = 5.0


class Guard:
    """A decoding process that is started when needed, and again after it died; for one thread at a time, others wait."""

    def __init__(self, limits: Limits | None = None) -> None:
        """Use ``limits`` for every file (None: those of `Limits`)."""
        self.limits = Limits() if limits is None else limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._result = -1
        self._owner = 0
        self._served = 0

    def probe(self, path: str | Path, source: str | None = None) -> VideoFacts:
        """Decode the whole file ``path`` and say what it holds; errors call it ``source``.

        Raises:
            ClipError: no video file, damaged, beyond a limit, or the decoder died of it.
        """
        answer = self._ask("probe", path, source)
        try:
            return VideoFacts.from_json(answer["facts"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClipError(f"{source or path} made the decoder answer nonsense ({error}); refused") from None

    def check(self, path: str | Path, source: str | None = None) -> int:
        """Decode the whole file ``path`` and return its number of frames: `probe` without looking at the pictures.

        Raises:
            ClipError: as `probe`.
        """
        count = self._ask("check", path, source).get("count")
        if not isinstance(count, int):
            raise ClipError(f"{source or path} made the decoder answer nonsense; refused")
        return count

    def read(
        self, path: str | Path, form: ClipForm | None = None, source: str | None = None, fit: Fit = "crop"
    ) -> Clip:
        """Decode the video file ``path``, as it is or brought to ``form``.

        With a form only its frames leave the decoder: the file's frames nearest to the times ``k / form.fps``, resized
        with antialiasing; ``fit`` says what happens to another aspect ratio. A variable rate is honoured. Without a
        form, all frames come, and a variable rate is taken for its average. Sound is dropped, rotation, mirroring and
        the pixels' aspect ratio are applied, transparency is laid over black.

        Raises:
            ClipError: as `probe`; also when the clip is HDR, shorter than the form, or its frames are too many to hand back.
        """
        with self._lock:
            answer = self._ask_locked("frames", path, source, form=None if form is None else asdict(form), fit=fit)
            try:
                told = answer["frames"]
                shape, fps = tuple(int(n) for n in told["shape"]), float(told["fps"])
                if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
                    raise ValueError(f"shape {shape}")
                size = shape[0] * shape[1] * shape[2] * 3
                if size > self.limits.result_bytes or size != os.fstat(self._result).st_size:
                    raise ValueError(f"shape {shape} for {os.fstat(self._result).st_size} bytes")
                frames = np.empty(shape, dtype=np.uint8)
                view, at = frames.data.cast("B"), 0
                while at < size:
                    got = os.preadv(self._result, [view[at:]], at)
                    if not got:
                        raise ValueError("missing bytes")
                    at += got
                os.ftruncate(self._result, 0)
            except (KeyError, TypeError, ValueError) as error:
                raise ClipError(f"{source or path} made the decoder answer nonsense ({error}); refused") from None
        return Clip(frames, fps)

    def manifest(self, path: str | Path, source: str | None = None) -> Mapping[str, Any]:
        """Return what `understudy.video.ingest.c2pa.read_manifest` says of the file ``path``.

        Raises:
            ClipError: the file cannot be read, or the reader died of it.
        """
        manifest = self._ask("manifest", path, source).get("manifest")
        if not isinstance(manifest, dict):
            raise ClipError(f"{source or path} made the manifest reader answer nonsense; refused")
        return manifest

    def start(self) -> None:
        """Start the process if it is not there; it is ready a little later."""
        with self._lock:
            self._ready()

    def close(self) -> None:
        """Stop the process; the next file starts another."""
        with self._lock:
            self._stop()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # at the interpreter's end, parts of it may be gone
            self._stop()

    def _ask(self, do: str, path: str | Path, source: str | None, **more: object) -> dict[str, Any]:
        with self._lock:
            return self._ask_locked(do, path, source, **more)

    def _ask_locked(self, do: str, path: str | Path, source: str | None, **more: object) -> dict[str, Any]:
        """Return the worker's answer; needs the lock."""
        source = str(path) if source is None else source
        request = {"do": do, "path": os.path.abspath(path), "source": source, "limits": asdict(self.limits), **more}
        line = json.dumps(request).encode() + b"\n"
        answer: bytes | None = None
        for _ in range(2):  # a worker that served before may have died of something else: ask a fresh one
            fresh = self._ready()
            answer = self._exchange(line, source)
            if answer is not None or fresh:
                break
        if answer is None:
            raise ClipError(f"{source} made the decoder crash; refused")
        self._served += 1
        try:
            told = json.loads(answer)
            if "refused" in told:
                raise ClipError(" ".join(str(told["refused"]).split())[:500])
        except (ValueError, TypeError):
            self._stop()
            raise ClipError(f"{source} made the decoder answer nonsense; refused") from None
        return dict(told)

    def _exchange(self, line: bytes, source: str) -> bytes | None:
        """Send a request and return the answer's line; None when the worker died."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (BrokenPipeError, ConnectionError):
                self._stop()
                return None
            answer = bytearray()
            # The child limits its processor time; the clock also counts waiting for a busy machine or a slow disk.
            deadline = time.monotonic() + self.limits.seconds + _GRACE_SECONDS
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                while not answer.endswith(b"\n"):
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        self._stop()
                        raise ClipError(f"{source} keeps the decoder busy for over {self.limits.seconds:g} s; refused")
                    part = os.read(self._process.stdout.fileno(), 1 << 16)
                    answer += part
                    if not part or len(answer) > _ANSWER_BYTES:
                        self._stop()
                        return None
            return bytes(answer)
        except BaseException:
            self._stop()  # an interrupted exchange leaves an answer in the pipe that belongs to no later question
            raise

    def _ready(self) -> bool:
        """Have a living worker of this very process; say whether it is a fresh one."""
        process = self._process
        if process is not None and self._owner != os.getpid():  # after a fork it is our parent's
            self._process, process = None, None
        if process is not None and (process.poll() is not None or self._served >= _FILES_PER_WORKER):
            self._stop()
            process = None
        if process is not None:
            return False
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # decoded frames are large and short-lived
        with tempfile.TemporaryFile(dir=shared) as file:
            self._result = os.dup(file.fileno())
        # Nothing of our environment but what finds the code: keys of teachers are none of a decoder's business.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LANG", "TMPDIR") if name in os.environ}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "understudy.video.ingest.worker", str(self._result)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(self._result,),
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._owner, self._served = os.getpid(), 0
        return True

    def _stop(self) -> None:
        process, self._process = self._process, None
        if self._result >= 0:
            with suppress(OSError):
                os.close(self._result)
            self._result = -1
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()


class GuardPool:
    """Guards for several threads at once, each started when it is first needed."""

    def __init__(self, size: int) -> None:
        """Have up to ``size`` decoding processes."""
        self._size = size
        # The last one given back goes out first: one thread alone never starts a second process.
        self._free: queue.LifoQueue[Guard] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(Guard())

    @contextmanager
    def borrow(self) -> Iterator[Guard]:
        """Have a guard to oneself, waiting for one when all are at work."""
        guard = self._free.get()
        try:
            yield guard
        finally:
            self._free.put(guard)

    def start(self) -> None:
        """Start the processes that are not at work, so that the first files find them ready."""
        waiting = []
        with suppress(queue.Empty):
            while True:
                waiting.append(self._free.get_nowait())
        for guard in waiting:
            try:
                guard.start()
            finally:
                self._free.put(guard)

    def close(self) -> None:
        """Stop all processes, once they are given back."""
        for _ in range(self._size):
            self._free.get().close()


_shared = GuardPool(min(4, os.cpu_count() or 1))


def start_guards() -> None:
    """Start the shared guarded processes beside whatever the caller waits for."""
    threading.Thread(target=_shared.start, daemon=True).start()


def borrow_guard() -> AbstractContextManager[Guard]:
    """Have one of the guards of this process that `probe` and `read_clip` use to oneself."""
    return _shared.borrow()


def probe(path: str | Path, source: str | None = None) -> VideoFacts:
    """Say what the video file ``path`` holds, by decoding it in a shared guarded process; see `Guard.probe`."""
    with _shared.borrow() as guard:
        return guard.probe(path, source)


def probe_bytes(data: bytes, source: str = "clip") -> VideoFacts:
    """Say what a video file given as ``data`` holds; see `Guard.probe`."""
    with _as_file(data) as path:
        return probe(path, source)


def read_bytes(data: bytes, form: ClipForm | None = None, source: str = "clip") -> Clip:
    """Decode a video file given as ``data``; see `Guard.read`."""
    with _as_file(data) as path, _shared.borrow() as guard:
        return guard.read(path, form, source)


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="understudy-") as file:
        file.write(data)
        file.flush()
        yield file.name


def read_clip(path: str | Path, form: ClipForm | None = None, fit: Fit = "crop") -> Clip:
    """Decode the video file ``path`` in a shared guarded process; see `Guard.read`."""
    with _shared.borrow() as guard:
        return guard.read(path, form, None, fit)
