"""Training curves: losses by updates, a panel for each row that has any, a colour for each number of labels.

Selection log-loss is a solid line with a mark at the update that was kept, the training loss a dotted one. Runs
that diverged are red and end in a cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from handful.report.figures.style import BAD, ramp, tidy
from handful.report.wording import printable
from handful.summary import Row, Run, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_AXIS = 12.0
"""From this ratio of most to fewest updates on, the axis is a log one."""


def rows_with_curves(summary: Summary) -> list[Row]:
    """The rows of which at least one run has a measured loss."""
    return [row for row in summary.rows if any(_losses(run) for cell in row.cells.values() for run in cell.runs)]


def draw_training(panel: Axes, row: Row, columns: Sequence[int], title_width: int) -> None:
    """Draws every run of a row."""
    tidy(panel)
    panel.set_title(fill(printable(row.label), title_width), loc="left")
    for place, number in enumerate(columns):
        for run in row.cells[number].runs:
            _draw_run(panel, run, ramp(place, len(columns)))


def share_axes(panels: Sequence[Axes], rows: Sequence[Row]) -> None:
    """The same updates and losses in all panels, as far as runs that did not diverge need them."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    runs = [run for row in rows for cell in row.cells.values() for run in cell.runs if _losses(run)]
    updates = [point.update for run in runs for point in run.curve]
    losses = [loss for run in runs if not run.diverged for loss in _losses(run)]
    losses = losses or [loss for run in runs for loss in _losses(run)]
    low, high = max(1, min(updates)), max(updates)
    for panel in panels:
        if high / low >= WIDE_AXIS:
            ticks = [tick for tick in _decades() if low / 1.3 <= tick <= high * 1.3]
            panel.set_xscale("log")
            panel.set_xlim(low / 1.3, high * 1.3)
            panel.xaxis.set_major_locator(FixedLocator(ticks))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticklabels([f"{tick:,}" for tick in ticks])
        else:
            panel.set_xlim(0, high * 1.05)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        margin = 0.06 * (max(losses) - min(losses)) or 0.1
        panel.set_ylim(max(0.0, min(losses) - margin), max(losses) + margin)


def _draw_run(panel: Axes, run: Run, colour: str) -> None:
    colour = BAD if run.diverged else colour
    trained = [(point.update, point.train_loss) for point in run.curve if point.train_loss is not None]
    selected = [
        (point.update, point.selection_log_loss) for point in run.curve if point.selection_log_loss is not None
    ]
    for points, style, width in ((trained, ":", 1.1), (selected, "-", 1.4)):
        if points:
            # A single point is no line.
            marker = "." if len(points) == 1 else ""
            panel.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=width, marker=marker)
    if run.diverged and (selected or trained):
        panel.plot(*(selected or trained)[-1], color=colour, marker="x", markersize=6, markeredgewidth=1.6)
    for update, loss in selected:
        if update == run.chosen_update:
            panel.plot(update, loss, color=colour, marker="o", markersize=4.5)


def _losses(run: Run) -> list[float]:
    return [
        loss for point in run.curve for loss in (point.train_loss, point.selection_log_loss) if loss is not None
    ]


def _decades() -> list[int]:
    return [step * 10**power for power in range(7) for step in (1, 3)]
