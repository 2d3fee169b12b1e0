"""Plan and records of a study -> numbers: means, intervals, paired differences, what is missing.

Knows nothing of how a run is made, of torch, or of how numbers are shown: it reads what `results` holds on
disk and asks `statistics`. It names no method; "reads no labels" and "uses no language model" are read from
the resolved specs. Accuracies and differences are fractions, log losses are in nats, times in seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handful.identity import canonical_json
from handful.results import Predictions, RunRecord, StudyFolder
from handful.statistics import (
    Interval,
    crossed_interval,
    mcnemar_exact,
    paired_crossed_interval,
    wilson_interval,
)

SIGNIFICANCE = 0.05
"""Level of the exact McNemar test; the intervals are 95 % ones to match."""

RunStatus = Literal["finished", "failed", "missing"]
CellStatus = Literal["finished", "partial", "failed", "missing", "not planned"]
IntervalKind = Literal["", "wilson", "crossed", "crossed on common texts", "t over seeds"]

MIN_COMMON_TEXTS = 20
"""Where seeds have test texts of their own, the interval is measured on those that all of them have, if so many."""

LONGEST_VALUE = 40
"""Characters of a knob's value that a row label shows; an instruction can be a paragraph."""


@dataclass(frozen=True)
class Run:
    """One distinct planned run and what its record says; a value the record does not hold is None.

    seed: None when the run reads neither labels nor a seed. chosen_update: the update that was kept.
    num_train, num_selection, num_test: texts.
    """

    spec_id: str
    seed: int | None
    status: RunStatus
    reason: str = ""
    accuracy: float | None = None
    macro_f1: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None
    chosen_update: int | None = None
    train_seconds: float | None = None
    test_texts_per_second: float | None = None
    peak_memory_bytes: int | None = None
    num_trainable: int | None = None
    adapter_bytes: int | None = None
    num_train: int | None = None
    num_selection: int | None = None
    num_test: int | None = None


@dataclass(frozen=True)
class Difference:
    """Accuracy of one cell minus that of another row's cell in the same column, as fractions.

    Paired by seed and by test text: only seeds and texts that both have are in it. interval: None when they
    share none. p_value: exact McNemar, when there is one run on either side, else None.
    """

    other: str
    interval: Interval | None
    p_value: float | None
    num_seeds: int
    num_texts: int

    @property
    def distinguishable(self) -> bool | None:
        """Whether the data tell the two apart at 95 %; None when there is nothing to compare.

        By the exact McNemar test where there is one run on either side, else by whether the interval of the
        paired difference leaves out 0. Not corrected for the number of comparisons.
        """
        if self.interval is None:
            return None
        if self.p_value is not None:
            return self.p_value < SIGNIFICANCE
        return not self.interval.low <= 0.0 <= self.interval.high


@dataclass(frozen=True)
class Cell:
    """A row at one number of labels. Means are over its finished runs, or None when one of them lacks it.

    status: "partial" when some runs finished and others failed or are missing. reads_labels: False for a
    cell that is repeated across its row. accuracy: mean with its interval; interval_kind says which.
    num_trainable, adapter_bytes: smallest and largest over the runs. is_best: the largest mean accuracy of
    its column among the rows on the same data. versus_best: None for the best itself.
    versus_no_labels: against each row on the same data that reads no labels, itself left out.
    """

    num_labels: int
    status: CellStatus
    reads_labels: bool
    runs: tuple[Run, ...] = ()
    accuracy: Interval | None = None
    interval_kind: IntervalKind = ""
    macro_f1: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None
    train_seconds: float | None = None
    test_texts_per_second: float | None = None
    peak_memory_bytes: int | None = None
    num_trainable: tuple[int, int] | None = None
    adapter_bytes: tuple[int, int] | None = None
    is_best: bool = False
    versus_best: Difference | None = None
    versus_no_labels: tuple[Difference, ...] = ()

    @property
    def num_seeds_planned(self) -> int:
        """Distinct planned runs; a cell that reads neither labels nor a seed has one."""
        return len(self.runs)

    @property
    def num_seeds_finished(self) -> int:
        """Distinct runs that the numbers are made of."""
        return sum(run.status == "finished" for run in self.runs)

    @property
    def num_seeds_failed(self) -> int:
        """Distinct runs that ended with a reason and no numbers."""
        return sum(run.status == "failed" for run in self.runs)

    @property
    def num_seeds_missing(self) -> int:
        """Distinct runs without a record."""
        return sum(run.status == "missing" for run in self.runs)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracy of each finished run, in the order of the seeds."""
        return tuple(run.accuracy for run in self.runs if run.accuracy is not None)

    @property
    def chosen_updates(self) -> tuple[int, ...]:
        """The update that each finished run kept, where its record says so."""
        return tuple(run.chosen_update for run in self.runs if run.chosen_update is not None)

    @property
    def ties_best(self) -> bool:
        """Not the best of its column, and not distinguishable from it."""
        return self.versus_best is not None and self.versus_best.distinguishable is False


@dataclass(frozen=True)
class Row:
    """All cells that ask for the same but for `num_labels` and `seed`.

    label: method name and the knobs that tell it from the other rows. asked: the cell as the study file asks
    it, without num_labels and seed. spec: the resolved spec of its first cell. group: rows of one group are
    on the same data and are compared. uses_model: False when the resolved model is none. cells: by
    num_labels, one for every column. facts: each fact's distinct values over the finished runs.
    """

    label: str
    method: str
    asked: Mapping[str, Any]
    spec: Mapping[str, Any]
    group: int
    reads_labels: bool
    uses_model: bool
    cells: Mapping[int, Cell]
    label_names: tuple[str, ...] = ()
    engine_paths: tuple[str, ...] = ()
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfinished:
    """A distinct run without numbers: failed with its reason, or missing (an empty reason)."""

    row: str
    num_labels: int
    seed: int | None
    spec_id: str
    reason: str = ""


@dataclass(frozen=True)
class Protocol:
    """What was held fixed, as the plan and the records say it.

    seeds: as asked. num_test: distinct numbers of test texts. test_texts_shared: whether all finished runs
    on the same data were tested on the same texts; None when nothing finished. splits: for each number of
    labels the distinct (training, selection) sizes that were drawn. chosen_by: how many finished runs chose
    their update by which rule. num_chosen_on_test: finished runs whose rule reads test texts; None when
    nothing finished. prompts, models, data, training: distinct resolved parts of the specs.
    """

    seeds: tuple[int, ...]
    num_test: tuple[int, ...]
    test_texts_shared: bool | None
    splits: Mapping[int, tuple[tuple[int, int], ...]]
    chosen_by: Mapping[str, int]
    num_chosen_on_test: int | None
    prompts: tuple[Any, ...]
    models: tuple[Any, ...]
    data: tuple[Any, ...]
    training: tuple[Any, ...]


@dataclass(frozen=True)
class Provenance:
    """How the records were made: distinct values, in the order of the plan.

    paths: the engine's fast or plain path, and why. memory: what the peak memory was measured of. notes: of
    the runs and of the study's execution. finished_at: ISO 8601, sorted.
    """

    command: str
    plan_notes: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    devices: tuple[str, ...]
    hosts: tuple[str, ...]
    platforms: tuple[str, ...]
    memory: tuple[str, ...]
    git: tuple[str, ...]
    paths: tuple[str, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    finished_at: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """A study in numbers. Counts are of distinct runs; a run that several asked cells share counts once.

    columns: the asked numbers of labels, sorted. label_names: empty when the rows do not agree on them or
    nothing finished. failures, missing: every run that has no numbers. notes: what a reader must know about
    how these numbers were computed.
    """

    name: str
    rows: tuple[Row, ...]
    columns: tuple[int, ...]
    num_planned: int
    num_finished: int
    num_failed: int
    num_missing: int
    label_names: tuple[str, ...]
    protocol: Protocol
    provenance: Provenance
    failures: tuple[Unfinished, ...]
    missing: tuple[Unfinished, ...]
    notes: tuple[str, ...]

    @property
    def has_results(self) -> bool:
        """Whether at least one cell has an accuracy."""
        return any(cell.accuracy is not None for row in self.rows for cell in row.cells.values())

    @property
    def groups(self) -> tuple[tuple[Row, ...], ...]:
        """Rows that are compared with each other, data source by data source."""
        numbers = dict.fromkeys(row.group for row in self.rows)
        return tuple(tuple(row for row in self.rows if row.group == number) for number in numbers)

    def best(self, num_labels: int, group: int = 0) -> Row | None:
        """The row whose cell is the best of a column and group; None when there is none."""
        for row in self.rows:
            if row.group == group and row.cells[num_labels].is_best:
                return row
        return None


def summarise(folder: StudyFolder) -> Summary:
    """Reads a study folder. Raises StudyError when it is no study, or of a format not read here."""
    plan = folder.plan()
    planned: list[Mapping[str, Any]] = list(plan.get("cells", []))
    outcomes: dict[str, _Outcome] = {}
    for cell in planned:
        if cell["spec_id"] not in outcomes:
            outcomes[cell["spec_id"]] = _read_outcome(folder, cell["spec_id"])
    columns = tuple(sorted({int(cell["asked"]["num_labels"]) for cell in planned}))
    rows, notes = _compare(_make_rows(planned, columns, outcomes), columns, outcomes)
    finished = [outcome.record for outcome in outcomes.values() if outcome.record and outcome.tested]
    failures, missing = _unfinished(planned, rows, outcomes)
    return Summary(
        name=str(plan.get("name", folder.path.name)),
        rows=rows,
        columns=columns,
        num_planned=len(outcomes),
        num_finished=len(finished),
        num_failed=len(failures),
        num_missing=len(missing),
        label_names=_agreed([row.label_names for row in rows if row.label_names]),
        protocol=_protocol(planned, rows, outcomes),
        provenance=_provenance(plan, folder.execution(), finished),
        failures=failures,
        missing=missing,
        notes=notes,
    )


# -- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tested:
    """The outcome of one run on its test texts; labels and correct are [texts]."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, predictions: Predictions) -> _Tested:
        return cls(predictions.ids, np.asarray(predictions.labels), np.asarray(predictions.correct))

    def on(self, ids: Sequence[str]) -> _Tested:
        """The same outcome, on `ids` and in their order; all of them must be here."""
        if tuple(ids) == self.ids:
            return self
        position = {name: index for index, name in enumerate(self.ids)}
        order = [position[name] for name in ids]
        return _Tested(tuple(ids), self.labels[order], self.correct[order])


@dataclass(frozen=True)
class _Outcome:
    """A planned run's record, and its test outcome when it finished; both None when it is missing."""

    record: RunRecord | None
    tested: _Tested | None


def _read_outcome(folder: StudyFolder, spec_id: str) -> _Outcome:
    record = folder.record(spec_id)
    if record is None or record.status != "finished":
        return _Outcome(record, None)
    tested = _Tested.of(folder.predictions(spec_id))
    # A run without a single test text has no accuracy to show: it counts as missing, not as a number.
    return _Outcome(record, tested) if tested.ids else _Outcome(None, None)


def _make_run(spec_id: str, seed: int | None, outcome: _Outcome) -> Run:
    record, tested = outcome.record, outcome.tested
    if record is None:
        return Run(spec_id, seed, "missing")
    if tested is None:
        return Run(spec_id, seed, "failed", record.reason or "the record gives no reason")
    seconds = _mapping(record.execution, "seconds")
    test_seconds = _number(seconds, "test")
    test_rate = _number(_mapping(record.execution, "texts_per_second"), "test")
    if test_rate is None and test_seconds:
        test_rate = len(tested.ids) / test_seconds
    return Run(
        spec_id=spec_id,
        seed=seed,
        status="finished",
        accuracy=float(tested.correct.mean()),
        macro_f1=_number(record.metrics, "macro_f1"),
        log_loss=_number(record.metrics, "log_loss"),
        calibration_error=_number(record.metrics, "calibration_error"),
        chosen_update=_whole(record.curve, "chosen_update"),
        train_seconds=_number(seconds, "train"),
        test_texts_per_second=test_rate,
        peak_memory_bytes=_whole(record.execution, "peak_memory_bytes"),
        num_trainable=_whole(record.learned, "num_trainable"),
        adapter_bytes=_whole(record.learned, "adapter_bytes"),
        num_train=_length(record.sample, "train_ids"),
        num_selection=_length(record.sample, "selection_ids"),
        num_test=len(tested.ids),
    )


# -- rows and cells -----------------------------------------------------------------------------------------


def _make_rows(
    planned: Sequence[Mapping[str, Any]], columns: Sequence[int], outcomes: Mapping[str, _Outcome]
) -> tuple[Row, ...]:
    cells_of_row: dict[str, list[Mapping[str, Any]]] = {}
    for cell in planned:
        cells_of_row.setdefault(canonical_json(_without_cell_axes(cell["asked"])), []).append(cell)
    groups: dict[str, int] = {}
    rows = []
    for cells in cells_of_row.values():
        asked, spec = _without_cell_axes(cells[0]["asked"]), cells[0]["spec"]
        records = [outcomes[name].record for name in dict.fromkeys(cell["spec_id"] for cell in cells)]
        finished = [record for record in records if record is not None and record.status == "finished"]
        rows.append(
            Row(
                label="",
                method=_method_name(asked),
                asked=asked,
                spec=spec,
                group=groups.setdefault(canonical_json(asked.get("data")), len(groups)),
                reads_labels=any(_reads_labels(cell) for cell in cells),
                uses_model=not _is_none(spec.get("model")),
                cells=_make_cells(cells, columns, outcomes),
                label_names=_agreed([record.label_names for record in finished]),
                engine_paths=_distinct(record.engine.get("path") for record in finished),
                facts=_facts(finished),
            )
        )
    return tuple(replace(row, label=label) for row, label in zip(rows, _row_labels(rows), strict=True))


def _make_cells(
    cells: Sequence[Mapping[str, Any]], columns: Sequence[int], outcomes: Mapping[str, _Outcome]
) -> dict[int, Cell]:
    unlabelled = [cell for cell in cells if not _reads_labels(cell)]
    made = {}
    for num_labels in columns:
        here = [cell for cell in cells if int(cell["asked"]["num_labels"]) == num_labels]
        # A cell that reads no labels is the same at every number of labels, asked for there or not.
        made[num_labels] = _make_cell(num_labels, here or unlabelled, outcomes)
    return made


def _make_cell(
    num_labels: int, cells: Sequence[Mapping[str, Any]], outcomes: Mapping[str, _Outcome]
) -> Cell:
    if not cells:
        return Cell(num_labels, "not planned", reads_labels=True)
    seed_of: dict[str, int | None] = {}
    for cell in sorted(cells, key=_seed):
        seed_of.setdefault(cell["spec_id"], _seed(cell) if _reads_labels(cell) else None)
    runs = tuple(_make_run(name, seed, outcomes[name]) for name, seed in seed_of.items())
    finished = [run for run in runs if run.status == "finished"]
    if len(finished) == len(runs):
        status: CellStatus = "finished"
    elif finished:
        status = "partial"
    else:
        status = "failed" if any(run.status == "failed" for run in runs) else "missing"
    interval, kind = _accuracy_interval([_tested(run, outcomes) for run in finished])
    memory = [run.peak_memory_bytes for run in finished]
    return Cell(
        num_labels=num_labels,
        status=status,
        reads_labels=any(_reads_labels(cell) for cell in cells),
        runs=runs,
        accuracy=interval,
        interval_kind=kind,
        macro_f1=_mean([run.macro_f1 for run in finished]),
        log_loss=_mean([run.log_loss for run in finished]),
        calibration_error=_mean([run.calibration_error for run in finished]),
        train_seconds=_mean([run.train_seconds for run in finished]),
        test_texts_per_second=_mean([run.test_texts_per_second for run in finished]),
        peak_memory_bytes=max((size for size in memory if size is not None), default=None),
        num_trainable=_extent([run.num_trainable for run in finished]),
        adapter_bytes=_extent([run.adapter_bytes for run in finished]),
    )


def _row_labels(rows: Sequence[Row]) -> list[str]:
    """Method name, plus every knob of the method that differs between rows of that method, plus every
    other value that differs between rows; numbered when that still leaves two alike."""
    asked = [dict(_flat(row.asked)) for row in rows]
    resolved = [dict(_flat(row.spec)) for row in rows]
    paths = list(dict.fromkeys(path for values in asked for path in values if path != "method.name"))
    labels = []
    for index, row in enumerate(rows):
        same_method = [other for other, another in enumerate(rows) if another.method == row.method]
        words = [row.method]
        for path in paths:
            # Knobs of a method are compared within it; the rest also across methods, among those that ask it.
            across = [] if path.startswith("method.") else [i for i in range(len(rows)) if path in asked[i]]
            within = same_method if any(path in asked[i] for i in same_method) else []
            values = [{canonical_json(asked[i].get(path)) for i in some} for some in (within, across)]
            value = asked[index].get(path, resolved[index].get(path))
            if value is not None and any(len(some) > 1 for some in values):
                words.append(f"{_short_path(path, paths)}={_short_value(value)}")
        labels.append(" ".join(words))
    counts = {label: labels.count(label) for label in labels}
    seen: dict[str, int] = {}
    for index, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] = seen.get(label, 0) + 1
            labels[index] = f"{label} ({seen[label]})"
    return labels


def _short_path(path: str, paths: Sequence[str]) -> str:
    section, _, leaf = path.rpartition(".")
    if leaf == "name" and section:
        return section
    is_unique = sum(other.rpartition(".")[2] == leaf for other in paths) == 1
    return leaf if is_unique or section == "method" else path


def _short_value(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


# -- intervals and paired differences -----------------------------------------------------------------------


def _accuracy_interval(tests: Sequence[_Tested]) -> tuple[Interval | None, IntervalKind]:
    if not tests:
        return None, ""
    if len(tests) == 1:
        return wilson_interval(int(tests[0].correct.sum()), len(tests[0].ids)), "wilson"
    common = _common_ids(tests)
    if common:
        kind: IntervalKind = "crossed" if _same_texts(tests) else "crossed on common texts"
        interval = crossed_interval(np.stack([test.on(common).correct for test in tests]))
        return _a_share(_moved(interval, [float(test.correct.mean()) for test in tests])), kind
    return _a_share(_t_interval([float(test.correct.mean()) for test in tests])), "t over seeds"


def _a_share(interval: Interval) -> Interval:
    """No accuracy lies below 0 or above 1, whatever Student's t says of a few seeds."""
    return Interval(interval.estimate, max(0.0, interval.low), min(1.0, interval.high))


def _t_interval(values: Sequence[float]) -> Interval:
    """One-sample t interval of the mean of at least two values."""
    scores = np.asarray(values, dtype=np.float64)[None, :]
    # With one row, paired_crossed_interval is the one-sample t interval, for 0/1 values too.
    return paired_crossed_interval(scores, np.zeros_like(scores))


def _compare(
    rows: tuple[Row, ...], columns: Sequence[int], outcomes: Mapping[str, _Outcome]
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
                    other: _difference(cell, rows[other].cells[num_labels], rows[other].label, outcomes)
                    for other in {best, *unlabelled} - {index}
                }
                cells[index][num_labels] = replace(
                    cell,
                    is_best=index == best,
                    versus_best=against.get(best),
                    versus_no_labels=tuple(against[other] for other in unlabelled if other != index),
                )
    notes = []
    if any(cell.interval_kind == "t over seeds" for row in cells for cell in row.values()):
        notes.append(
            "The test texts differ between the seeds of a cell, so its interval is a t interval over the "
            "accuracies of its seeds."
        )
    if any(cell.interval_kind == "crossed on common texts" for row in cells for cell in row.values()):
        notes.append(
            "The test texts differ between the seeds of a cell; its interval is measured on those that all its "
            "seeds have, around the mean over all."
        )
    compared = [
        difference for row in cells for cell in row.values()
        for difference in (cell.versus_best, *cell.versus_no_labels) if difference is not None
    ]
    if any(difference.interval is None for difference in compared):
        notes.append("Some cells share no seed or no test text with the one they stand beside: not compared.")
    if len({row.group for row in rows}) > 1:
        notes.append("Rows on different data are not compared; each data source has its own best.")
    return tuple(replace(row, cells=made) for row, made in zip(rows, cells, strict=True)), tuple(notes)


def _difference(a: Cell, b: Cell, other: str, outcomes: Mapping[str, _Outcome]) -> Difference:
    pairs = []
    for run_a, run_b in _paired_runs(a, b):
        pair = _on_shared_texts(_tested(run_a, outcomes), _tested(run_b, outcomes))
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
        return Difference(other, interval, p_value, 1, num_texts)
    means = [
        float(test_a.correct.mean() - test_b.correct.mean()) for test_a, test_b in zip(tests_a, tests_b, strict=True)
    ]
    ids = _common_ids(tests_a)
    if ids:
        stacked_a = [test.on(ids).correct for test in tests_a]
        stacked_b = [test.on(ids).correct for test in tests_b]
        # A run that stands against all seeds of the other cell is one classifier, not as many.
        if len({pair[1].spec_id for pair in pairs}) == 1:
            interval = _paired_interval(stacked_a, stacked_b[:1])
        elif len({pair[0].spec_id for pair in pairs}) == 1:
            flipped = _paired_interval(stacked_b, stacked_a[:1])
            interval = Interval(-flipped.estimate, -flipped.high, -flipped.low)
        else:
            interval = _paired_interval(stacked_a, stacked_b)
        interval = _moved(interval, means)
    else:
        interval = _t_interval(means)
    return Difference(other, interval, None, len(pairs), num_texts)


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


def _on_shared_texts(a: _Tested, b: _Tested) -> tuple[_Tested, _Tested] | None:
    """Both on the texts that both have; None when there are none, or when one id means two texts."""
    in_b = set(b.ids)
    ids = [name for name in a.ids if name in in_b]
    if not ids:
        return None
    a, b = a.on(ids), b.on(ids)
    return (a, b) if np.array_equal(a.labels, b.labels) else None


def _paired_interval(a: Sequence[NDArray[np.bool_]], b: Sequence[NDArray[np.bool_]]) -> Interval:
    return paired_crossed_interval(np.stack(a).astype(float), np.stack(b).astype(float))


def _common_ids(tests: Sequence[_Tested]) -> tuple[str, ...]:
    """The texts that every run was tested on, in the first one's order; none when they are too few to say much.

    Seeds that draw their labels out of one table have overlapping test texts: as if they were independent, an
    interval over the seeds' means would leave out how the texts were sampled.
    """
    everywhere = set.intersection(*(set(test.ids) for test in tests))
    common = tuple(name for name in tests[0].ids if name in everywhere)
    if _same_texts(tests):
        return common if len(common) > 1 else ()
    return common if len(common) >= MIN_COMMON_TEXTS else ()


def _moved(interval: Interval, means: Sequence[float]) -> Interval:
    """An interval measured on common texts, around the mean over all texts of every seed; inside [-1, 1]."""
    shift = float(np.mean(means)) - interval.estimate
    if abs(shift) < 1e-12:
        return interval
    return Interval(interval.estimate + shift, max(-1.0, interval.low + shift), min(1.0, interval.high + shift))


def _same_texts(tests: Sequence[_Tested]) -> bool:
    first = tests[0].ids
    return all(test.ids == first or set(test.ids) == set(first) for test in tests[1:])


def _estimate(cell: Cell) -> float:
    assert cell.accuracy is not None
    return cell.accuracy.estimate


def _tested(run: Run, outcomes: Mapping[str, _Outcome]) -> _Tested:
    tested = outcomes[run.spec_id].tested
    assert tested is not None
    return tested


# -- what else the records say ------------------------------------------------------------------------------


def _unfinished(
    planned: Sequence[Mapping[str, Any]], rows: Sequence[Row], outcomes: Mapping[str, _Outcome]
) -> tuple[tuple[Unfinished, ...], tuple[Unfinished, ...]]:
    """(failed, missing), each distinct run once, in the order of the plan."""
    label_of = {canonical_json(row.asked): row.label for row in rows}
    failed: dict[str, Unfinished] = {}
    missing: dict[str, Unfinished] = {}
    for cell in planned:
        name = cell["spec_id"]
        run = _make_run(name, None, outcomes[name])
        if run.status == "finished" or name in failed or name in missing:
            continue
        seeded = _reads_labels(cell)
        entry = Unfinished(
            row=label_of[canonical_json(_without_cell_axes(cell["asked"]))],
            num_labels=int(cell["asked"]["num_labels"]) if seeded else 0,
            seed=_seed(cell) if seeded else None,
            spec_id=name,
            reason=run.reason,
        )
        (failed if run.status == "failed" else missing)[name] = entry
    return tuple(failed.values()), tuple(missing.values())


def _protocol(
    planned: Sequence[Mapping[str, Any]], rows: Sequence[Row], outcomes: Mapping[str, _Outcome]
) -> Protocol:
    tests: dict[int, dict[str, _Tested]] = {}
    splits: dict[int, dict[tuple[int, int], None]] = {}
    for row in rows:
        for num_labels, cell in row.cells.items():
            for run in cell.runs:
                if run.status != "finished":
                    continue
                tests.setdefault(row.group, {})[run.spec_id] = _tested(run, outcomes)
                if cell.reads_labels and run.num_train is not None and run.num_selection is not None:
                    splits.setdefault(num_labels, {})[run.num_train, run.num_selection] = None
    records = [outcome.record for outcome in outcomes.values() if outcome.record and outcome.tested]
    rules = [str(record.curve["chosen_by"]) for record in records if record.curve.get("chosen_by")]
    specs = [cell["spec"] for cell in planned]
    shared = all(_same_texts(list(group.values())) for group in tests.values()) if tests else None
    return Protocol(
        seeds=tuple(sorted({_seed(cell) for cell in planned})),
        num_test=tuple(sorted({len(test.ids) for group in tests.values() for test in group.values()})),
        test_texts_shared=shared,
        splits={num_labels: tuple(splits[num_labels]) for num_labels in sorted(splits)},
        chosen_by={rule: rules.count(rule) for rule in dict.fromkeys(rules)},
        num_chosen_on_test=sum(map(_reads_test, rules)) if records else None,
        prompts=_distinct_parts(specs, "prompt"),
        models=_distinct_parts(specs, "model"),
        data=_distinct_parts(specs, "data"),
        training=_distinct_parts(specs, "training"),
    )


def _provenance(
    plan: Mapping[str, Any], settings: Mapping[str, Any], finished: Sequence[RunRecord]
) -> Provenance:
    executions = [record.execution for record in finished]
    versions: dict[str, dict[str, None]] = {}
    for execution in executions:
        for package, version in _mapping(execution, "versions").items():
            versions.setdefault(str(package), {})[_plain_text(version)] = None
    return Provenance(
        command=str(plan.get("command", "")),
        plan_notes=tuple(str(note) for note in plan.get("notes", ())),
        versions={package: tuple(versions[package]) for package in sorted(versions)},
        devices=_distinct(execution.get("device") for execution in executions),
        hosts=_distinct(execution.get("host") for execution in executions),
        platforms=_distinct(execution.get("platform") for execution in executions),
        memory=_distinct(execution.get("peak_memory_of") for execution in executions),
        git=_distinct(execution.get("git") for execution in executions),
        paths=_distinct(
            why for record in finished for why in (record.engine.get("why"), record.execution.get("path"))
        ),
        notes=_distinct(
            note for told in (settings, *executions) for note in told.get("notes") or ()
        ),
        settings={name: value for name, value in settings.items() if name != "notes"},
        finished_at=tuple(sorted(_distinct(execution.get("finished_at") for execution in executions))),
    )


def _facts(finished: Iterable[RunRecord]) -> dict[str, tuple[Any, ...]]:
    facts: dict[str, dict[str, Any]] = {}
    for record in finished:
        for name, value in record.facts.items():
            facts.setdefault(str(name), {})[canonical_json(value)] = value
    return {name: tuple(values.values()) for name, values in facts.items()}


def _reads_test(rule: str) -> bool:
    """Whether a record's `chosen_by` names the test texts ("test accuracy", "last of best_on_test")."""
    return "test" in re.findall(r"[a-z]+", rule.lower())


def _distinct_parts(specs: Iterable[Mapping[str, Any]], section: str) -> tuple[Any, ...]:
    """The distinct values of a section, in order, those that stand for "none" left out."""
    parts = {canonical_json(spec.get(section)): spec.get(section) for spec in specs}
    return tuple(part for part in parts.values() if part and not _is_none(part))


# -- plain data ---------------------------------------------------------------------------------------------


def _without_cell_axes(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name not in ("num_labels", "seed")}


def _reads_labels(cell: Mapping[str, Any]) -> bool:
    return bool(cell["spec"].get("num_labels") != 0)


def _seed(cell: Mapping[str, Any]) -> int:
    return int(cell["asked"].get("seed", 0))


def _method_name(asked: Mapping[str, Any]) -> str:
    method = asked.get("method")
    return str(method.get("name", "")) if isinstance(method, Mapping) else str(method)


def _is_none(part: Any) -> bool:
    name = part.get("name") if isinstance(part, Mapping) else part
    return part is None or name == "none"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """("prompt.name", "alpaca") for every leaf of nested mappings; lists are leaves."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _mapping(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = plain.get(name)
    return value if isinstance(value, Mapping) else {}


def _number(plain: Mapping[str, Any], name: str) -> float | None:
    value = plain.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _whole(plain: Mapping[str, Any], name: str) -> int | None:
    value = _number(plain, name)
    return None if value is None else round(value)


def _length(plain: Mapping[str, Any], name: str) -> int | None:
    value = plain.get(name)
    return len(value) if isinstance(value, (list, tuple)) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _extent(values: Sequence[int | None]) -> tuple[int, int] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _distinct(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_plain_text(value) for value in values if value not in (None, "", {})))


def _agreed(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return names[0] if names and all(other == names[0] for other in names) else ()
