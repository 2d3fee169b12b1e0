"""A summary -> a rich table that is readable in 80 columns.

Best is bold, ties are underlined, and both are also said in words, for a terminal without styles. Knows
nothing of files. Texts from records are never read as markup.
"""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from handful.report.wording import (
    bounds,
    footnotes,
    group_titles,
    mark,
    percent,
    printable,
    progress,
    row_title,
    spread_range,
    spread_title,
    state,
    unfinished_lines,
)
from handful.summary import Cell, Row, Summary

WIDTH = 80
CELL_WIDTH = 12
"""Of "[75.1, 81.6]"; the estimate stands above it."""
LABEL_WIDTH = 22
"""At most; longer labels fold."""


def render(summary: Summary) -> str:
    """The layout as plain text in 80 columns, without styles."""
    stream = StringIO()
    Console(file=stream, width=WIDTH, color_system=None, legacy_windows=False).print(layout(summary, WIDTH))
    return stream.getvalue()


def layout(summary: Summary, width: int = WIDTH) -> RenderableType:
    """Title, tables (split by columns when they do not fit `width` characters), what is unfinished, notes."""
    parts: list[RenderableType] = [
        Text(f"{printable(summary.name)}: {progress(summary)}", style="bold"),
        Text(""),
    ]
    for name, rows in zip(group_titles(summary), summary.groups, strict=True):
        if name:
            parts.append(Text(printable(name), style="italic"))
        label_width = min(LABEL_WIDTH, max(len("method"), *(len(row_title(row)) for row in rows)))
        at_once = max(1, (width - label_width - 2) // (CELL_WIDTH + 2))
        for start in range(0, len(summary.columns), at_once):
            parts.append(_table(rows, summary.columns[start : start + at_once], label_width))
            parts.append(Text(""))
    for title, entries in (("Failed", summary.failures), ("Missing", summary.missing)):
        if entries:
            parts.append(Text(title, style="bold"))
            for where, reason in unfinished_lines(entries):
                line = f"- {printable(where)}" + (f": {printable(reason)}" if reason else "")
                parts.append(Padding(Text(line), (0, 0, 0, 2)))
            parts.append(Text(""))
    for spread in summary.spreads:
        ends = dict.fromkeys(
            f"{percent(cell.mean)} ({spread_range(cell, len(spread.rows))})"
            + (f" at N = {num_labels:,}" if spread.reads_labels else "")
            for num_labels, cell in spread.cells.items()
        )
        if ends:
            parts += [Text(printable(f"{spread_title(spread)}: {', '.join(ends)}")), Text("")]
    parts.extend(Text(printable(note), style="dim") for note in footnotes(summary))
    return Group(*parts)


def _table(rows: tuple[Row, ...], columns: tuple[int, ...], label_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("method", width=label_width, overflow="fold")
    for num_labels in columns:
        table.add_column(f"N = {num_labels:,}", width=CELL_WIDTH, overflow="fold")
    for row in rows:
        cells = [_cell(row.cells[num_labels]) for num_labels in columns]
        table.add_row(Text(printable(row_title(row))), *cells)
    return table


def _cell(cell: Cell) -> Text:
    text = Text()
    if cell.accuracy is not None:
        style = "bold" if cell.is_best else "underline" if cell.ties_best else ""
        text.append(percent(cell.accuracy.estimate), style=style)
        if mark(cell):
            text.append(f" {mark(cell)}")
        text.append(f"\n{bounds(cell.accuracy)}", style="dim")
    if state(cell):
        failed = cell.num_seeds_failed > 0
        text.append(("\n" if text else "") + state(cell), style="red" if failed else "yellow")
    return text
