"""The cost plane: error against the time that training took, both on log axes; larger markers read more labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from handful.report.figures.errors import Heights, draw_level
from handful.report.figures.style import GRID, PAPER, Look, error_axis, levels_of, tidy
from handful.report.wording import seconds as in_words
from handful.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 1.6
"""Factor between the shortest and longest time and the ends of the axis."""
SMALLEST, LARGEST = 22.0, 130.0
"""Areas of a marker, in square points."""
TIMES = {
    0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min",
    3600.0: "1 h", 36000.0: "10 h", 864000.0: "10 days",
}
"""Ticks, by seconds."""
BETWEEN = {3.0: "3 s", 180.0: "3 min", 1800.0: "30 min", 10800.0: "3 h"}
"""More of them for a short axis; 30 s would stand too near to a minute."""


def has_costs(rows: Sequence[Row]) -> bool:
    """Whether a cell that reads labels has both an accuracy and a training time."""
    return any(_points(row) for row in rows)


def draw_costs(panel: Axes, summary: Summary, rows: Sequence[Row], looks: Mapping[str, Look]) -> Heights:
    """Draws the rows of one data source; gives the errors that it drew."""
    heights = Heights(max(summary.protocol.num_test, default=1))
    tidy(panel)
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_xscale("log")
    times = [seconds for row in rows for _, seconds, _ in _points(row)]
    extent = min(times) / MARGIN, max(times) * MARGIN
    for level in levels_of(summary, rows[0].group):
        draw_level(panel, level, looks[level.label], extent, heights)
    areas = marker_areas(summary.columns)
    for row in rows:
        points = _points(row)
        if not points:
            continue
        look = looks[row.label]
        x, y = [seconds for _, seconds, _ in points], [heights(accuracy) for *_, accuracy in points]
        panel.plot(x, y, color=look.colour, linestyle=look.dash, linewidth=1.3, zorder=2)
        panel.scatter(
            x, y, s=[areas[number] for number, *_ in points], color=look.colour, marker=look.marker, zorder=3,
            edgecolors=PAPER, linewidths=0.7,
        )
    error_axis(panel, heights.drawn, heights.ends)
    _time_axis(panel, extent)
    return heights


def marker_areas(columns: Sequence[int]) -> dict[int, float]:
    """Number of labels -> area of its marker."""
    steps = max(1, len(columns) - 1)
    return {number: SMALLEST + (LARGEST - SMALLEST) * place / steps for place, number in enumerate(columns)}


def _points(row: Row) -> list[tuple[int, float, float]]:
    """(number of labels, mean training seconds, mean accuracy) of each cell that has all three."""
    return [
        (number, cell.train_seconds, cell.accuracy.estimate)
        for number, cell in row.cells.items()
        if cell.reads_labels and cell.accuracy is not None and cell.train_seconds
    ]


def _time_axis(panel: Axes, extent: tuple[float, float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = extent
    panel.set_xlim(low, high)
    ticks = {time: words for time, words in TIMES.items() if low <= time <= high}
    if len(ticks) < 4:
        ticks = {time: words for time, words in (TIMES | BETWEEN).items() if low <= time <= high}
    if len(ticks) < 2:
        ticks = {time: in_words(time) for time in (low * MARGIN, high / MARGIN)}
    panel.xaxis.set_major_locator(FixedLocator(list(ticks)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels(list(ticks.values()))
    panel.set_xlabel("time of training")
