"""How the C library treats large blocks on a CPU.

glibc fetches every block above 32 MB anew from the kernel and gives it back when it is freed. A layer's attention
scores are such a block, so each layer of each step waits for the kernel to clear its pages, which can take longer than
filling them. Blocks that stay with the process are used again.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed blocks of up to 2 GB stay with this process until it ends; False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_THRESHOLD, _LARGEST), mallopt(_M_TRIM_THRESHOLD, _LARGEST)])
