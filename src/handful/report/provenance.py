"""What was held fixed and how it was made, as pairs of words for all formats.

Escapes nothing: whoever shows a text escapes it.
"""

from __future__ import annotations

from typing import Any

from handful.report.wording import (
    ABSENT,
    count,
    leaves,
    listed,
    part_name,
    plural,
    splits_text,
    tests_text,
    without_folders,
)
from handful.summary import Row, Summary

MOST_LABELS = 12
"""Names of labels that the strip shows; data may have hundreds."""


def protocol_lines(summary: Summary) -> list[tuple[str, str]]:
    """[(what, how)]: the facts under which the numbers were made."""
    protocol = summary.protocol
    shared = {True: ", the same for every run", False: ", not the same for every run", None: ""}
    lines = [("N counts", "training and selection texts")]
    if protocol.splits:
        lines.append(("Training + selection", splits_text(protocol)))
    if protocol.chosen_by:
        rules = [f"{rule} ({plural(number, 'run')})" for rule, number in protocol.chosen_by.items()]
        lines.append(("Update kept by", listed(rules, limit=len(rules))))
    lines.append(("Choices made on test texts", count(protocol.num_chosen_on_test)))
    tried: dict[str, list[str]] = {}
    for row in summary.rows:
        if row.num_tried:
            tried.setdefault(" to ".join(map(str, dict.fromkeys(row.num_tried))), []).append(row.label)
    if tried:
        settings = [f"{number}: {listed(labels, limit=len(labels))}" for number, labels in tried.items()]
        lines.append((
            "Settings that a run tried (lengths of training or penalties; 1: nothing was chosen)",
            f"{next(iter(tried))}, every row" if len(tried) == 1 else "; ".join(settings),
        ))
    starts = f"; of the start alone: {', '.join(map(str, protocol.init_seeds))}" if protocol.init_seeds else ""
    lines.append(("Seeds", (", ".join(map(str, protocol.seeds)) or ABSENT) + starts))
    tested = tests_text(protocol) + shared[protocol.test_texts_shared] if protocol.num_test else ABSENT
    lines.append(("Tested on", tested))
    if summary.label_names:
        number = f"{len(summary.label_names)}: " if len(summary.label_names) > MOST_LABELS else ""
        lines.append(("Labels", number + listed(list(summary.label_names), limit=MOST_LABELS)))
    for what, parts in (("Data", protocol.data), ("Model", protocol.models), ("Prompt", protocol.prompts)):
        names = [part_name(part) for part in parts]
        words = [f"{name} ({names.count(name)})" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
        lines.append((what, ", ".join(words) if words else "none"))
    return lines


def provenance_lines(summary: Summary) -> list[tuple[str, str]]:
    """[(what, value)]: command, versions, revisions, device and date, as the records give them."""
    made = summary.provenance
    lines = [("Command", without_folders(made.command) or ABSENT)]
    if made.lock_sha256:
        lines.append(
            ("Lock file", "study.lock.json beside this report: all runs resolved, data and bases by content. `handful "
             "study study.lock.json` makes them again in an empty folder. SHA-256, whatever the command and the names "
             f"of files: {made.lock_sha256}")
        )
    if made.finished_at:
        first, last = made.finished_at[0], made.finished_at[-1]
        lines.append(("Finished", first if first == last else f"{first} to {last}"))
    for what, values in (
        ("Device", made.devices), ("Host", made.hosts), ("Git", made.git), ("Engine", made.paths),
        ("Platform", made.platforms), ("Peak memory of", made.memory), ("Note", made.notes),
    ):
        lines.extend((what, without_folders(value)) for value in values)
    for what, parts in (
        ("Data", summary.protocol.data), ("Model", summary.protocol.models),
        ("Prompt", summary.protocol.prompts), ("Training", summary.protocol.training),
    ):
        lines.extend((what, assignments(part)) for part in parts)
    for row in summary.rows:
        if row.spec.get("method"):
            lines.append((row.label, assignments(row.spec["method"]) + _own_parts(summary, row)))
    if made.settings:
        lines.append(("Execution", assignments(made.settings)))
    if made.versions:
        packages = [f"{package} {' and '.join(versions)}" for package, versions in made.versions.items()]
        lines.append(("Versions", ", ".join(packages)))
    return lines


def _own_parts(summary: Summary, row: Row) -> str:
    """Which of several models and prompts a row has: its label may leave out what most rows have."""
    words = ""
    for what, parts in (("model", summary.protocol.models), ("prompt", summary.protocol.prompts)):
        if len(parts) > 1 and row.spec.get(what) in parts:
            words += f"; {what}: {assignments(row.spec[what])}"
    return words


def assignments(part: Any) -> str:
    """"name = imdb; test_size = 2000" of a resolved section."""
    return "; ".join(f"{name} = {value}" if name else value for name, value in leaves(part))
