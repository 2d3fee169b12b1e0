"""Intervals of cells, and paired differences between them, by seed and by test text.

Knows nothing of plans or records: it reads test outcomes and asks `statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from handful.statistics import (
    Interval,
    VarianceComponents,
    crossed_interval,
    detectable_difference,
    mcnemar_exact,
    paired_crossed_interval,
    paired_crossed_p_value,
    variance_components,
    wilson_interval,
)
from handful.summary.outcomes import Outcome, Tested, common_ids, on_shared_texts, same_texts, tested_of
from handful.summary.parts import Cell, Difference, IntervalKind, Row, Run


def accuracy_interval(tests: Sequence[Tested]) -> tuple[Interval | None, IntervalKind]:
    """The mean accuracy of runs of one cell, and how its interval is made; (None, "") for no run."""
    if not tests:
        return None, ""
    if len(tests) == 1:
        return wilson_interval(int(tests[0].correct.sum()), len(tests[0].ids)), "wilson"
    common = common_ids(tests)
    if common:
        kind: IntervalKind = "crossed" if same_texts(tests) else "crossed on common texts"
        interval = crossed_interval(np.stack([test.on(common).correct for test in tests]))
        return _a_share(_moved(interval, [float(test.correct.mean()) for test in tests])), kind
    return _a_share(_t_interval([float(test.correct.mean()) for test in tests])), "t over seeds"


def components_of(tests: Sequence[Tested]) -> VarianceComponents | None:
    """Where the variance of a cell's mean comes from; None for a single run, or where test texts differ."""
    if len(tests) < 2 or not same_texts(tests) or len(tests[0].ids) < 2:
        return None
    return variance_components(np.stack([test.on(tests[0].ids).correct for test in tests]))


def _a_share(interval: Interval) -> Interval:
    """No accuracy lies below 0 or above 1, whatever Student's t says of a few seeds."""
    return Interval(interval.estimate, max(0.0, interval.low), min(1.0, interval.high))


def _t_interval(values: Sequence[float]) -> Interval:
    """One-sample t interval of the mean of at least two values."""
    scores = np.asarray(values, dtype=np.float64)[None, :]
    # With one row, paired_crossed_interval is the one-sample t interval, for 0/1 values too.
    return paired_crossed_interval(scores, np.zeros_like(scores))


def compare(
    rows: tuple[Row, ...], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows with `is_best`, `versus_best` and `versus_no_labels` filled in, and the notes."""
    cells: list[dict[int, Cell]] = [dict(row.cells) for row in rows]
    for num_labels in columns:
        for group in dict.fromkeys(row.group for row in rows):
            shown = [
                index for index, row in enumerate(rows)
                if row.group == group and row.cells[num_labels].accuracy is not None
            ]
            if not shown:
                continue
            best = max(shown, key=lambda index: (_estimate(rows[index].cells[num_labels]), -index))
            unlabelled = [index for index in shown if not rows[index].cells[num_labels].reads_labels]
            for index in shown:
                cell = rows[index].cells[num_labels]
                against = {
                    other: difference_of(cell, rows[other].cells[num_labels], rows[other].label, outcomes)
                    for other in {best, *unlabelled} - {index}
                }
                cells[index][num_labels] = replace(
                    cell,
                    is_best=index == best,
                    versus_best=against.get(best),
                    versus_no_labels=tuple(against[other] for other in unlabelled if other != index),
                )
    notes = _notes([cell for row in cells for cell in row.values()], rows)
    return tuple(replace(row, cells=made) for row, made in zip(rows, cells, strict=True)), notes


def _notes(cells: Sequence[Cell], rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader must know of how the intervals and differences were computed."""
    notes = []
    if any(cell.interval_kind == "t over seeds" for cell in cells):
        notes.append(
            "The test texts differ between the seeds of a cell, so its interval is a t interval over the "
            "accuracies of its seeds."
        )
    if any(cell.interval_kind == "crossed on common texts" for cell in cells):
        notes.append(
            "The test texts differ between the seeds of a cell; its interval is measured on those that all its "
            "seeds have, around the mean over all."
        )
    compared = [
        difference for cell in cells
        for difference in (cell.versus_best, *cell.versus_no_labels) if difference is not None
    ]
    if any(difference.interval is None for difference in compared):
        notes.append("Some cells share no seed or no test text with the one they stand beside: not compared.")
    if len({row.on_test for row in rows}) > 1:
        notes.append("Rows whose epoch was chosen on the test texts are compared among themselves, and never claimed.")
    if len({row.group for row in rows}) > len({row.on_test for row in rows}):
        notes.append("Rows on different data are not compared; each data source has its own best.")
    return tuple(notes)


def difference_of(a: Cell, b: Cell, other: str, outcomes: Mapping[str, Outcome]) -> Difference:
    """Accuracy of `a` minus that of `b`, which stands in row `other`."""
    pairs = []
    for run_a, run_b in _paired_runs(a, b):
        pair = on_shared_texts(tested_of(run_a, outcomes), tested_of(run_b, outcomes))
        if pair is not None:
            pairs.append((run_a, run_b, *pair))
    if not pairs:
        return Difference(other, None, None, 0, 0)
    tests_a, tests_b = [pair[2] for pair in pairs], [pair[3] for pair in pairs]
    num_texts = min(len(test.ids) for test in tests_a)
    if len(pairs) == 1:
        correct_a, correct_b = tests_a[0].correct, tests_b[0].correct
        p_value = mcnemar_exact(correct_a.astype(int), correct_b.astype(int))
        interval = _paired_interval([correct_a], [correct_b]) if num_texts > 1 else None
        return Difference(other, interval, p_value, 1, num_texts, detectable=_detectable([correct_a], [correct_b]))
    means = [
        float(test_a.correct.mean() - test_b.correct.mean()) for test_a, test_b in zip(tests_a, tests_b, strict=True)
    ]
    ids = common_ids(tests_a)
    t_p_value = detectable = None
    if ids:
        stacked_a = [test.on(ids).correct for test in tests_a]
        stacked_b = [test.on(ids).correct for test in tests_b]
        # A run that stands against all seeds of the other cell is one classifier, not as many.
        if len({pair[1].spec_id for pair in pairs}) == 1:
            stacked_b = stacked_b[:1]
        is_flipped = len({pair[0].spec_id for pair in pairs}) == 1
        if is_flipped:
            stacked_a, stacked_b = stacked_b, stacked_a[:1]
        interval = _paired_interval(stacked_a, stacked_b)
        detectable = _detectable(stacked_a, stacked_b)
        t_p_value = paired_crossed_p_value(np.stack(stacked_a).astype(float), np.stack(stacked_b).astype(float))
        if is_flipped:
            interval = Interval(-interval.estimate, -interval.high, -interval.low)
        interval = _moved(interval, means)
    else:
        interval = _t_interval(means)
    return Difference(other, interval, None, len(pairs), num_texts, t_p_value, detectable)


def _paired_runs(a: Cell, b: Cell) -> list[tuple[Run, Run]]:
    """Finished runs side by side: by seed, and a run without a seed beside every run of the other."""
    runs_a = [run for run in a.runs if run.status == "finished"]
    runs_b = [run for run in b.runs if run.status == "finished"]
    if len(runs_a) == 1 and runs_a[0].seed is None:
        return [(runs_a[0], run) for run in runs_b]
    if len(runs_b) == 1 and runs_b[0].seed is None:
        return [(run, runs_b[0]) for run in runs_a]
    by_seed = {run.seed: run for run in runs_b if run.seed is not None}
    return [(run, by_seed[run.seed]) for run in runs_a if run.seed in by_seed]


def _paired_interval(a: Sequence[NDArray[np.bool_]], b: Sequence[NDArray[np.bool_]]) -> Interval:
    interval = paired_crossed_interval(np.stack(a).astype(float), np.stack(b).astype(float))
    # No difference of two shares is larger than 1, whatever Student's t says of two seeds.
    return Interval(interval.estimate, max(-1.0, interval.low), min(1.0, interval.high))


def _detectable(a: Sequence[NDArray[np.bool_]], b: Sequence[NDArray[np.bool_]]) -> float | None:
    """None where nothing scatters: no size of difference follows from that."""
    if len(a[0]) < 2:
        return None
    return detectable_difference(np.stack(a).astype(float), np.stack(b).astype(float)) or None


def _moved(interval: Interval, means: Sequence[float]) -> Interval:
    """An interval measured on common texts, around the mean over all texts of every seed; inside [-1, 1]."""
    shift = float(np.mean(means)) - interval.estimate
    if abs(shift) < 1e-12:
        return interval
    return Interval(interval.estimate + shift, max(-1.0, interval.low + shift), min(1.0, interval.high + shift))


def _estimate(cell: Cell) -> float:
    assert cell.accuracy is not None
    return cell.accuracy.estimate
