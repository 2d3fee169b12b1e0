"""The main figure: error against number of labels, both on log axes.

A thin line for each seed, a thick one for their mean, a band for its 95 % interval. What reads no labels is a
horizontal line with a band: the range over prompts where there are several, else its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from handful.report.figures.style import INK, PAPER, Look, error_axis, levels_of, number_axis, tidy
from handful.report.wording import labels_words, printable
from handful.summary import Cell, Equivalence, Row, Spread, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DODGE = 1.06
"""Factor between single points at one number of labels, whose intervals would else cover each other."""

MANY = 6.0
"""With more curves than this, their bands and thin lines are drawn fainter, so that the means stay legible."""


class Heights:
    """Accuracies -> errors in percent, and all of them that were drawn, the ends of bands apart.

    A log axis has no place for 0: an error of 0 stands at half a text.
    """

    def __init__(self, num_test: int) -> None:
        self.floor = 50.0 / max(1, num_test)
        self.drawn: list[float] = []
        self.ends: list[float] = []
        self.is_cut = False

    def __call__(self, accuracy: float | None, is_end: bool = False) -> float:
        """NaN for None: a gap in the line, where a failed cell would else be bridged. is_end: of a band, which may
        leave the picture.
        """
        if accuracy is None:
            return math.nan
        error = 100.0 * (1.0 - accuracy)
        self.is_cut |= error < self.floor
        height = max(error, self.floor)
        (self.ends if is_end else self.drawn).append(height)
        return height


def draw_errors(panel: Axes, summary: Summary, rows: Sequence[Row], looks: Mapping[str, Look]) -> Heights:
    """Draws the rows of one data source; gives the errors that it drew."""
    heights = Heights(max(summary.protocol.num_test, default=1))
    extent = number_axis(panel, summary.columns)
    tidy(panel)
    for level in levels_of(summary, rows[0].group):
        draw_level(panel, level, looks[level.label], extent, heights)
    curves = [row for row in rows if row.reads_labels]
    for place, row in enumerate(curves):
        shift = DODGE ** (place - (len(curves) - 1) / 2)
        _draw_curve(panel, row, looks[row.label], heights, shift, faint=min(1.0, MANY / len(curves)))
    worth = worth_showing(summary, rows)
    for equivalence in worth:
        heights(1.0 - equivalence.error)
    error_axis(panel, heights.drawn, heights.ends)
    for equivalence in worth:
        _draw_equivalence(panel, equivalence, looks[equivalence.second], extent)
    return heights


def worth_showing(summary: Summary, rows: Sequence[Row]) -> list[Equivalence]:
    """For each row that others are measured by, the first pair's equivalence with the fewest labels, where that is more
    labels than the other needs."""
    labels = {row.label for row in rows}
    found: dict[str, Equivalence] = {}
    for equivalence in summary.equivalences:
        equal = equivalence.found
        if equal is not None and equivalence.first in labels and equal.low > equivalence.num_labels:
            found.setdefault(equivalence.second, equivalence)
    return list(found.values())


def _draw_equivalence(panel: Axes, equivalence: Equivalence, look: Look, extent: tuple[float, float]) -> None:
    """An arrow from the labels of one row to those of the other that give its error; open to the right where there are
    none within reach. A bar across its head is the interval."""
    equal = equivalence.found
    assert equal is not None
    error, right = 100.0 * equivalence.error, extent[1]
    end = min(equal.estimate, right)
    panel.annotate(
        "", (end, error), (equivalence.num_labels, error), zorder=6,
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkA": 4, "shrinkB": 0},
    )  # fmt: skip
    if equal.low < right:
        panel.hlines(error, max(equal.low, extent[0]), min(equal.high, right), color=look.colour, linewidth=5,
                     alpha=0.45, zorder=5)  # fmt: skip
    middle = math.sqrt(equivalence.num_labels * end)
    panel.annotate(
        printable(f"= {shortened(equivalence.second)} with {labels_words(equal.estimate, equal)}"), (middle, error),
        (0, 5), textcoords="offset points", ha="center", va="bottom", color=INK, zorder=7,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
    )  # fmt: skip


def shortened(label: str, length: int = 24) -> str:
    """A row's label as far as there is room beside an arrow."""
    return label if len(label) <= length else f"{label[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def draw_level(
    panel: Axes, level: Row | Spread, look: Look, extent: tuple[float, float], heights: Heights
) -> None:
    """A horizontal line with its band across `extent`; nothing when there is no number."""
    ends = level_ends(level)
    if ends is None:
        return
    mean = heights(ends[0])
    low, high = (heights(accuracy, is_end=True) for accuracy in ends[1:])
    alpha = 0.11 if isinstance(level, Spread) else 0.07
    panel.fill_between(extent, low, high, color=look.colour, alpha=alpha, linewidth=0)
    panel.plot(extent, [mean, mean], color=look.colour, linestyle=look.dash, linewidth=1.6)


def level_ends(level: Row | Spread) -> tuple[float, float, float] | None:
    """Accuracy, lower and upper end of what reads no labels: over prompts, or of its interval."""
    if isinstance(level, Spread):
        return next(((cell.mean, cell.low, cell.high) for cell in level.cells.values()), None)
    return next(
        ((cell.accuracy.estimate, cell.accuracy.low, cell.accuracy.high)
         for cell in level.cells.values() if cell.accuracy is not None), None)


def _draw_curve(panel: Axes, row: Row, look: Look, heights: Heights, shift: float, faint: float) -> None:
    cells = [cell for number, cell in row.cells.items() if number > 0]
    for stretch in _stretches(cells):
        x: list[float] = [cell.num_labels for cell in stretch]
        intervals = [cell.accuracy for cell in stretch if cell.accuracy is not None]
        mean = [heights(some.estimate) for some in intervals]
        low, high = ([heights(end, is_end=True) for end in ends] for ends in (
            [some.high for some in intervals], [some.low for some in intervals]
        ))  # fmt: skip
        if len(stretch) == 1:
            # A band needs two points.
            x = [x[0] * shift] if len(cells) == 1 else x
            panel.vlines(x, low, high, color=look.colour, linewidth=1.2)
        else:
            panel.fill_between(x, low, high, color=look.colour, alpha=0.13 * faint, linewidth=0)
        _draw_seeds(panel, stretch, x, look, heights, faint)
        panel.plot(
            x, mean, color=look.colour, marker=look.marker, markersize=5.5, linestyle=look.dash, linewidth=2.2,
            zorder=3,
        )


def _of_seed(cell: Cell, seed: int | None) -> float | None:
    """The accuracy with one sample of labels, a mean over starts where there are several."""
    found = [run.accuracy for run in cell.runs if run.seed == seed and run.accuracy is not None]
    return sum(found) / len(found) if found else None


def _draw_seeds(
    panel: Axes, cells: Sequence[Cell], x: Sequence[float], look: Look, heights: Heights, faint: float
) -> None:
    seeds = dict.fromkeys(run.seed for cell in cells for run in cell.runs)
    if len(seeds) < 2:
        return
    for seed in seeds:
        found = [_of_seed(cell, seed) for cell in cells]
        y = [heights(accuracy) for accuracy in found]
        marker = "_" if len(y) == 1 else ""
        panel.plot(x, y, color=look.colour, linewidth=0.9, alpha=0.75 * faint, marker=marker, markersize=7)


def _stretches(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells with an accuracy, side by side; a cell without one stands between two stretches."""
    found: list[list[Cell]] = [[]]
    for cell in cells:
        if cell.accuracy is not None:
            found[-1].append(cell)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]
