"""Numbers of a study -> a terminal table, Markdown, one self-contained HTML page, figures, LaTeX and CSV.

FAMILY: a format is a function from a summary to text, in `FORMATS` for reading or in `TABLES` for other programs;
the next one is a file here and a line there. Knows nothing of runs or torch, and loads matplotlib only when a
figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from handful.files import replace_file
from handful.report import html, latex, long_csv, markdown, terminal
from handful.report.figures import NAMES, Figure, draw
from handful.report.texts import Lookup, excerpts
from handful.results import StudyFolder
from handful.summary import Summary, summarise

__all__ = ["FORMATS", "TABLES", "Format", "Lookup", "print_table", "write_report"]

Format = Callable[[Summary], str]

FORMATS: dict[str, Format] = {
    "terminal": terminal.render,
    "markdown": markdown.render,
    "html": html.render,
}
TABLES: dict[str, tuple[str, Format]] = {
    "latex": ("table.tex", latex.render),
    "csv": ("table.csv", long_csv.render),
}
"""name -> (file, format)"""

MOST_BYTES = 3_000_000
"""Of a page. Training curves are what grows most with a study: beyond this they are left to their own files."""
TEXT_LENGTH = 300
"""Characters of a test text that a page shows at most."""


def print_table(summary: Summary, console: Console) -> None:
    """Shows the table, what is unfinished, and the footnotes, as wide as the console."""
    console.print(terminal.layout(summary, console.width))


def write_report(
    folder: StudyFolder,
    lookup: Lookup | None = None,
    text_length: int = TEXT_LENGTH,
    tables: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Writes report.md, report.html, and each figure as PNG and SVG once there are numbers for it.

    lookup: where the texts of errors come from; None leaves them out. tables: further files to write, by their
    names in `TABLES`. Each file is replaced by an atomic rename. A figure of results that are gone is removed.
    Returns the paths written. Raises StudyError when the folder is no study.
    """
    summary = summarise(folder)
    figures = draw(summary)
    texts = {} if lookup is None else excerpts(summary, lookup, text_length)
    contents = {
        "report.md": markdown.render(summary).encode(),
        "report.html": _page(summary, figures, texts),
    }
    for name in NAMES:
        if name in figures:
            contents |= {f"{name}.png": figures[name].png, f"{name}.svg": figures[name].svg.encode()}
        else:
            for left in (f"{name}.png", f"{name}.svg"):
                (folder.path / left).unlink(missing_ok=True)
    for name in tables:
        file, render = TABLES[name]
        contents[file] = render(summary).encode()
    for name, content in contents.items():
        replace_file(folder.path / name, partial(_write, content))
    return tuple(folder.path / name for name in contents)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _page(summary: Summary, figures: Mapping[str, Figure], texts: html.Excerpts) -> bytes:
    whole = html.page(summary, figures, texts).encode()
    if len(whole) <= MOST_BYTES or "training" not in figures:
        return whole
    rest = {name: figure for name, figure in figures.items() if name != "training"}
    return html.page(summary, rest, texts).encode()
