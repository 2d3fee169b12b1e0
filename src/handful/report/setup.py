"""The paragraph "Experimental setup" of a paper, from what plan and records say.

Escapes nothing: whoever shows a text escapes it. A fact that the records do not hold is left out, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handful.report.provenance import assignments
from handful.report.wording import listed, part_name, plural, splits_text, tests_text
from handful.summary import Summary


def setup_sentences(summary: Summary) -> list[str]:
    """One sentence for each thing that a reader needs to run the study again; empty before anything has finished."""
    if not summary.has_results:
        return []
    sentences = [_compared(summary), _data(summary), _base(summary), *_prompts(summary), _labels(summary)]
    sentences += [_selection(summary), _training(summary), _recipes(summary), _intervals(summary), _versions(summary)]
    return [sentence for sentence in sentences if sentence]


def _compared(summary: Summary) -> str:
    labels = [row.label for row in summary.rows]
    numbers = [f"{number:,}" for number in summary.columns if number]
    at = f" at {listed(numbers, limit=len(numbers))} labels" if numbers else ""
    seeds = summary.protocol.seeds
    return (
        f"We compare {plural(len(labels), 'method')}{at} ({listed(labels, limit=len(labels))}), with "
        f"{plural(len(seeds), 'seed')} ({', '.join(map(str, seeds))}) where not said otherwise."
    )


def _data(summary: Summary) -> str:
    parts = [_named(part) for part in summary.protocol.data]
    shared = " All methods and seeds are tested on the same texts." if summary.protocol.test_texts_shared else ""
    labels = f", labels {listed(list(summary.label_names))}" if summary.label_names else ""
    return f"Data: {'; '.join(parts)}{labels}; {tests_text(summary.protocol)}.{shared}" if parts else ""


def _named(part: Any) -> str:
    """A section's name and the start of its revision."""
    revision = str(part.get("revision") or "") if isinstance(part, Mapping) else ""
    kind, _, content = revision.rpartition(":")
    short = f"{kind}:{content[:12]}" if kind else content[:12]
    return f"{part_name(part)} (revision {short})" if revision else part_name(part)


def _base(summary: Summary) -> str:
    names = []
    for part in summary.protocol.models:
        dtype = part.get("dtype") if isinstance(part, Mapping) else None
        names.append(f"{_named(part)}{f' in {dtype}' if dtype else ''}")
    sizes = sorted({int(size) for row in summary.rows for size in row.facts.get("num_parameters", ())})
    counted = f", {listed([f'{size:,}' for size in sizes])} parameters" if sizes else ""
    return f"Base: {'; '.join(names)}{counted}." if names else ""


def _prompts(summary: Summary) -> list[str]:
    return [f"Prompt: {assignments(part)}." for part in summary.protocol.prompts]


def _labels(summary: Summary) -> str:
    if not summary.protocol.splits:
        return ""
    return (
        "The number of labels counts every labelled text that is read before the test, training plus selection: "
        f"{splits_text(summary.protocol)}."
    )


def _selection(summary: Summary) -> str:
    rules = [f"{rule} ({plural(number, 'run')})" for rule, number in summary.protocol.chosen_by.items()]
    on_test = summary.protocol.num_chosen_on_test
    none = "; no choice was made on test texts" if on_test == 0 else ""
    chosen = f"; {plural(on_test, 'run')} chose on test texts" if on_test else none
    return f"The update that is kept was chosen by: {listed(rules, limit=len(rules))}{chosen}." if rules else ""


def _training(summary: Summary) -> str:
    parts = [assignments(part) for part in summary.protocol.training]
    return f"Training: {' / '.join(parts)}." if parts else ""


def _recipes(summary: Summary) -> str:
    hashes = {row.label: row.recipes for row in summary.rows if row.recipes}
    if not hashes:
        return ""
    return f"Recipes (hash): {listed([f'{label} {listed(list(found))}' for label, found in hashes.items()], limit=99)}."


def _intervals(summary: Summary) -> str:
    kinds = {cell.interval_kind for row in summary.rows for cell in row.cells.values()} - {""}
    if not kinds:
        return ""
    return (
        "Intervals are 95 % and count training seeds and test texts as sampled (two-way random effects), those of "
        "single runs test texts alone (Wilson); differences are paired by seed and text."
    )


def _versions(summary: Summary) -> str:
    versions = summary.provenance.versions
    words = [f"{package} {' and '.join(found)}" for package, found in versions.items()]
    devices = f" on {listed(list(summary.provenance.devices))}" if summary.provenance.devices else ""
    return f"Made with {listed(words, limit=len(words))}{devices}." if words else ""
