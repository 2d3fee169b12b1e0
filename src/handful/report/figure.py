"""A summary -> the accuracy-against-labels figure, as PNG, as SVG, and as SVG to stand inside a page.

Knows nothing of files. matplotlib is loaded when a figure is drawn and not before, so that a report that
draws nothing starts quickly.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

from handful.report.wording import group_titles, printable
from handful.statistics import Interval
from handful.summary import Cell, Row, Summary

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer

INK, GRID, GREY, PAPER = "#1f2933", "#d5dae0", "#7b8794", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito (2008), told apart by colour-blind readers; without yellow, too pale on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
Dash = str | tuple[float, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
DODGE = 0.035
"""Sideways shift between rows, as a part of a decade, so that their intervals do not cover each other."""
LEGEND_WIDTH = 76
"""Characters that fit side by side under the figure."""
WIDEST = 0.18
"""All shifts together, in decades: many rows still stand at their number of labels."""

_THEME = {INK: "--ink", GRID: "--grid", GREY: "--grey", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}


@dataclass(frozen=True)
class Figures:
    """The same figure three times. inline: an <svg> element whose colours follow the page's CSS variables
    (--ink, --grid, --grey, --paper, --series-1 to --series-6); it refers to nothing outside itself."""

    png: bytes
    svg: str
    inline: str


def draw(summary: Summary) -> Figures | None:
    """Draws accuracy in percent against number of labels, one panel for each data source.

    Rows that read no labels are horizontal lines with a band; rows without a language model are grey. None
    when no cell has an accuracy.
    """
    if not summary.has_results:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    titled = zip(group_titles(summary), summary.groups, strict=True)
    groups = [(title, rows) for title, rows in titled if _shown(rows)]
    legends = [_legend_labels(_shown(rows)) for _, rows in groups]
    num_lines = max(-(-sum(label.count("\n") + 1 for label in labels) // ncols) for labels, ncols in legends)
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "handful",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "xtick.color": INK,
        "ytick.color": INK,
        # A label is text: a dollar sign in it starts no formula.
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A glyph that the font lacks shows as a box in the PNG; the SVG holds the text itself.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        height = 3.9 + 0.2 * num_lines
        figure = Figure(figsize=(7.2, height * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
        for panel, (title, rows) in zip(panels, groups, strict=True):
            _draw_panel(panel, rows, summary.columns)
            panel.set_title(fill(printable(title), LEGEND_WIDTH), loc="left", fontsize=11)
        png, svg = BytesIO(), BytesIO()
        figure.savefig(png, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})
        figure.savefig(svg, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    return Figures(png.getvalue(), text, _inline(text))


def _shown(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if any(cell.accuracy is not None for cell in row.cells.values())]


def _draw_panel(panel: Axes, rows: Sequence[Row], columns: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    # The log axis has no place for 0 labels; a row there reads none, and is a horizontal line.
    ticks = [number for number in columns if number > 0] or [1]
    low, high = ticks[0] / 1.35, ticks[-1] * 1.35
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    handles: list[Artist | ErrorbarContainer] = []
    shown = _shown(rows)
    curves = [row for row in shown if row.reads_labels]
    coloured = [row for row in curves if row.uses_model]
    for row in shown:
        if row.reads_labels:
            place = curves.index(row)
            marker = MARKERS[place % len(MARKERS)]
            if row.uses_model:
                turn, hue = divmod(coloured.index(row), len(SERIES))
                colour, dash = SERIES[hue], DASHES[turn % len(DASHES)]
            else:
                colour, dash = GREY, DASHES[1]
            shift = 10 ** (min(DODGE, WIDEST / len(curves)) * (place - (len(curves) - 1) / 2))
            handles.append(_draw_curve(panel, row, colour, marker, dash, shift))
        else:
            place = [other for other in shown if not other.reads_labels].index(row)
            handles.append(_draw_level(panel, row, (low, high), DASHES[place % len(DASHES)]))
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([f"{tick:,}" for tick in ticks] if any(columns) else [""])
    panel.set_xlabel("labelled texts, training and selection")
    panel.set_ylabel("accuracy on the test texts, %")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    labels, ncols = _legend_labels(shown)
    panel.legend(
        handles, labels, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False,
        fontsize=9,
    )


def _legend_labels(rows: Sequence[Row]) -> tuple[list[str], int]:
    """The labels of a legend, long ones folded, and how many columns they leave room for."""
    labels = [printable(row.label) + ("" if row.reads_labels else " (reads no labels)") for row in rows]
    # matplotlib leaves labels that begin with an underscore out of a legend.
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    ncols = 2 if all(len(label) <= LEGEND_WIDTH // 2 for label in labels) else 1
    return [fill(label, LEGEND_WIDTH, drop_whitespace=False) for label in labels], ncols


def _draw_curve(
    panel: Axes, row: Row, colour: str, marker: str, dash: Dash, shift: float
) -> ErrorbarContainer:
    cells = [cell for number, cell in row.cells.items() if number > 0]
    x = [cell.num_labels * shift for cell in cells]
    y, below, above = _heights(cells)
    return panel.errorbar(
        x, y, yerr=[below, above], color=colour, marker=marker, markersize=5.5, linestyle=dash,
        linewidth=1.8, elinewidth=1.2, capsize=2.5,
    )


def _draw_level(panel: Axes, row: Row, extent: tuple[float, float], dash: Dash) -> Artist:
    cell = next(cell for cell in row.cells.values() if cell.accuracy is not None)
    (height,), (below,), (above,) = _heights([cell])
    panel.fill_between(extent, height - below, height + above, color=INK, alpha=0.1, linewidth=0)
    (line,) = panel.plot(extent, [height, height], color=INK, linestyle=dash, linewidth=1.4)
    return line


def _heights(cells: Sequence[Cell]) -> tuple[list[float], list[float], list[float]]:
    """(accuracy, distance to the lower end, distance to the upper end), in percent.

    NaN for a cell without an accuracy: a gap in the line, where a failed cell would else be bridged.
    """
    intervals = [cell.accuracy or Interval(math.nan, math.nan, math.nan) for cell in cells]
    # Rounding can put an end a hair on the wrong side of the estimate, which matplotlib refuses.
    return (
        [100 * some.estimate for some in intervals],
        [100 * max(some.estimate - some.low, 0.0) for some in intervals],
        [100 * max(some.high - some.estimate, 0.0) for some in intervals],
    )


def _inline(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Its style sheet would hold for the whole page; the page says the same for the figure alone.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:width|height|xmlns|xmlns:xlink)="[^"]*"', "", head)
    svg = f'{head} role="img" aria-label="Accuracy against number of labels">{rest}'
    return re.sub(r"<[^>]*>", _themed, svg)


def _themed(tag: re.Match[str]) -> str:
    text = tag.group().replace("xlink:href", "href")
    for colour, variable in _THEME.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text
