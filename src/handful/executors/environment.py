"""What a record says of the machine it was made on: device, memory, versions, git state.

All of it belongs into a record's `execution` and nowhere else. Knows nothing of specs or studies.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import handful

PACKAGES = ("torch", "transformers", "peft", "numpy", "scikit-learn", "bitsandbytes")


def available_cores() -> int:
    """Physical cores that this process may run on; hyper-threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


@cache
def environment() -> Mapping[str, Any]:
    """Host name, package versions and the git state of handful; the same for every run of a process."""
    known = {"host": socket.gethostname(), "platform": platform.platform(), "versions": versions()}
    state = git_state(Path(handful.__file__).resolve().parent)
    return known if state is None else {**known, "git": state}


def versions() -> dict[str, str]:
    """Versions of handful, Python and the packages that make the numbers; one not installed is left out."""
    found = {"handful": handful.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            # torch tells its build ("+cpu") only here
            found[package] = torch.__version__ if package == "torch" else importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that `folder` is tracked in, or None when it is in none."""
    try:
        # A site-packages folder inside somebody else's checkout is not a checkout of handful.
        if not _git(folder, "ls-files", "__init__.py").strip():
            return None
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", ".").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # With optional locks, a `status` that is killed could leave index.lock behind in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@cache
def device_name(device: str) -> str:
    """The name of the processor or of the CUDA card that `device` ("cpu", "cuda", "cuda:1") means."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class PeakMemory:
    """The most memory in use since it was made, on the device where the model lies.

    On CUDA what torch's allocator held, on the CPU the resident memory of this process, base included.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(torch.device(device))
            self.kind = "torch's CUDA allocator, during the cell"
            return
        try:
            # Linux forgets the high-water mark on this: else a cell would show an earlier one's peak.
            Path("/proc/self/clear_refs").write_text("5")
            self.kind = "resident memory of the process, during the cell"
        except OSError:
            self.kind = "resident memory of the process, since it started"

    def bytes(self) -> int:
        """The peak so far, in bytes."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(torch.device(self.device))
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
