"""Test texts that every method gets wrong, apart from those on which methods disagree.

The first are hard, or their label is wrong; the second are where the choice of a method matters. Knows texts by
their ids alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handful.summary.outcomes import Outcome, Tested, tested_of
from handful.summary.parts import Row

SHOWN = 10
"""Texts of each kind that a page has room for."""


@dataclass(frozen=True)
class Mistake:
    """A test text. label: the true one, in words. answers: row label -> how many runs gave which label."""

    id: str
    label: str
    answers: Mapping[str, Mapping[str, int]]

    @property
    def right(self) -> tuple[str, ...]:
        """The rows whose runs are all right."""
        return tuple(row for row, given in self.answers.items() if set(given) == {self.label})

    @property
    def wrong(self) -> tuple[str, ...]:
        """The rows whose runs are all wrong."""
        return tuple(row for row, given in self.answers.items() if self.label not in given)


@dataclass(frozen=True)
class Mistakes:
    """Of one data source at one number of labels, over the texts that every run there was tested on.

    data: its resolved section. num_label_names: how many labels there are, 0 when the records do not agree.

    all_wrong: texts that no run gets right, the most confident mistakes first. disagree: texts that one row gets
    right with all its runs and another wrong with all its runs, those first on which the fewest rows are undecided,
    then the most even splits. Both hold at most `SHOWN`; num_all_wrong and num_disagree count all of them.
    """

    group: int
    num_labels: int
    data: Mapping[str, object]
    num_label_names: int
    rows: tuple[str, ...]
    num_texts: int
    num_all_wrong: int
    num_disagree: int
    all_wrong: tuple[Mistake, ...]
    disagree: tuple[Mistake, ...]


def mistakes_of(
    rows: Sequence[Row], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> tuple[Mistakes, ...]:
    """One entry for each data source where at least two rows were tested on common texts.

    Looks at the largest number of labels at which the most rows have results.
    """
    made = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        finished = {number: sum(row.cells[number].accuracy is not None for row in members) for number in columns}
        num_labels = max(columns, key=lambda number: (finished[number], number), default=None)
        if num_labels is None or finished[num_labels] < 2:
            continue
        tests = {row.label: _tests(row, num_labels, outcomes) for row in members if row.cells[num_labels].accuracy}
        found = _mistakes(group, num_labels, members, tests)
        if found is not None:
            made.append(found)
    return tuple(made)


def _tests(row: Row, num_labels: int, outcomes: Mapping[str, Outcome]) -> list[Tested]:
    return [tested_of(run, outcomes) for run in row.cells[num_labels].runs if run.status == "finished"]


def _mistakes(
    group: int, num_labels: int, members: Sequence[Row], tests: Mapping[str, list[Tested]]
) -> Mistakes | None:
    everyone = [test for some in tests.values() for test in some]
    everywhere = set.intersection(*(set(test.ids) for test in everyone))
    ids = tuple(name for name in everyone[0].ids if name in everywhere)
    aligned = {label: [test.on(ids) for test in some] for label, some in tests.items()}
    labels = next(iter(aligned.values()))[0].labels
    if not ids or any(not np.array_equal(test.labels, labels) for some in aligned.values() for test in some):
        return None
    # [rows, texts]: the share of a row's runs that are right
    share = np.stack([np.mean([test.correct for test in some], axis=0) for some in aligned.values()])
    hard = _hardest_first(share, aligned)
    split = _clearest_first(share)
    names = members[0].label_names if len({row.label_names for row in members if row.label_names}) == 1 else ()
    return Mistakes(
        group=group,
        num_labels=num_labels,
        data=members[0].spec.get("data") or {},
        num_label_names=len(names),
        rows=tuple(aligned),
        num_texts=len(ids),
        num_all_wrong=len(hard),
        num_disagree=len(split),
        all_wrong=tuple(_mistake(index, ids, labels, aligned, names) for index in hard[:SHOWN]),
        disagree=tuple(_mistake(index, ids, labels, aligned, names) for index in split[:SHOWN]),
    )


def _hardest_first(share: NDArray[np.float64], aligned: Mapping[str, list[Tested]]) -> list[int]:
    """Texts that no run gets right, by the true label's mean log-probability over rows, smallest first."""
    belief = np.mean(
        [np.mean([test.gold_log_probability for test in some], axis=0) for some in aligned.values()], axis=0
    )
    return sorted(np.flatnonzero((share == 0).all(axis=0)).tolist(), key=lambda index: (belief[index], index))


def _clearest_first(share: NDArray[np.float64]) -> list[int]:
    """Texts that some row gets right with every run and another with none, by how clear and even the split is."""
    num_right, num_wrong = (share == 1).sum(axis=0), (share == 0).sum(axis=0)
    undecided = len(share) - num_right - num_wrong
    order = np.lexsort((np.abs(num_right - num_wrong), undecided))
    return [int(index) for index in order if num_right[index] and num_wrong[index]]


def _mistake(
    index: int,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    aligned: Mapping[str, list[Tested]],
    names: Sequence[str],
) -> Mistake:
    def word(label: int) -> str:
        return names[label] if label < len(names) else f"label {label}"

    answers = {}
    for row, tests in aligned.items():
        given = [word(int(test.predicted[index])) for test in tests]
        answers[row] = {label: given.count(label) for label in dict.fromkeys(given)}
    return Mistake(ids[index], word(int(labels[index])), answers)
