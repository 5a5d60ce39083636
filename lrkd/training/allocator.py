"""The memory allocator's settings for training on CPU."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GIGABYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks of up to a gigabyte for the next allocation, in this process.

    By default it hands large ones back to the kernel, and every training step pays for their pages again (mallopt(3)):
    that is two thirds of the page faults of a training on CPU (docs/training_speed.md has what it costs).

    Returns:
        Whether the allocator took the settings; False where it is not glibc's.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, GIGABYTE) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
