"""Test texts that stand on the training side too, and how many of them have their twin among what a run read.

Reads what the study wrote of its texts (`overlap.json`) and the ids that records drew; sees no text itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handful.identity import canonical_json
from handful.summary.outcomes import Outcome
from handful.summary.parts import Row

Pairs = Sequence[Sequence[str]]


@dataclass(frozen=True)
class OverlapOfData:
    """Of one data source. num_equal, num_near: test texts with an equal or nearly equal text on the training side, an
    equal one counted as equal alone. read: number of labels -> (fewest, most) of those test texts whose twin is among
    the labelled texts of a run. num_test, num_train: texts compared. is_complete: else the counts are lower bounds.
    has_test_side: False where every run tests on what it did not draw."""

    group: int
    num_test: int
    num_train: int
    num_equal: int
    num_near: int
    read: Mapping[int, tuple[int, int]]
    is_complete: bool
    has_test_side: bool


def overlaps_of(
    told: Mapping[str, Any], rows: Sequence[Row], outcomes: Mapping[str, Outcome]
) -> tuple[OverlapOfData, ...]:
    """One for each data source that was counted. told: `StudyFolder.overlap()`."""
    counted = {canonical_json(part.get("data")): part for part in told.get("data") or ()}
    made = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        part = counted.get(canonical_json(members[0].spec.get("data")))
        if part is None:
            continue
        equal, near = _twins(part["equal"]), _twins(part["near"])
        made.append(
            OverlapOfData(
                group=group,
                num_test=int(part["num_test"]),
                num_train=int(part["num_train"]),
                num_equal=len(equal),
                num_near=len(near.keys() - equal.keys()),
                read=_read(members, outcomes, [*part["equal"], *part["near"]]),
                is_complete=bool(part["is_complete"]),
                has_test_side=bool(part["has_test_side"]),
            )
        )
    return tuple(made)


def _twins(pairs: Pairs) -> dict[str, set[str]]:
    """Test id -> ids of its twins on the training side."""
    found: dict[str, set[str]] = defaultdict(set)
    for test, train in pairs:
        found[test].add(train)
    return dict(found)


def _read(rows: Sequence[Row], outcomes: Mapping[str, Outcome], pairs: Pairs) -> dict[int, tuple[int, int]]:
    tests_of: dict[str, set[str]] = defaultdict(set)
    for test, train in pairs:
        tests_of[train].add(test)
    found: dict[int, list[int]] = {}
    for row in rows:
        for number, cell in row.cells.items():
            for run in cell.runs:
                outcome = outcomes[run.spec_id]
                if not cell.reads_labels or outcome.record is None or outcome.tested is None:
                    continue
                sample = outcome.record.sample
                drawn = [*sample.get("train_ids", ()), *sample.get("selection_ids", ())]
                hit = {test for name in drawn for test in tests_of.get(name, ())}
                found.setdefault(number, []).append(len(hit & set(outcome.tested.ids)) if hit else 0)
    return {number: (min(counts), max(counts)) for number, counts in sorted(found.items())}
