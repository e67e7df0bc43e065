"""Memory that a training step frees is kept for the next one.

glibc gives large blocks back to the system when they are freed, so every step has their pages faulted in again, 4 KiB
at a time. On two cores that is a tenth of a step of a small model.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
NEVER, MMAP_MAX = 2**31 - 1, 65_536  # the second is what malloc begins with
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20
"""Where malloc's own rule takes these thresholds as blocks of that size are freed. Setting any ends the rule."""


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Context in which freed memory stays with this process, up to 2 GiB at the end of its heap; it goes back after,
    and blocks of up to 32 MiB come from the heap as they would have without.

    It does nothing for a device other than the CPU, whose memory torch does not keep by itself, without glibc, and
    where the environment has its own settings for malloc.
    """
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or own:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)  # blocks come from the heap, whose free parts are found again
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        libc.malloc_trim(ctypes.c_size_t(0))
