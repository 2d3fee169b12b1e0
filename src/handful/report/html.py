"""A summary -> one HTML page that opens offline: styles and figures inside, no script, no request.

Knows nothing of files but its own template. Everything from records passes through jinja2's escaping; figures are
the one kind of markup that does not, and their texts are escaped where they are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from handful.report import wording
from handful.report.figures import NAMES, Figure, draw
from handful.report.figures.training import rows_with_curves
from handful.report.findings import (
    claim_sentences,
    equivalence_sentences,
    explores,
    findings,
    gain_sentences,
    without_curve,
)
from handful.report.provenance import protocol_lines, provenance_lines
from handful.report.setup import setup_sentences
from handful.report.tables import (
    Table,
    claims_table,
    components_table,
    cost_table,
    differences_table,
    diverged_lines,
    epochs_table,
    equivalences_table,
    facts_table,
    learning_table,
    numbers_table,
    overlap_lines,
    pivot_mark,
    pivot_title,
    published_sentences,
    published_table,
    shared_text_facts,
    texts_table,
)
from handful.summary import Cell, Mistake, Mistakes, Pivot, Spread, Summary

Excerpts = Mapping[tuple[int, str], str]
"""(group, id) -> a shortened text."""


def render(summary: Summary) -> str:
    """The whole page as text, figures drawn, without texts."""
    return page(summary, draw(summary), {})


def page(summary: Summary, figures: Mapping[str, Figure], excerpts: Excerpts) -> str:
    """The whole page as text, around figures that are drawn already; a figure that is not there is left out."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_clean
    )
    return environment.from_string(_shipped("page.html")).render(
        name=summary.name,
        style=Markup(_shipped("page.css")),
        progress=wording.progress(summary),
        findings=findings(summary),
        claims=claim_sentences(summary),
        gains=gain_sentences(summary),
        equivalences=equivalence_sentences(summary),
        without_curve=without_curve(summary),
        components=_table(components_table(summary)),
        epochs=_table(epochs_table(summary)),
        published=_table(published_table(summary)),
        about_published=published_sentences(summary),
        setup=setup_sentences(summary),
        notes=[note for note in (explores(summary), *summary.provenance.plan_notes) if note],
        protocol=protocol_lines(summary),
        figures={name: figures.get(name) for name in NAMES},
        has_curves=bool(rows_with_curves(summary)),
        has_levels=any(not row.reads_labels for row in summary.rows),
        columns=[f"{number:,}" for number in summary.columns],
        smallest=f"{summary.columns[0]:,}" if summary.columns else "",
        largest=f"{summary.columns[-1]:,}" if summary.columns else "",
        groups=_groups(summary),
        unfinished=[
            (title, wording.unfinished_lines(entries))
            for title, entries in (("Failed", summary.failures), ("Missing", summary.missing)) if entries
        ],
        footnotes=wording.footnotes(summary),
        pivots=[_pivot(pivot, summary.columns) for pivot in summary.pivots],
        costs=_table(cost_table(summary)),
        diverged=diverged_lines(summary),
        shared_texts=[*shared_text_facts(summary), *overlap_lines(summary)] if summary.has_results else [],
        texts=_table(texts_table(summary)),
        mistakes=[_mistakes(summary, part, excerpts) for part in summary.mistakes],
        provenance=provenance_lines(summary),
        tables=_folded_tables(summary),
    ).lstrip()


def _shipped(name: str) -> str:
    return files(__package__ or "handful.report").joinpath(name).read_text(encoding="utf-8")


def _groups(summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "rows": [
                (wording.row_title(row), [_shown(row.cells[number], wording.mark(row.cells[number]))
                                          for number in summary.columns])
                for row in rows
            ],
            "spreads": [
                (wording.spread_title(spread), [_spread_cell(spread, number) for number in summary.columns])
                for spread in summary.spreads if spread.group == rows[0].group
            ],
        }
        for title, rows in zip(wording.group_titles(summary), summary.groups, strict=True)
    ]


def _shown(cell: Cell, mark: str) -> dict[str, str]:
    accuracy = cell.accuracy
    return {
        "kind": mark or ("plain" if accuracy else cell.status.replace(" ", "-")),
        "estimate": wording.percent(accuracy.estimate) if accuracy else "",
        "bounds": wording.bounds(accuracy) if accuracy else "",
        "mark": mark,
        "state": wording.state(cell),
        "kept": wording.kept_words(cell),
    }


def _spread_cell(spread: Spread, number: int) -> tuple[str, str]:
    cell = spread.cells.get(number)
    if cell is None:
        return wording.ABSENT, ""
    return wording.percent(cell.mean), wording.spread_range(cell, len(spread.rows))


def _pivot(pivot: Pivot, columns: Sequence[int]) -> dict[str, Any]:
    rows = [
        (value, [_shown(row.cells[number], pivot_mark(pivot, place, number)) for number in columns])
        for place, (value, row) in enumerate(zip(pivot.values, pivot.rows, strict=True))
    ]
    return {"title": pivot_title(pivot), "corner": ", ".join(pivot.knobs), "rows": rows}


def _mistakes(summary: Summary, part: Mistakes, excerpts: Excerpts) -> dict[str, Any]:
    titles = dict(zip((rows[0].group for rows in summary.groups), wording.group_titles(summary), strict=True))
    about = (
        f"Of {wording.plural(part.num_texts, 'test text')} at N = {part.num_labels:,}, {part.num_all_wrong:,} are "
        f"wrong in every run of all {len(part.rows)} methods; on {part.num_disagree:,} methods disagree: one is right "
        "in all its runs, another wrong in all of them."
    )
    shown = [mistake.id for mistake in (*part.all_wrong, *part.disagree)]
    if shown and not any((part.group, name) in excerpts for name in shown):
        about += " The texts are not on this page."
    kinds = [
        (_heading(title, entries, number), [_mistake(mistake, part, excerpts) for mistake in entries])
        for title, entries, number in (
            ("All methods err", part.all_wrong, part.num_all_wrong),
            ("Methods disagree", part.disagree, part.num_disagree),
        ) if entries
    ]
    return {"title": titles.get(part.group, ""), "about": about, "kinds": kinds}


def _heading(title: str, entries: Sequence[Mistake], number: int) -> str:
    return f"{title}: {number:,}" if len(entries) == number else f"{title}: {len(entries)} of {number:,}"


def _mistake(mistake: Mistake, part: Mistakes, excerpts: Excerpts) -> dict[str, Any]:
    divided = [
        f"{row} ({given.get(mistake.label, 0)} of {sum(given.values())} right)"
        for row, given in mistake.answers.items() if row not in (*mistake.right, *mistake.wrong)
    ]
    # Of two labels, the wrong one goes without saying.
    wrong = [
        row if part.num_label_names == 2 else f"{row} ({' or '.join(given)})"
        for row, given in mistake.answers.items() if row in mistake.wrong
    ]
    if len(wrong) == len(mistake.answers):
        said = dict.fromkeys(label for given in mistake.answers.values() for label in given)
        answers = [("all say", "wrong", " or ".join(said))]
    else:
        answers = [
            (word, kind, ", ".join(rows))
            for word, kind, rows in (
                ("right:", "right", mistake.right), ("wrong:", "wrong", wrong), ("divided:", "divided", divided),
            ) if rows
        ]
    return {
        "id": mistake.id,
        "text": excerpts.get((part.group, mistake.id), ""),
        "label": mistake.label,
        "answers": answers,
    }


def _folded_tables(summary: Summary) -> list[dict[str, Any]]:
    tables = (
        ("Claims, one by one", "What the study declared before it ran; Holm's p counts all that have one.",
         claims_table(summary)),
        ("Learning curves", "An inverse power law fitted to the mean errors over seeds, read to twice the largest N.",
         learning_table(summary)),
        ("Labels worth labels", "Where the learning curve of the one meets the error of the other.",
         equivalences_table(summary)),
        ("All numbers", "", numbers_table(summary)),
        ("Paired differences", "Row minus the one it is set against, paired by seed and by test text; exploratory "
         "where it is no claim. Detectable: the smallest difference that such data find with 80 % power at 5 %.",
         differences_table(summary)),
        ("Other facts", "What else the records note of data, model and prompt.", facts_table(summary)),
    )
    return [{"title": title, "note": note, **_table(table)} for title, note, table in tables if table[1]]


def _table(table: Table) -> dict[str, Any]:
    return {"head": table[0], "rows": table[1]}


def _clean(value: Any) -> Any:
    """Texts without control characters; markup and anything else as it is."""
    return wording.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
