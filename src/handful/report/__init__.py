"""Numbers of a study -> a terminal table, Markdown, one self-contained HTML page, and a figure.

FAMILY: a format is a function from a summary to text, in `FORMATS`; the next one is a file here and a line
there. Knows nothing of runs or torch, and loads matplotlib only when a figure is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from handful.report import html, markdown, terminal
from handful.report.figure import draw
from handful.results import StudyFolder
from handful.summary import Summary, summarise

__all__ = ["FORMATS", "Format", "print_table", "write_report"]

Format = Callable[[Summary], str]

FORMATS: dict[str, Format] = {
    "terminal": terminal.render,
    "markdown": markdown.render,
    "html": html.render,
}


def print_table(summary: Summary, console: Console) -> None:
    """Shows the table, what is unfinished, and the footnotes, as wide as the console."""
    console.print(terminal.layout(summary, console.width))


def write_report(folder: StudyFolder) -> tuple[Path, ...]:
    """Writes report.md and report.html, and accuracy.png and accuracy.svg once a cell has an accuracy.

    Each file is replaced by an atomic rename. A figure of results that are gone is removed. Returns the paths
    written. Raises StudyError when the folder is no study.
    """
    summary = summarise(folder)
    figures = draw(summary)
    contents = {
        "report.md": markdown.render(summary).encode(),
        "report.html": html.page(summary, figures).encode(),
    }
    if figures is not None:
        contents |= {"accuracy.png": figures.png, "accuracy.svg": figures.svg.encode()}
    else:
        for name in ("accuracy.png", "accuracy.svg"):
            (folder.path / name).unlink(missing_ok=True)
    return tuple(_write(folder.path / name, content) for name, content in contents.items())


def _write(target: Path, content: bytes) -> Path:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
