"""The paragraph "Experimental setup" of a paper, from what plan (all that is in the lock) and records say.

Escapes nothing: whoever shows a text escapes it. A fact that they do not hold is left out, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.identity import DEFAULT_PROTOCOL
from handful.report.provenance import MOST_LABELS
from handful.report.wording import extent, listed, part_name, plural, splits_text, tests_text
from handful.summary import Cell, Row, Summary
from handful.summary.plain import mapping

_UNSAID = {"name", "checkpoint", "revision", "title"}
"""Knobs that stand elsewhere in the sentence."""


def setup_sentences(summary: Summary) -> list[str]:
    """What a reader needs to run the study again, in short sentences; empty before anything has finished."""
    if not summary.has_results:
        return []
    sentences = [_compared(summary), _seeds(summary), _data(summary), _base(summary), *_prompts(summary)]
    sentences += [*_methods(summary), _training(summary), _protocol(summary), _labels(summary), _selection(summary)]
    sentences += [_recipes(summary), _intervals(summary), _versions(summary), _lock(summary)]
    return [sentence for sentence in sentences if sentence]


# -- words ---------------------------------------------------------------------------------------------


def _at(numbers: Sequence[int]) -> str:
    noun = "label" if list(numbers) == [1] else "labels"
    return f"at {_all([f'{number:,}' for number in numbers])} {noun}"


def _all(items: Iterable[str]) -> str:
    items = list(items)
    return listed(items, limit=len(items))


def _by_number(values: Mapping[int, str]) -> str:
    """"5", or "5 at 50 and 150 labels, 4 at 500 labels" where it is not the same at every number of labels."""
    numbers: dict[str, list[int]] = {}
    for number, value in sorted(values.items()):
        numbers.setdefault(value, []).append(number)
    if len(numbers) == 1:
        return next(iter(numbers))
    return ", ".join(f"{value} {_at(at)}" for value, at in numbers.items())


def _value(value: Any) -> str:
    """As a paper prints it. Text of several words, and what can be read in two ways, stands as JSON writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if isinstance(value, Mapping):
        if value and all(name == item for name, item in value.items()):
            return "as named"
        return _all(f"{name}: {_value(item)}" for name, item in value.items()) if value else "none"
    if isinstance(value, (list, tuple)):
        return _all(map(_value, value)) if value else "none"
    text = str(value)
    is_word = text.isprintable() and text and not set(text) & set(' ";,')
    return text if is_word else json.dumps(text, ensure_ascii=False)


def _knobs(section: Any) -> dict[str, str]:
    """{"learning rate": "0.001"}, for every knob that is set."""
    if not isinstance(section, Mapping):
        return {}
    return {
        name.replace("_", " "): _value(value)
        for name, value in section.items()
        if name not in _UNSAID and value is not None
    }


def _joined(words: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in words.items())


def _named(part: Any) -> str:
    """A section's name, the start of its revision, and its knobs."""
    if not isinstance(part, Mapping):
        return part_name(part)
    kind, _, content = str(part.get("revision") or "").rpartition(":")
    revision = {"revision": f"{kind}:{content[:12]}" if kind else content[:12]} if content else {}
    told = _joined(revision | _knobs(part))
    return f"{part_name(part)} ({told})" if told else part_name(part)


def _of_rows(words: Mapping[str, str]) -> str:
    """What is said of each row, by its label: once where all say the same, else "X (one row); Y (another)"."""
    rows: dict[str, list[str]] = {}
    for label, said in words.items():
        rows.setdefault(said, []).append(label)
    return next(iter(rows)) if len(rows) == 1 else "; ".join(f"{said} ({_all(of)})" for said, of in rows.items())


# -- sentences -----------------------------------------------------------------------------------------


def _compared(summary: Summary) -> str:
    labels = [row.label for row in summary.rows]
    numbers = [number for number in summary.columns if number]
    verb = "We compare" if len(labels) > 1 else "We run"
    return f"{verb} {plural(len(labels), 'method')}{f' {_at(numbers)}' if numbers else ''} ({_all(labels)})."


def _seeds(summary: Summary) -> str:
    """Of each method at each number of labels; what reads no labels runs once."""
    seeds = {
        row.label: _by_number({number: _drawn(cell) for number, cell in row.cells.items() if cell.runs})
        for row in summary.rows
        if row.reads_labels
    }
    return f"Labelled texts are drawn with {_of_rows(seeds)}." if seeds else ""


def _drawn(cell: Cell) -> str:
    def told(seeds: set[int], noun: str) -> str:
        return f"{plural(len(seeds), noun)} ({', '.join(map(str, sorted(seeds)))})"

    samples = {run.seed for run in cell.runs if run.seed is not None}
    starts = {run.init_seed for run in cell.runs if run.init_seed is not None}
    return told(samples, "seed") + (f" and trained from {told(starts, 'start')} each" if starts else "")


def _data(summary: Summary) -> str:
    parts = [_named(part) for part in summary.protocol.data]
    shared = " All methods and seeds are tested on the same texts." if summary.protocol.test_texts_shared else ""
    names = listed([_value(name) for name in summary.label_names], MOST_LABELS) if summary.label_names else ""
    labels = f", labels {names}" if names else ""
    return f"Data: {', '.join(parts)}{labels}; {tests_text(summary.protocol)}.{shared}" if parts else ""


def _base(summary: Summary) -> str:
    names = [_named(part) for part in summary.protocol.models]
    sizes = sorted({int(size) for row in summary.rows for size in row.facts.get("num_parameters", ())})
    counted = f", {_all(f'{size:,}' for size in sizes)} parameters" if sizes else ""
    return f"Base: {', '.join(names)}{counted}." if names else ""


def _prompts(summary: Summary) -> list[str]:
    return [f"Prompt: {_named(part)}." for part in summary.protocol.prompts]


def _methods(summary: Summary) -> list[str]:
    """Each method's knobs, with those of its training that are not everybody's."""
    shared = _shared_training(summary)
    sentences = []
    for row in summary.rows:
        knobs = _row_knobs(row, "method") | _row_knobs(row, "training")
        told = _joined({name: value for name, value in knobs.items() if shared.get(name) != value})
        sentences.append(f"{mapping(row.spec, 'method').get('title', row.method)}: {told}." if told else "")
    return list(dict.fromkeys(sentences))


def _training(summary: Summary) -> str:
    shared = _shared_training(summary)
    return f"Training: {_joined(shared)}." if shared else ""


def _shared_training(summary: Summary) -> dict[str, str]:
    """The knobs of training that all rows which train have alike."""
    first, *others = [knobs for row in summary.rows if (knobs := _row_knobs(row, "training"))] or [{}]
    return {name: value for name, value in first.items() if all(row.get(name) == value for row in others)}


def _row_knobs(row: Row, section: str) -> dict[str, str]:
    by_knob: dict[str, dict[int, str]] = {}
    for number, spec in row.specs.items():
        for name, value in _knobs(spec.get(section)).items():
            by_knob.setdefault(name, {})[number] = value
    if section == "method":
        by_knob.setdefault("inverse penalty", {}).update(_penalties(row))  # left open, the knob does not say which
    return {name: _by_number(values) for name, values in by_knob.items() if values}


def _penalties(row: Row) -> dict[int, str]:
    """C of a regression at each number of labels, where the records say it."""
    found = {
        number: sorted({run.inverse_penalty for run in cell.runs if run.inverse_penalty is not None})
        for number, cell in row.cells.items()
    }
    return {number: _all(map(_value, used)) for number, used in found.items() if used}


def _is_settled(row: Row) -> bool:
    """Whether its protocol has something to choose: when training ends, or a penalty that was left open."""
    return any(spec.get("training") or spec.get("protocol") for spec in row.specs.values())


def _protocol(summary: Summary) -> str:
    """Its name and knobs, of the rows for which it chooses."""
    names = {
        row.label: _by_number(
            {number: _named(spec.get("protocol") or {"name": DEFAULT_PROTOCOL}) for number, spec in row.specs.items()}
        )
        for row in summary.rows
        if _is_settled(row)
    }
    return f"Protocol: {_of_rows(names)}." if names else ""


def _labels(summary: Summary) -> str:
    if not summary.protocol.splits:
        return ""
    return (
        "The number of labels counts every labelled text that is read before the test, training plus selection: "
        f"{splits_text(summary.protocol)}."
    )


def _selection(summary: Summary) -> str:
    """By which rule the update or the penalty that is kept was chosen, at each number of labels, and from how many."""
    rules = {}
    for row in summary.rows:
        chosen = {
            number: _all(dict.fromkeys(run.chosen_by for run in cell.runs if run.chosen_by))
            for number, cell in row.cells.items()
            if _is_settled(row) and any(run.chosen_by for run in cell.runs)
        }
        if chosen:
            rules[row.label] = _by_number(chosen) + _tried(row)
    on_test = summary.protocol.num_chosen_on_test
    has_penalties = any(not row.spec.get("training") for row in summary.rows if row.label in rules)
    kept = "The update or penalty that is kept" if has_penalties else "The update that is kept"
    sentences = [f"{kept} was chosen by: {_of_rows(rules)}."] if rules else []
    penalties = [
        f"{row.label} {extent(row.num_tried)}" for row in summary.rows
        if not _is_settled(row) and row.num_tried and max(row.num_tried) > 1
    ]
    if penalties:
        told = "; ".join(penalties)
        sentences.append(f"Penalties that a regression chose from, by log-loss over folds of its own: {told}.")
    if on_test is not None:
        sentences.append(
            f"{plural(on_test, 'run')} chose on test texts." if on_test else "No choice was made on test texts."
        )
    return " ".join(sentences)


def _tried(row: Row) -> str:
    """", of 2 to 5 lengths of training"; empty where there was nothing to choose."""
    low, high = row.num_tried or (1, 1)
    noun = "lengths of training" if row.spec.get("training") else "penalties"
    return f", of {f'{low} to {high}' if low < high else high} {noun}" if high > 1 else ""


def _recipes(summary: Summary) -> str:
    hashes = {row.label: _all(row.recipes) for row in summary.rows if row.recipes}
    return f"Recipes that filled open knobs, by hash: {_of_rows(hashes)}." if hashes else ""


def _intervals(summary: Summary) -> str:
    kinds = {cell.interval_kind for row in summary.rows for cell in row.cells.values()} - {""}
    words = [
        told
        for kind, told in {
            "crossed": "over seeds count training seeds and test texts as sampled (two-way random effects)",
            "t over seeds": "over seeds with test texts of their own are Student's t",
            "wilson": "of single runs count test texts alone (Wilson)",
        }.items()
        if any(found.startswith(kind) for found in kinds)
    ]
    paired = "Differences are paired by seed and text."
    return f"Intervals are 95 %; those {', those '.join(words)}. {paired}" if words else ""


def _versions(summary: Summary) -> str:
    versions = summary.provenance.versions
    words = [f"{package} {_all(found)}" for package, found in versions.items()]
    devices = f" on {_all(summary.provenance.devices)}" if summary.provenance.devices else ""
    return f"Made with {_all(words)}{devices}." if words else ""


def _lock(summary: Summary) -> str:
    found = summary.provenance.lock_sha256
    return f"A lock file holds every run resolved (SHA-256 {found[:12]})." if found else ""
