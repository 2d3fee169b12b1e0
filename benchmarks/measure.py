"""Runs one tool as a process of its own and says what it took. Needs nothing but Python.

This process stays small: a child's peak memory counts what its parent held when it was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
QUIET_SECONDS, QUIET_CORES = 1.0, 0.15
"""A machine is idle when for so long fewer cores than this were busy."""
TAIL_LINES = 4
"""Of a failed tool's output, kept as the reason."""


@dataclass(frozen=True)
class Measured:
    """wall_seconds: of the whole process. peak_bytes: of its resident memory. others: how many cores other
    processes kept busy meanwhile. result: what the tool wrote, empty when it failed. reason: why it failed.
    """

    wall_seconds: float
    peak_bytes: int
    others: float
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def run(command: Sequence[str], variables: Mapping[str, str], threads: int, limit: float) -> Measured:
    """Runs a command to its end, at most `limit` seconds; "{result}" in it is where it writes its result."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        filled = [part.replace("{result}", str(result)) for part in command]
        environment = _environment(folder, variables, threads)
        busy, start = _busy_seconds(), time.perf_counter()
        with log.open("wb") as stream:
            # A group of its own, so that what it starts ends with it.
            child = subprocess.Popen(
                filled, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            status, usage = _wait(child, limit)
        wall = time.perf_counter() - start
        own = usage.ru_utime + usage.ru_stime
        others = max(0.0, _busy_seconds() - busy - own) / wall
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if status != 0 or ("{result}" in command and not result.is_file()):
            return Measured(wall, peak, others, reason=_reason(status, log, wall >= limit))
        written = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        return Measured(wall, peak, others, written)


def wait_for_quiet(limit: float) -> None:
    """Waits until the machine has been idle for a moment, at most `limit` seconds."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        busy = _busy_seconds()
        time.sleep(QUIET_SECONDS)
        if _busy_seconds() - busy < QUIET_CORES * QUIET_SECONDS:
            return


def _wait(child: subprocess.Popen[bytes], limit: float) -> tuple[int, Any]:
    """(exit status, its resource usage); ends the child's whole group after `limit` seconds or with this process."""
    timer = threading.Timer(limit, _end, (child.pid,))
    timer.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        _end(child.pid)
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _environment(folder: str, variables: Mapping[str, str], threads: int) -> dict[str, str]:
    """Of a child: offline, with caches that are new every time so that no round finds the last one's."""
    shown = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MALLOC_", "GOMP_"))}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": folder, "CUDA_VISIBLE_DEVICES": ""}
    return {**shown, **offline, "OMP_NUM_THREADS": str(threads), **variables}


def _busy_seconds() -> float:
    """Seconds for which the machine's cores have worked since it was started; 0 where that is not told."""
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(int, _first_line("/proc/stat").split()[1:])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _first_line(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.readline()


def _reason(status: int, log: Path, is_late: bool) -> str:
    if is_late:
        return "took too long"
    if status == -signal.SIGKILL:
        return "killed, as for want of memory"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-TAIL_LINES:]) or f"exit status {status}"
