"""What the engine does about memory. Knows nothing of models or methods."""

from __future__ import annotations

import ctypes
import functools
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


@functools.cache
def keep_freed_memory() -> bool:
    """Has glibc keep what is freed instead of giving it back at each step, to fault it in again at the next one.

    Once per process, and only where the C library is glibc; gives whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**30), (_M_TOP_PAD, 2**26))
    return all([mallopt(name, size) == 1 for name, size in settings])
