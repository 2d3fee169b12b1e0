"""The plan -> rows and cells, and a label for each row that tells it from the others.

Names no method: what a row reads is seen from its resolved spec. Compares nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from handful.identity import canonical_json
from handful.results import RunRecord
from handful.summary.comparison import accuracy_interval, components_of
from handful.summary.outcomes import Outcome, make_run, units_of
from handful.summary.parts import Cell, CellStatus, Row
from handful.summary.plain import (
    agreed,
    distinct,
    extent,
    facts_of,
    flat,
    init_seed_of,
    is_none,
    length,
    mapping,
    mean,
    method_name,
    reads_labels,
    reads_test,
    seed_of,
    whole,
    without_cell_axes,
)

LONGEST_VALUE = 40
"""Characters of a knob's value that a row label shows; an instruction can be a paragraph."""

OWN_PENALTIES = 9
"""Values of C that a regression's own cross-validation tried, for records of before they said so (`num_penalties`):
those name an `inverse_penalty` only where one was chosen."""


def make_rows(
    planned: Sequence[Mapping[str, Any]], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> tuple[Row, ...]:
    """The rows in the order of the plan, their cells not yet compared."""
    cells_of_row: dict[str, list[Mapping[str, Any]]] = {}
    for cell in planned:
        cells_of_row.setdefault(canonical_json(without_cell_axes(cell["asked"])), []).append(cell)
    groups: dict[str, int] = {}
    rows = []
    for cells in cells_of_row.values():
        asked, spec = without_cell_axes(cells[0]["asked"]), cells[0]["spec"]
        records = [outcomes[name].record for name in dict.fromkeys(cell["spec_id"] for cell in cells)]
        finished = [record for record in records if record is not None and record.status == "finished"]
        # What a plan of before does not say is seen from its records.
        on_test = any(cell.get("on_test") for cell in cells) or any(
            reads_test(str(record.curve.get("chosen_by", ""))) for record in finished
        )
        rows.append(
            Row(
                label="",
                method=method_name(asked),
                asked=asked,
                spec=spec,
                group=groups.setdefault(canonical_json([asked.get("data"), on_test]), len(groups)),
                reads_labels=any(reads_labels(cell) for cell in cells),
                uses_model=not is_none(spec.get("model")),
                cells=_make_cells(cells, columns, outcomes),
                label_names=agreed([record.label_names for record in finished]),
                engine_paths=distinct(record.engine.get("path") for record in finished),
                sees=distinct(what for record in finished for what in record.learned.get("sees") or ()),
                facts=facts_of(finished),
                recipes=distinct(record.learned.get("recipe") for record in finished),
                on_test=on_test,
                num_tried=extent([_num_tried(record) for record in finished]),
                specs={int(cell["asked"]["num_labels"]): cell["spec"] for cell in reversed(cells)},
            )
        )
    return tuple(replace(row, label=label) for row, label in zip(rows, row_labels(rows), strict=True))


def _num_tried(record: RunRecord) -> int:
    """How many settings a run chose from: what its protocol tried before the fit that counts, else what was looked at
    during that fit, else the penalties that its method tried by itself. 1 where nothing was chosen."""
    for found in ("cross_validation", "hold_out"):
        if shares := length(mapping(record.learned, found), "shares"):
            return shares
    looks = {"selection_log_loss", "test_log_loss"}
    looked = sum(not looks.isdisjoint(point) for point in record.curve.get("points", ()))
    of_before = OWN_PENALTIES if "inverse_penalty" in record.learned else 1
    return looked or whole(record.learned, "num_penalties") or of_before


def _make_cells(
    cells: Sequence[Mapping[str, Any]], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> dict[int, Cell]:
    unlabelled = [cell for cell in cells if not reads_labels(cell)]
    made = {}
    for num_labels in columns:
        here = [cell for cell in cells if int(cell["asked"]["num_labels"]) == num_labels]
        # A cell that reads no labels is the same at every number of labels, asked for there or not.
        made[num_labels] = _make_cell(num_labels, here or unlabelled, outcomes)
    return made


def _make_cell(
    num_labels: int, cells: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Outcome]
) -> Cell:
    if not cells:
        return Cell(num_labels, "not planned", reads_labels=True)
    seeds: dict[str, tuple[int | None, int | None]] = {}
    for cell in sorted(cells, key=seed_of):
        seeds.setdefault(cell["spec_id"], (seed_of(cell) if reads_labels(cell) else None, init_seed_of(cell)))
    runs = tuple(make_run(name, seed, outcomes[name], init_seed=init) for name, (seed, init) in seeds.items())
    finished = [run for run in runs if run.status == "finished"]
    if len(finished) == len(runs):
        status: CellStatus = "finished"
    elif finished:
        status = "partial"
    else:
        status = "failed" if any(run.status == "failed" for run in runs) else "missing"
    units = units_of(finished, outcomes)
    interval, kind = accuracy_interval(units)
    memory = [run.peak_memory_bytes for run in finished]
    return Cell(
        num_labels=num_labels,
        status=status,
        reads_labels=any(reads_labels(cell) for cell in cells),
        runs=runs,
        accuracy=interval,
        interval_kind=kind,
        macro_f1=mean([run.macro_f1 for run in finished]),
        log_loss=mean([run.log_loss for run in finished]),
        calibration_error=mean([run.calibration_error for run in finished]),
        train_seconds=mean([run.train_seconds for run in finished]),
        test_texts_per_second=mean([run.test_texts_per_second for run in finished]),
        peak_memory_bytes=max((size for size in memory if size is not None), default=None),
        num_trainable=extent([run.num_trainable for run in finished]),
        adapter_bytes=extent([run.adapter_bytes for run in finished]),
        components=components_of(finished, outcomes),
    )


def row_labels(rows: Sequence[Row]) -> list[str]:
    """Method name, or its title where it has one, plus every value that differs between rows of that name, plus every
    value outside of the method that is not the one most rows have; numbered when that still leaves two alike."""
    asked = [dict(flat(row.asked)) for row in rows]
    resolved = [dict(flat(row.spec)) for row in rows]
    named = {"method.name", "method.title"}
    paths = _telling(list(dict.fromkeys(path for values in asked for path in values if path not in named)), asked)
    usual = {path: _usual([values[path] for values in asked if path in values]) for path in paths}
    labels = []
    for index, row in enumerate(rows):
        title = asked[index].get("method.title")
        same_method = [
            other for other, another in enumerate(rows)
            if another.method == row.method and asked[other].get("method.title") == title
        ]  # fmt: skip
        words = [str(title or row.method)]
        for path in paths:
            if (title and path == "method.revision") or (row.on_test and path == "protocol.name"):
                continue
            # Knobs of a method are compared within it; the rest also across methods, among those that ask it.
            within = {canonical_json(asked[i].get(path)) for i in same_method}
            is_unusual = not path.startswith("method.") and path in asked[index] and (
                canonical_json(asked[index][path]) != usual[path])
            value = asked[index].get(path, resolved[index].get(path))
            if value is not None and (len(within) > 1 or is_unusual):
                words.append(f"{short_path(path, paths)}={short_value(value)}")
        labels.append(" ".join(words) + (", best test epoch (paper's protocol)" if row.on_test else ""))
    counts = {label: labels.count(label) for label in labels}
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] = seen.get(label, 0) + 1
            labels[index] = f"{label} ({seen[label]})"
    return labels


def _telling(paths: Sequence[str], asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paths without those of the prompt that an earlier one of the prompt settles: one question, one answer to it,
    is told by the question."""
    telling: list[str] = []
    before: list[str] = []
    for path in paths:
        if not path.startswith("prompt."):
            telling.append(path)
            continue
        values: dict[str, set[str]] = {}
        for row in asked:
            values.setdefault(canonical_json([row.get(name) for name in before]), set()).add(
                canonical_json(row.get(path))
            )
        is_new = any(len(found) > 1 for found in values.values())
        if is_new or not before:
            telling.append(path)
            before.append(path)
    return telling


def _usual(values: Sequence[Any]) -> str:
    """What most rows have, as canonical JSON; empty when no value is the most frequent one."""
    counts = Counter(canonical_json(value) for value in values).most_common(2)
    return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else ""


def short_path(path: str, paths: Sequence[str]) -> str:
    """The last part of a dotted name, or all of it where another of `paths` ends alike."""
    section, _, leaf = path.rpartition(".")
    if leaf == "name" and section:
        return section
    is_unique = sum(other.rpartition(".")[2] == leaf for other in paths) == 1
    return leaf if is_unique or section == "method" else path


def short_value(value: Any) -> str:
    """A knob's value in one short line."""
    text = value if isinstance(value, str) else canonical_json(value)
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
    # Several words would run into the sentence around them.
    return f'"{text}"' if " " in text else text
