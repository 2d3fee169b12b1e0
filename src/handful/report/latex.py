r"""A summary -> the main table in LaTeX, with booktabs: \usepackage{booktabs} is all that it needs.

Knows nothing of files. Texts from records are escaped: they can make no command.
"""

from __future__ import annotations

from collections.abc import Sequence

from handful.report.setup import setup_sentences
from handful.report.wording import (
    ABSENT,
    bounds,
    footnotes,
    group_titles,
    percent,
    printable,
    spread_range,
    spread_title,
    state,
)
from handful.summary import Cell, Row, Spread, Summary

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\N{EN DASH}": "--", "\N{DAGGER}": r"\dag{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    # An opening bracket after \\ would be read as its argument.
    "[": "{[}", "]": "{]}",
}


def render(summary: Summary) -> str:
    """The paragraph on the experimental setup, and a table environment: accuracies in % with their 95 % intervals, best
    in bold, ties underlined."""
    num_columns = len(summary.columns)
    setup = setup_sentences(summary)
    lines = [
        r"% \usepackage{booktabs}",
        *([r"\paragraph{Experimental setup.}", *map(escape, setup), ""] if setup else []),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(summary.name)}. {escape(' '.join(_notes(summary)))}}}",
        r"\small",
        rf"\begin{{tabular}}{{p{{0.28\linewidth}}{'c' * num_columns}}}",
        r"\toprule",
        _line(["method", *(f"$N = {number:,}$".replace(",", "{,}") for number in summary.columns)]),
        r"\midrule",
    ]
    for place, (title, rows) in enumerate(zip(group_titles(summary), summary.groups, strict=True)):
        if place:
            lines.append(r"\midrule")
        if title:
            lines.append(_line([rf"\multicolumn{{{num_columns + 1}}}{{l}}{{\textit{{{escape(title)}}}}}"]))
        lines += [_row(row, summary.columns) for row in rows]
        lines += [_spread(spread, summary.columns) for spread in summary.spreads if spread.group == rows[0].group]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """The text for LaTeX, every special character printed as it is."""
    # Quotation marks come in pairs: the odd ones open.
    parts = printable(text).split('"')
    quoted = parts[0] + "".join(("``" if number % 2 == 0 else "''") + part for number, part in enumerate(parts[1:]))
    return "".join(_SPECIAL.get(letter, letter) for letter in quoted)


def _notes(summary: Summary) -> list[str]:
    marks = "Bold: the best of its column; underlined: not distinguishable from it."
    return [note for note in footnotes(summary) if not note.startswith(("epoch, update:", "best:"))] + [marks]


def _row(row: Row, columns: Sequence[int]) -> str:
    title = escape(row.label) if row.reads_labels else rf"{escape(row.label)}\,\dag{{}}"
    return _line([title, *(_cell(row.cells[number]) for number in columns)])


def _cell(cell: Cell) -> str:
    words = []
    if cell.accuracy is not None:
        estimate = percent(cell.accuracy.estimate)
        if cell.is_best:
            estimate = rf"\textbf{{{estimate}}}"
        elif cell.ties_best:
            estimate = rf"\underline{{{estimate}}}"
        words.append(rf"{estimate} {{\footnotesize {escape(bounds(cell.accuracy))}}}")
    if state(cell):
        words.append(rf"\textit{{{escape(state(cell))}}}")
    return " ".join(words)


def _spread(spread: Spread, columns: Sequence[int]) -> str:
    words = [escape(spread_title(spread))]
    for number in columns:
        cell = spread.cells.get(number)
        ends = rf"{{\footnotesize {escape(spread_range(cell, len(spread.rows)))}}}" if cell else ""
        words.append(f"{percent(cell.mean)} {ends}" if cell else escape(ABSENT))
    return _line(words)


def _line(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"
