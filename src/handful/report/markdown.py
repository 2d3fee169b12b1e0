"""A summary -> GitHub-flavoured Markdown with the same table, findings and provenance as the page.

Knows nothing of files, but for the name of the figure beside it. Texts from records are escaped: they can
make neither markup nor HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    claims_table,
    components_table,
    cost_table,
    differences_table,
    epochs_table,
    equivalences_table,
    facts_table,
    learning_table,
    numbers_table,
    overlap_lines,
    pivot_table,
    pivot_title,
    published_sentences,
    published_table,
    shared_text_facts,
    spreads_table,
    texts_table,
)
from handful.report.wording import (
    bounds,
    footnotes,
    group_titles,
    kept_words,
    mark,
    percent,
    printable,
    progress,
    row_title,
    state,
    unfinished_lines,
)
from handful.summary import Cell, Summary


def render(summary: Summary) -> str:
    """The report as Markdown text; it shows error.svg when a cell has an accuracy."""
    blocks = [f"# {_escape(summary.name)}", f"{progress(summary)}."]
    blocks.append(" ".join(_escape(sentence) for sentence in findings(summary)))
    blocks.extend(_escape(note) for note in (explores(summary), *summary.provenance.plan_notes))
    blocks.append(_pairs(protocol_lines(summary)))
    if summary.has_results:
        blocks.append("![Error against number of labels](error.svg)")
    if summary.claims:
        blocks += ["## Claims", "\n".join(f"- {_escape(sentence)}" for sentence in claim_sentences(summary))]
    brought = [*equivalence_sentences(summary), *gain_sentences(summary)]
    brought += [f"{label}: no learning curve, {reason}." for label, reason in without_curve(summary)]
    if brought:
        blocks += ["## What labels bring", "\n".join(f"- {_escape(sentence)}" for sentence in brought)]
    blocks.append("## Accuracy")
    for title, rows in zip(group_titles(summary), summary.groups, strict=True):
        if title:
            blocks.append(f"### {_escape(title)}")
        head = ["method", *(f"N = {num_labels:,}" for num_labels in summary.columns)]
        body = [[_escape(row_title(row)), *(_cell(row.cells[n]) for n in summary.columns)] for row in rows]
        blocks.append(_table(head, body))
    blocks.append("\n".join(f"- {_escape(note)}" for note in footnotes(summary)))
    columns, body = published_table(summary)
    if body:
        blocks += ["## Beside the published table", " ".join(map(_escape, published_sentences(summary)))]
        blocks.append(_table([_escape(name) for name in columns], [[_escape(value) for value in row] for row in body]))
    for title, entries in (("Failed", summary.failures), ("Missing", summary.missing)):
        if entries:
            lines = [
                f"- {_escape(where)}" + (f": {_escape(reason)}" if reason else "")
                for where, reason in unfinished_lines(entries)
            ]
            blocks += [f"## {title}", "\n".join(lines)]
    shared = [*shared_text_facts(summary), *overlap_lines(summary)] if summary.has_results else []
    if shared:
        blocks += ["## Duplicates and cut texts", _pairs(shared)]
    for title, (columns, body) in (
        ("Claims, one by one", claims_table(summary)),
        ("Over prompts", spreads_table(summary)),
        *((pivot_title(pivot), pivot_table(pivot, summary.columns)) for pivot in summary.pivots),
        ("Where the variance comes from", components_table(summary)),
        ("Epochs", epochs_table(summary)),
        ("Costs", cost_table(summary)),
        ("Texts by method", texts_table(summary)),
        ("Learning curves", learning_table(summary)),
        ("Labels worth labels", equivalences_table(summary)),
        ("All numbers", numbers_table(summary)),
        ("Paired differences", differences_table(summary)),
        ("Other facts", facts_table(summary)),
    ):
        if body:
            escaped = [[_escape(value) for value in row] for row in body]
            blocks += [f"## {_escape(title)}", _table([_escape(name) for name in columns], escaped)]
    if setup := setup_sentences(summary):
        blocks += ["## Experimental setup", _escape(" ".join(setup))]
    blocks += ["## How it was made", _pairs(provenance_lines(summary))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _cell(cell: Cell) -> str:
    words = []
    if cell.accuracy is not None:
        estimate = percent(cell.accuracy.estimate)
        words.append(f"{f'**{estimate}**' if cell.is_best else estimate} {bounds(cell.accuracy)}")
        if mark(cell):
            words.append(f"*{mark(cell)}*")
    if state(cell):
        words.append(f"({state(cell)})" if words else state(cell))
    if kept_words(cell):
        words.append(f"({kept_words(cell)})")
    return " ".join(words)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {_escape(what)}: {_escape(how)}" for what, how in pairs)


def _escape(text: str) -> str:
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is no emphasis in GitHub's Markdown, and method names are full of them. A
    # bracket makes a link or an image only before one of ( [ : and intervals are full of brackets.
    return re.sub(r"[\\`*|~#]|\](?=[(\[:])|(?<!\w)_|_(?!\w)", lambda found: "\\" + found.group(), text)
