"""What every executor looks like from outside, and what it tells while it works.

Knows nothing of grids or plans: it is given the cells that are to be run, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from handful.results import StudyFolder
from handful.run import RunSettings
from handful.spec import RunSpec


@dataclass(frozen=True)
class CellStarted:
    """A cell begins. index counts from 1 to total, over the cells that the executor was given."""

    index: int
    total: int
    label: str
    spec: RunSpec


@dataclass(frozen=True)
class CellProgress:
    """`done` of `total` steps of a stage ("load", "train", "test", ...) of the current cell."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class CellEnded:
    """A cell's record is on disk. status: "finished", or "failed" with a one-line reason. seconds: wall."""

    index: int
    total: int
    status: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Told:
    """A line for the person who waits, such as where a base lies and why."""

    line: str


Event = CellStarted | CellProgress | CellEnded | Told
OnEvent = Callable[[Event], None]


class Executor(Protocol):
    """A way to run cells; it writes one record for each, finished or failed."""

    name: ClassVar[str]

    def run(
        self, cells: Sequence[RunSpec], folder: StudyFolder, settings: RunSettings, on_event: OnEvent
    ) -> None:
        """Runs every cell; a cell that fails gets a failed record with its reason and stops no other.

        The caller holds the folder's lock. Raises StudyError when records cannot be written any more,
        and lets KeyboardInterrupt through: what has ended by then is on disk.
        """
        ...
