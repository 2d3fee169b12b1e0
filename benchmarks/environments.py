"""Where each tool runs: handful in the environment of this process, every peer in a virtual one of its own.

A peer's environment is made once under benchmarks/.venvs from its pins in benchmarks/peers, and made anew when they
change. Needs nothing but Python, and for making an environment a package index that pip knows.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAIN = "handful"
"""The environment of this process."""

PEERS = ("trainer", "trl", "lm_eval")
"""Environments of the others, by the name of their pins."""

TORCH = "torch"
"""Installed before all else: unpinned, or asked for beside others, it may come in a build of many gigabytes."""

_LISTING = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}))
"""


def python_of(name: str) -> Path:
    """The interpreter of an environment."""
    return Path(sys.executable) if name == MAIN else HERE / ".venvs" / name / "bin" / "python"


def ensure(name: str) -> None:
    """Makes a peer's environment unless it stands already. Raises CalledProcessError when pip fails."""
    if name == MAIN:
        return
    pins = (HERE / "peers" / f"{name}.txt").read_text(encoding="utf-8")
    folder = HERE / ".venvs" / name
    stamp = folder / "installed.txt"  # written last, so that an interrupted installation starts again
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins:
        return
    print(f"making the environment of {name} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    torch = next(line for line in pins.splitlines() if line.startswith(f"{TORCH}=="))
    for wanted in ([torch], ["-r", str(HERE / "peers" / f"{name}.txt")]):
        pip = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
    stamp.write_text(pins, encoding="utf-8")


def versions(name: str) -> dict[str, str]:
    """Every package of an environment and its version."""
    told = subprocess.run([str(python_of(name)), "-c", _LISTING], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(told.stdout)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
