"""A summary -> one HTML page that opens offline: styles and figure inside, no script, no request.

Knows nothing of files but its own template. Everything from records passes through jinja2's escaping; the
figure is the one piece of markup that does not, and its texts are escaped where it is drawn.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from handful.report import wording
from handful.report.figure import Figures, draw
from handful.report.findings import findings
from handful.summary import Cell, Summary


def render(summary: Summary) -> str:
    """The whole page as text, figure drawn."""
    return page(summary, draw(summary))


def page(summary: Summary, figures: Figures | None) -> str:
    """The whole page as text, around a figure that is drawn already; None leaves its place out."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_clean
    )
    source = files(__package__ or "handful.report").joinpath("page.html").read_text(encoding="utf-8")
    groups = [
        {
            "title": title,
            "rows": [
                (wording.row_title(row), [_shown(row.cells[number]) for number in summary.columns])
                for row in rows
            ],
        }
        for title, rows in zip(wording.group_titles(summary), summary.groups, strict=True)
    ]
    tables = [
        ("Costs", "Means over seeds; a span where cells differ.", wording.cost_table(summary), False),
        ("Texts", "", wording.texts_table(summary), False),
        ("All numbers", "", wording.numbers_table(summary), True),
        ("Paired differences", "Row minus the one it is set against, paired by seed and by test text.",
         wording.differences_table(summary), True),
        ("Other facts", "What else the records note of data, model and prompt.",
         wording.facts_table(summary), True),
    ]
    return environment.from_string(source).render(
        name=summary.name,
        progress=wording.progress(summary),
        findings=findings(summary),
        notes=summary.provenance.plan_notes,
        protocol=wording.protocol_lines(summary),
        # The SVG is matplotlib's own output; its text nodes are escaped there.
        figure=Markup(figures.inline) if figures else None,
        columns=[f"{number:,}" for number in summary.columns],
        groups=groups,
        unfinished=[
            (title, wording.unfinished_lines(entries))
            for title, entries in (("Failed", summary.failures), ("Missing", summary.missing)) if entries
        ],
        footnotes=wording.footnotes(summary),
        tables=[
            {"title": title, "note": note, "head": head, "rows": rows, "folded": folded}
            for title, note, (head, rows), folded in tables if rows
        ],
        provenance=wording.provenance_lines(summary),
    )


def _shown(cell: Cell) -> dict[str, str]:
    accuracy = cell.accuracy
    if cell.is_best:
        kind = "best"
    elif cell.ties_best:
        kind = "tie"
    else:
        kind = "plain" if accuracy else cell.status.replace(" ", "-")
    return {
        "kind": kind,
        "estimate": wording.percent(accuracy.estimate) if accuracy else "",
        "bounds": wording.bounds(accuracy) if accuracy else "",
        "mark": wording.mark(cell),
        "state": wording.state(cell),
    }


def _clean(value: Any) -> Any:
    """Texts without control characters; markup and anything else as it is."""
    return wording.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
