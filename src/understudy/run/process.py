"""How a process that trains is set up."""

import ctypes
import sys
from contextlib import suppress

import torch


def prepare_process(threads: int) -> None:
    """Take ``threads`` torch threads (0: as many as torch likes) and keep freed memory."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let glibc keep freed buffers instead of returning them: a tenth of a training step was page faults."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library: nothing is lost but that tenth
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
