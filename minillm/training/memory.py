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

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h; below, the values that malloc begins with
NEVER, TRIM_DEFAULT, MMAP_DEFAULT = 2**31 - 1, 128 * 1024, 65_536


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Context in which freed memory stays with this process, up to 2 GiB at the end of its heap; it goes back after.

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
        libc.mallopt(M_MMAP_MAX, MMAP_DEFAULT)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_DEFAULT)
        libc.malloc_trim(ctypes.c_size_t(0))
