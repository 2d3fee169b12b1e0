"""What the engine does about memory. Knows nothing of models or methods."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

try:
    import resource
except ImportError:  # not on every system
    resource = None  # type: ignore[assignment]

PLENTY = 4 * 2**30
"""Bytes; with less to take, holes in what is kept could be what is missing."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed instead of giving it back at each step, to fault it in again at the next one.

    Only where the C library is glibc; gives whether it was done.
    """
    return _set_malloc(mmap_threshold=2**30, trim_threshold=2**30, top_pad=2**26)


def keep_freed_memory_where_plenty() -> bool:
    """`keep_freed_memory` where a CPU has PLENTY to give, else the other way round; gives whether it is kept."""
    if available_bytes(torch.device("cpu")) < PLENTY:
        give_back_freed_memory()
        return False
    return keep_freed_memory()


def give_back_freed_memory() -> bool:
    """The other way round, for when memory is short: what is freed goes back, and leaves no holes."""
    return _set_malloc(mmap_threshold=2**17, trim_threshold=2**17, top_pad=0) and _glibc().malloc_trim(0) >= 0


def _set_malloc(mmap_threshold: int, trim_threshold: int, top_pad: int) -> bool:
    settings = ((_M_MMAP_THRESHOLD, mmap_threshold), (_M_TRIM_THRESHOLD, trim_threshold), (_M_TOP_PAD, top_pad))
    glibc = _glibc()
    return glibc is not None and all([glibc.mallopt(name, size) == 1 for name, size in settings])


@functools.cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None


_SIGNS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "failed to map segment")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch has an error of its own for that on CUDA only; on a CPU it raises a
    RuntimeError that says so, and a library that finds no room for its code an ImportError.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, (RuntimeError, OSError, ImportError)) and any(sign in str(error) for sign in _SIGNS)
    )


def available_bytes(device: torch.device) -> int:
    """What this process can still take: of the device, of the machine, of its control group, of its own limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held_back)
    bounds = [psutil.virtual_memory().available, *_left_in_control_group()]
    if resource is not None:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            bounds.append(most - psutil.Process().memory_info().vms)
    return max(0, min(bounds))


def _left_in_control_group() -> Iterator[int]:
    """Bytes left under each limit of the groups this process is in (Linux, version 2), page cache counted as free."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    root = Path("/sys/fs/cgroup")
    own = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "/")
    group = root / own.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        try:
            most = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if most.isdigit():
            yield int(most) - used + (int(cached[1]) if cached else 0)


def kept_bytes(work: Callable[[], object], but_not: Collection[Tensor]) -> int:
    """Bytes that autograd keeps for the way back of what `work` runs, the tensors `but_not` left out."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in but_not}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in left_out:
            seen[place] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
