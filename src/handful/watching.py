"""A study shown while it runs: what has ended, what runs, and how long it all still takes.

Knows nothing of how anything is run: it listens to an executor's events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from handful.executors import CellEnded, CellProgress, CellStarted, Event, Told
from handful.report.wording import seconds as duration


class Pace:
    """How long a study still takes: estimates of its cells, corrected by how long finished ones took.

    seconds: spec_id -> estimate, of the cells that are to be run.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._open = dict(seconds)
        self._estimated = 0.0
        self._taken = 0.0

    def ended(self, spec_id: str, seconds: float) -> None:
        """A cell ended after so many seconds."""
        self._estimated += self._open.pop(spec_id, 0.0)
        self._taken += seconds

    def remaining(self, spec_id: str, elapsed: float) -> float | None:
        """Seconds left, `elapsed` of them gone in the current cell; None when nothing is known."""
        if not self._open:
            return None
        ratio = self._taken / self._estimated if self._estimated and self._taken else 1.0
        current = self._open.get(spec_id, 0.0)
        others = sum(self._open.values()) - current
        return ratio * others + max(ratio * current - elapsed, 0.0)


@contextmanager
def watched(console: Console, seconds: Mapping[str, float]) -> Iterator[Callable[[Event], None]]:
    """A listener that shows a study: two bars on a terminal, one line a cell elsewhere."""
    pace = Pace(seconds)
    bars = _Bars(console, pace) if console.is_terminal else None
    label = spec_id = ""

    def show(event: Event) -> None:
        nonlocal label, spec_id
        if isinstance(event, CellStarted):
            label, spec_id = event.label, event.spec.spec_id
        if isinstance(event, CellEnded):
            pace.ended(spec_id, event.seconds)
        if bars is not None:
            bars.update(event)
        if isinstance(event, Told):
            console.print(Text(event.line), soft_wrap=True)
        if isinstance(event, CellEnded):
            line = Text(f"[{event.index}/{event.total}] {label}: ")
            line.append(event.status, style="green" if event.status == "finished" else "red")
            line.append(f" in {duration(event.seconds)}")
            if event.reason:
                line.append(f": {event.reason}", style="red")
            console.print(line, soft_wrap=True)

    if bars is None:
        yield show
    else:
        with bars.progress:
            yield show


class _Bars:
    """One bar for the study, one for the cell."""

    def __init__(self, console: Console, pace: Pace) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=14),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
        )
        self._pace = pace
        self._study = self.progress.add_task("study", total=None, count="", left="")
        self._cell = self.progress.add_task("", total=None, count="", left="", visible=False)
        self._label = self._spec_id = ""
        self._start = time.monotonic()

    def update(self, event: Event) -> None:
        """Moves the bars."""
        if isinstance(event, CellStarted):
            self._label, self._spec_id, self._start = event.label, event.spec.spec_id, time.monotonic()
            before = event.index - 1
            self.progress.update(
                self._study, total=event.total, completed=before, count=f"{before}/{event.total}"
            )
            # reset forgets the fields, so each is given again
            self.progress.reset(
                self._cell, total=None, description=event.label, count="", left="", visible=True
            )
        elif isinstance(event, CellProgress):
            share = f"{event.done / event.total:4.0%}" if event.total else ""
            self.progress.update(
                self._cell,
                total=event.total or None,
                completed=event.done,
                description=self._label,
                count=f"{event.stage} {share}",
            )
        elif isinstance(event, CellEnded):
            self.progress.update(self._study, completed=event.index, count=f"{event.index}/{event.total}")
            self.progress.update(self._cell, visible=False)
            self._spec_id, self._start = "", time.monotonic()
        left = self._pace.remaining(self._spec_id, time.monotonic() - self._start)
        if left is not None:
            self.progress.update(self._study, left=f"{duration(left)} left")
