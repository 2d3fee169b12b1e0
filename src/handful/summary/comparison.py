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
    nested_components,
    paired_crossed_interval,
    paired_crossed_p_value,
    variance_components,
    wilson_interval,
)
from handful.summary.outcomes import (
    Outcome,
    Unit,
    by_sample,
    common_ids,
    on_shared_texts,
    same_texts,
    tested_of,
)
from handful.summary.parts import Cell, Difference, IntervalKind, Row, Run


def accuracy_interval(units: Sequence[Unit]) -> tuple[Interval | None, IntervalKind]:
    """The mean accuracy of one cell, and how its interval is made; (None, "") for no run."""
    if not units:
        return None, ""
    if len(units) == 1:
        return wilson_interval(round(units[0].correct.sum()), len(units[0].ids)), "wilson"
    common = common_ids(units)
    if common:
        kind: IntervalKind = "crossed" if same_texts(units) else "crossed on common texts"
        interval = crossed_interval(np.stack([unit.on(common).correct for unit in units]))
        return _a_share(_moved(interval, [float(unit.correct.mean()) for unit in units])), kind
    return _a_share(_t_interval([float(unit.correct.mean()) for unit in units])), "t over seeds"


def components_of(finished: Sequence[Run], outcomes: Mapping[str, Outcome]) -> VarianceComponents | None:
    """Where the variance of a cell's mean comes from: apart for samples and starts where every sample has the same
    number of starts, two at least. None for a single run, or where test texts differ."""
    tests = [tested_of(run, outcomes) for run in finished]
    if len(tests) < 2 or not same_texts(tests) or len(tests[0].ids) < 2:
        return None
    samples: dict[int | None, list[NDArray[np.bool_]]] = {}
    for run, test in zip(finished, tests, strict=True):
        samples.setdefault(run.seed, []).append(test.on(tests[0].ids).correct)
    num_starts = {len(starts) for starts in samples.values()}
    if num_starts == {1}:
        return variance_components(np.stack([starts[0] for starts in samples.values()]))
    if len(num_starts) > 1:
        return None
    return nested_components(np.stack([np.stack(starts) for starts in samples.values()]))


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
    seeds: tuple[set[int | None], set[int | None]] = (set(), set())
    for sides in _paired_runs(a, b):
        pair = on_shared_texts(*(Unit.of(runs, outcomes) for runs in sides))
        if pair is not None:
            pairs.append(pair)
            for found, runs in zip(seeds, sides, strict=True):
                found.update(run.seed for run in runs)
    if not pairs:
        return Difference(other, None, None, 0, 0)
    units_a, units_b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    num_texts = min(len(unit.ids) for unit in units_a)
    # One draw of labels, though it may have several starts or stand beside several of the other side, says nothing of
    # the next.
    is_single = any(cell.reads_labels and len(found) == 1 for cell, found in zip((a, b), seeds, strict=True))
    if len(pairs) == 1:
        return _difference_of_pair(*pairs[0], other, is_single)
    means = [
        float(unit_a.correct.mean() - unit_b.correct.mean()) for unit_a, unit_b in zip(units_a, units_b, strict=True)
    ]
    ids = common_ids(units_a)
    t_p_value = detectable = None
    if ids:
        stacked_a = [unit.on(ids).correct for unit in units_a]
        stacked_b = [unit.on(ids).correct for unit in units_b]
        # A run that stands against all seeds of the other cell is one classifier, not as many.
        if len({unit.spec_ids for unit in units_b}) == 1:
            stacked_b = stacked_b[:1]
        is_flipped = len({unit.spec_ids for unit in units_a}) == 1
        if is_flipped:
            stacked_a, stacked_b = stacked_b, stacked_a[:1]
        interval = _paired_interval(stacked_a, stacked_b)
        detectable = _detectable(stacked_a, stacked_b)
        t_p_value = paired_crossed_p_value(np.stack(stacked_a), np.stack(stacked_b))
        if is_flipped:
            interval = Interval(-interval.estimate, -interval.high, -interval.low)
        interval = _moved(interval, means)
    else:
        interval = _t_interval(means)
        # With one row, paired_crossed_p_value is the one-sample t test, as the interval is.
        t_p_value = paired_crossed_p_value([means], [[0.0] * len(means)])
    num_seeds = max(map(len, seeds))
    num_starts = len(pairs) // num_seeds
    return Difference(other, interval, None, num_seeds, num_texts, t_p_value, detectable, is_single, num_starts)


def _difference_of_pair(a: Unit, b: Unit, other: str, is_single: bool) -> Difference:
    """By McNemar's test of two runs; a mean over starts is no fixed classifier, and has the t test over texts."""
    is_run = len(a.spec_ids) == len(b.spec_ids) == 1
    p_value = mcnemar_exact(a.correct, b.correct) if is_run else None
    if len(a.ids) < 2:
        return Difference(other, None, p_value, 1, len(a.ids), is_single=is_single)
    interval, detectable = _paired_interval([a.correct], [b.correct]), _detectable([a.correct], [b.correct])
    t_p_value = None if is_run else paired_crossed_p_value(a.correct[None], b.correct[None])
    return Difference(other, interval, p_value, 1, len(a.ids), t_p_value, detectable, is_single)


def _paired_runs(a: Cell, b: Cell) -> list[tuple[list[Run], list[Run]]]:
    """Finished runs side by side, those of one sample together: by sample, and a run without a seed beside every sample
    of the other. Where both have one sample, the same one: by start, and a single run beside every start."""
    runs_a = [run for run in a.runs if run.status == "finished"]
    runs_b = [run for run in b.runs if run.status == "finished"]
    seeds_a, seeds_b = ({run.seed for run in runs} for runs in (runs_a, runs_b))
    if seeds_a == seeds_b and len(seeds_a) == 1 and len(runs_a) > 1 and len(runs_b) > 1:
        by_start = {run.init_seed: [run] for run in runs_b}
        return [([run], by_start[run.init_seed]) for run in runs_a if run.init_seed in by_start]
    stands_for_all = [len(runs) == 1 and (runs[0].seed is None or seeds_a == seeds_b) for runs in (runs_a, runs_b)]
    if stands_for_all[0]:
        return [(runs_a, runs) for runs in by_sample(runs_b).values()]
    if stands_for_all[1]:
        return [(runs, runs_b) for runs in by_sample(runs_a).values()]
    samples_a, samples_b = ({seed: [run for run in runs if run.seed == seed] for seed in seeds if seed is not None}
                            for runs, seeds in ((runs_a, seeds_a), (runs_b, seeds_b)))
    return [(samples_a[seed], samples_b[seed]) for seed in samples_a if seed in samples_b]


def _paired_interval(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> Interval:
    interval = paired_crossed_interval(np.stack(a), np.stack(b))
    # No difference of two shares is larger than 1, whatever Student's t says of two seeds.
    return Interval(interval.estimate, max(-1.0, interval.low), min(1.0, interval.high))


def _detectable(a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]]) -> float | None:
    """None where nothing scatters: no size of difference follows from that."""
    if len(a[0]) < 2:
        return None
    return detectable_difference(np.stack(a), np.stack(b)) or None


def _moved(interval: Interval, means: Sequence[float]) -> Interval:
    """An interval measured on common texts, around the mean over all texts of every seed; inside [-1, 1]."""
    shift = float(np.mean(means)) - interval.estimate
    if abs(shift) < 1e-12:
        return interval
    return Interval(interval.estimate + shift, max(-1.0, interval.low + shift), min(1.0, interval.high + shift))


def _estimate(cell: Cell) -> float:
    assert cell.accuracy is not None
    return cell.accuracy.estimate
