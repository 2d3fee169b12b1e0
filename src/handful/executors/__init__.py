"""Where the runs of a study happen. A table of executors; the next one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Mapping

from handful.executors.executor import CellEnded, CellProgress, CellStarted, Event, Executor, OnEvent, Told
from handful.executors.local import LocalExecutor

EXECUTORS: Mapping[str, type[Executor]] = {"local": LocalExecutor}

__all__ = [
    "EXECUTORS",
    "CellEnded",
    "CellProgress",
    "CellStarted",
    "Event",
    "Executor",
    "LocalExecutor",
    "OnEvent",
    "Told",
]
