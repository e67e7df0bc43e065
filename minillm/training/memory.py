"""Keep the memory that a training step frees for the next step.

glibc returns large freed blocks to the system, so each step page-faults them in again, 4 KiB at a time. With two cores
and a small model, that takes a tenth of each step.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from malloc.h
NEVER, MMAP_MAX = 2**31 - 1, 65_536  # the second is malloc's default
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20
"""The highest values to which malloc adapts these thresholds; setting any of them ends the adaptation."""


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Context in which the process keeps freed memory, up to 2 GiB at the end of its heap.

    It does nothing on devices other than the CPU (torch caches their memory), without glibc, or if environment
    variables configure malloc.
    """
    configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or configured:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)  # allocate all blocks from the heap, which reuses freed ones
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        libc.malloc_trim(ctypes.c_size_t(0))
