"""Learning curves of rows, what more labels bring, and how many labels of one row are worth those of another.

Asks `learning_curves` for every number; says in words where there is none. Knows nothing of how it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.learning_curves import Equivalent, LearningCurve, NoCurveError, PowerLaw, seed_spread
from handful.statistics import Interval
from handful.summary.outcomes import Outcome, Tested, Unit, by_sample, common_ids, tested_of
from handful.summary.parts import Claim, Row

MORE = 100
"""Labels more, of which a report says what they bring; as many as there are where there are fewer."""

Errors = dict[int, dict[Any, NDArray[np.float64]]]
"""Number of labels -> seed -> [texts]"""


@dataclass(frozen=True)
class Gain:
    """By how much the accuracy is expected to rise from `start` labels to `more` more."""

    start: int
    more: int
    interval: Interval


@dataclass(frozen=True)
class CurveOfRow:
    """A row's learning curve. law: None where there is none, and `reason` says why. reach: the largest number of labels
    at which it is read. gains: from the largest number of labels measured."""

    label: str
    group: int
    law: PowerLaw | None
    smallest: int
    reach: int
    gains: tuple[Gain, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Equivalence:
    """How many labels of row `second` give what row `first` reaches with `num_labels`; None with a reason.

    error: of `first` there. is_declared: a pair that the study claims something of.
    """

    first: str
    num_labels: int
    second: str
    group: int
    error: float
    found: Equivalent | None
    is_declared: bool
    reason: str = ""


def learning_of(
    rows: Sequence[Row], columns: Sequence[int], outcomes: Mapping[str, Outcome], claims: Sequence[Claim]
) -> tuple[tuple[CurveOfRow, ...], tuple[Equivalence, ...]]:
    """A curve for each row that reads labels and has a number, and the equivalences of the pairs worth asking for."""
    told: list[CurveOfRow] = []
    equivalences: list[Equivalence] = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group and _tests(row, outcomes)]
        ids = _shared_ids([test for row in members for test in _tests(row, outcomes)])
        errors = {row.label: _errors(row, ids, outcomes) for row in members if row.reads_labels}
        curves: dict[str, LearningCurve | str] = {label: _curve(errors[label], bool(ids)) for label in errors}
        told += [_told(label, group, curve) for label, curve in curves.items()]
        pairs, is_declared = _pairs(members, columns, claims)
        for first, second in pairs:
            equivalences += _equivalences(first, second, errors, curves, group, is_declared)
    return tuple(told), tuple(equivalences)


def _tests(row: Row, outcomes: Mapping[str, Outcome]) -> list[Tested]:
    runs = [run for cell in row.cells.values() for run in cell.runs if run.status == "finished"]
    return [tested_of(run, outcomes) for run in {run.spec_id: run for run in runs}.values()]


def _shared_ids(tests: Sequence[Tested]) -> tuple[str, ...]:
    ids = common_ids(tests) if tests else ()
    labels = [test.on(ids).labels for test in tests]
    return ids if all(np.array_equal(labels[0], other) for other in labels) else ()


def _errors(row: Row, ids: Sequence[str], outcomes: Mapping[str, Outcome]) -> Errors:
    found: Errors = {}
    for number, cell in row.cells.items():
        runs = [run for run in cell.runs if run.status == "finished"]
        if cell.reads_labels and number > 0 and runs and ids:
            samples = by_sample(runs).items()
            found[number] = {seed: 1.0 - Unit.of(starts, outcomes).on(ids).correct for seed, starts in samples}
    return found


def _curve(errors: Errors, is_shared: bool) -> LearningCurve | str:
    """The curve, or why there is none."""
    if not is_shared:
        return "its cells share too few test texts"
    try:
        return LearningCurve(errors)
    except NoCurveError as why:
        return str(why)


def _told(label: str, group: int, curve: LearningCurve | str) -> CurveOfRow:
    if isinstance(curve, str):
        return CurveOfRow(label, group, None, 0, 0, reason=curve)
    largest = int(curve.numbers[-1])
    steps = dict.fromkeys((min(MORE, largest), largest))
    gains = tuple(Gain(largest, more, curve.gain(largest, more)) for more in steps)
    return CurveOfRow(label, group, curve.law, int(curve.numbers[0]), curve.reach, gains)


def _pairs(
    members: Sequence[Row], columns: Sequence[int], claims: Sequence[Claim]
) -> tuple[list[tuple[str, str]], bool]:
    """(pairs of labels, whether the study declared them): its claims; without any, what does best with the fewest
    labels against every row that uses no language model."""
    labels = {row.label for row in members if row.reads_labels}
    declared = dict.fromkeys((claim.first, claim.second) for claim in claims)
    pairs = [(first, second) for first, second in declared if first in labels and second in labels]
    if claims:
        return pairs, True
    for number in columns:
        able = [row for row in members if row.reads_labels and row.uses_model and row.cells[number].accuracy]
        if able:
            best = max(able, key=lambda row: accuracy.estimate if (accuracy := row.cells[number].accuracy) else 0.0)
            plain = [row for row in members if row.reads_labels and not row.uses_model]
            return [(best.label, row.label) for row in plain], False
    return [], False


def _equivalences(
    first: str,
    second: str,
    errors: Mapping[str, Errors],
    curves: Mapping[str, LearningCurve | str],
    group: int,
    is_declared: bool,
) -> list[Equivalence]:
    curve = curves[second]
    made = []
    for number, runs in errors[first].items():
        error = float(np.mean([np.mean(values) for values in runs.values()]))
        found, reason = None, curve if isinstance(curve, str) else ""
        if isinstance(curve, LearningCurve):
            try:
                found = curve.equivalent(runs, seed_spread(errors[first], number))
            except NoCurveError as why:
                reason = str(why)
        made.append(Equivalence(first, number, second, group, error, found, is_declared, reason))
    return made
