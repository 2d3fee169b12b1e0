"""A summary -> its figures, each as PNG, as SVG, and twice as SVG to stand inside a page: for a desk and a phone.

Knows nothing of files. matplotlib is loaded when a figure is drawn and not before, so that a report that draws
nothing starts quickly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from handful.report.figures.costs import draw_costs, has_costs
from handful.report.figures.differences import Part, draw_differences, height, parts_of
from handful.report.figures.errors import draw_errors
from handful.report.figures.inline import inline
from handful.report.figures.style import (
    BAD,
    DASHES,
    GREY,
    PAPER,
    SERIES,
    Look,
    levels_of,
    looks_of,
    ramp,
    settings,
    swatch,
)
from handful.report.figures.training import draw_training, rows_with_curves, share_axes
from handful.report.wording import group_titles, level_label, printable
from handful.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

NAMES = ("error", "differences", "cost", "training")
"""Of the figures, and of their files."""


@dataclass(frozen=True)
class Format:
    """Where a figure is shown. width: inches. size: points of its text. has_legend: the page has one of its own."""

    width: float
    size: float
    has_legend: bool = False

    @property
    def is_narrow(self) -> bool:
        """For a phone."""
        return self.width < 5


FILE, DESK, PHONE = Format(7.2, 10, has_legend=True), Format(8.4, 10), Format(3.5, 8.6)


@dataclass(frozen=True)
class Figure:
    """One figure. wide, narrow: <svg> elements whose colours follow the page's CSS variables (see `style.THEME`).
    legend: (swatch, label) of what is in it. note: what a reader must know of this drawing."""

    title: str
    png: bytes
    svg: str
    wide: Markup
    narrow: Markup
    legend: tuple[tuple[Markup, str], ...]
    note: str = ""


@dataclass
class _Sheet:
    """One drawing in the making, and what was noted while it was drawn."""

    drawing: Drawing
    format: Format
    is_cut: bool = False


def draw(summary: Summary) -> dict[str, Figure]:
    """The figures that the records hold numbers for, by name; empty when no cell has an accuracy."""
    if not summary.has_results:
        return {}
    looks = looks_of(summary)
    shown = [(title, _shown(rows)) for title, rows in zip(group_titles(summary), summary.groups, strict=True)]
    shown = [(title, rows) for title, rows in shown if rows]
    costly = [(title, rows) for title, rows in shown if has_costs(rows)]
    legend = _legend(summary, looks)
    figures = {"error": _figure(
        "error", "Error against number of labels",
        lambda sheet: _draw_panels(sheet, summary, shown, looks, legend, draw_errors), legend)}
    parts = parts_of(summary, group_titles(summary))
    if parts:  # one row alone differs from nothing
        figures["differences"] = _figure(
            "differences", "Paired differences", lambda sheet: _draw_forest(sheet, parts), _forest_legend(parts))
    if costly:
        figures["cost"] = _figure(
            "cost", "Error against time of training",
            lambda sheet: _draw_panels(sheet, summary, costly, looks, legend, draw_costs), legend)
    if rows_with_curves(summary):
        numbers = _number_legend(summary)
        figures["training"] = _figure(
            "training", "Losses by updates", lambda sheet: _draw_curves(sheet, summary, numbers), numbers)
    return figures


def _shown(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if any(cell.accuracy is not None for cell in row.cells.values())]


Legend = list[tuple[str, Look]]


def _figure(name: str, title: str, fill_sheet: Callable[[_Sheet], None], legend: Legend) -> Figure:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing

    made = {}
    cut = False
    for format_ in (FILE, DESK, PHONE):
        with rc_context(settings(format_.size)), warnings.catch_warnings():
            # A glyph that the font lacks shows as a box in the PNG; the SVG holds the text itself.
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
            sheet = _Sheet(Drawing(layout="constrained"), format_)
            fill_sheet(sheet)
            made[format_] = _saved(sheet.drawing, "svg")
            if format_ is FILE:
                png = _saved(sheet.drawing, "png")
            cut = cut or sheet.is_cut
    return Figure(
        title=title,
        png=png,
        svg=made[FILE].decode(),
        # matplotlib escapes the texts in its SVG.
        wide=Markup(inline(made[DESK].decode(), f"{name}-wide", title)),
        narrow=Markup(inline(made[PHONE].decode(), f"{name}-narrow", title)),
        legend=tuple((swatch(look), label) for label, look in legend),
        note="An error of 0 has no place on a log axis: it is drawn at half a text." if cut else "",
    )


def _saved(drawing: Drawing, kind: str) -> bytes:
    stream = BytesIO()
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    drawing.savefig(stream, format=kind, dpi=160, facecolor=PAPER, metadata=metadata)
    return stream.getvalue()


def _draw_panels(
    sheet: _Sheet,
    summary: Summary,
    groups: Sequence[tuple[str, Sequence[Row]]],
    looks: dict[str, Look],
    legend: Legend,
    draw_panel: Callable[..., Any],
) -> None:
    """One panel for each data source, one above the other."""
    narrow = sheet.format.is_narrow
    height = 3.5 if narrow else 4.6
    panels = _panels(sheet, len(groups), 1, height, legend)
    for panel, (title, rows) in zip(panels, groups, strict=True):
        sheet.is_cut |= draw_panel(panel, summary, rows, looks).is_cut
        panel.set_title(fill(printable(title), 36 if narrow else 76), loc="left")


def _draw_forest(sheet: _Sheet, parts: Sequence[Part]) -> None:
    narrow = sheet.format.is_narrow
    (panel,) = _panels(sheet, 1, 1, height(parts, narrow), _forest_legend(parts))
    draw_differences(panel, parts, narrow)


def _forest_legend(parts: Sequence[Part]) -> Legend:
    lines = [(line, part.is_declared) for part in parts for line in part.lines]
    entries: Legend = []
    if any(line.is_told for line, _ in lines):
        entries.append(("the data tell it from none", Look(SERIES[0], "o", "-")))
    if not all(line.is_told for line, _ in lines):
        entries.append(("can't tell", Look(GREY, "o", "-")))
    return entries


def _draw_curves(sheet: _Sheet, summary: Summary, legend: Legend) -> None:
    rows = rows_with_curves(summary)
    narrow = sheet.format.is_narrow
    num_columns = 1 if narrow else 2 if len(rows) in (2, 4) else min(3, len(rows))
    num_lines = -(-len(rows) // num_columns)
    panels = _panels(sheet, num_lines, num_columns, 1.9 if narrow else 2.5, legend)
    for panel, row in zip(panels, rows, strict=False):
        draw_training(panel, row, summary.columns, title_width=40 if narrow else 84 // num_columns)
    share_axes(panels[: len(rows)], rows)
    for place, panel in enumerate(panels):
        if place >= len(rows):
            panel.set_axis_off()
            continue
        if place % num_columns == 0:
            panel.set_ylabel("loss, nats")
        if place + num_columns >= len(rows):
            panel.set_xlabel("update")


def _panels(sheet: _Sheet, num_lines: int, num_columns: int, height: float, legend: Legend) -> list[Any]:
    """Empty panels from left to right and top to bottom, `height` inches each, and a legend if there is to be one."""
    total = height * num_lines
    if sheet.format.has_legend:
        labels = [fill(label, 70) for label, _ in legend]
        ncols = 2 if all(len(label) <= 34 for label in labels) else 1
        lines = sum(label.count("\n") + 1 for label in labels)
        total += 0.19 * -(-lines // ncols) + 0.2
        # matplotlib leaves labels that begin with an underscore out of a legend.
        labels = [f" {label}" if label.startswith("_") else label for label in labels]
        handles = [_handle(look) for _, look in legend]
        sheet.drawing.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
    sheet.drawing.set_size_inches(sheet.format.width, total)
    return list(sheet.drawing.subplots(num_lines, num_columns, squeeze=False).flat)


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash, linewidth=1.8, markersize=5.5)


def _legend(summary: Summary, looks: dict[str, Look]) -> Legend:
    entries: Legend = []
    for rows in summary.groups:
        shown = _shown(rows)
        names = {row.label for row in shown}
        for level in levels_of(summary, rows[0].group):
            if level.label in names or any(row.label in names for row in getattr(level, "rows", ())):
                entries.append((printable(level_label(level)), looks[level.label]))
        entries += [(printable(row.label), looks[row.label]) for row in shown if row.reads_labels]
    return entries


def _number_legend(summary: Summary) -> Legend:
    rows = rows_with_curves(summary)
    entries: Legend = [
        (f"N = {number:,}", Look(ramp(place, len(summary.columns)), "", "-"))
        for place, number in enumerate(summary.columns)
        if any(run.curve for row in rows for run in row.cells[number].runs)
    ]
    runs = [run for row in rows for cell in row.cells.values() for run in cell.runs if run.curve]
    entries += [("selection log-loss, kept update", Look(GREY, "o", "-")), ("training loss", Look(GREY, "", DASHES[2]))]
    if any(run.diverged for run in runs):
        entries.append(("diverged", Look(BAD, "X", "-")))
    return entries
