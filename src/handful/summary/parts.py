"""What a summary is made of: runs, cells, rows, differences, and how they were made. Plain frozen numbers.

Knows nothing of folders or of how a number is computed. Accuracies and differences are fractions, log losses are
in nats, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from handful.statistics import Interval, VarianceComponents

SIGNIFICANCE = 0.05
"""Level of the exact McNemar test; the intervals are 95 % ones to match."""

RunStatus = Literal["finished", "failed", "missing"]
CellStatus = Literal["finished", "partial", "failed", "missing", "not planned"]
IntervalKind = Literal["", "wilson", "crossed", "crossed on common texts", "t over seeds"]


DIVERGED_ABOVE = 1.1
"""A run diverged when its last training loss is so many times its first one."""


@dataclass(frozen=True)
class CurvePoint:
    """What training showed at an update; losses in nats, the training loss a mean since the point before.

    test_accuracy: where the record measured the test texts at every point. test_log_loss: where the paper's protocol
    did, which alone chooses by them.
    """

    update: int
    epoch: float | None = None
    train_loss: float | None = None
    selection_log_loss: float | None = None
    test_accuracy: float | None = None
    test_log_loss: float | None = None


@dataclass(frozen=True)
class Run:
    """One distinct planned run and what its record says; a value the record does not hold is None.

    seed: None when the run reads neither labels nor a seed. init_seed: of the start, None where that is `seed`, too.
    chosen_update: the update that was kept, chosen_by: in the words of the record, "" where it says nothing.
    curve: the measured updates, in order. num_train, num_selection, num_test, num_texts_cut: texts. inverse_penalty: C
    of a regression.
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
    curve: tuple[CurvePoint, ...] = ()
    train_seconds: float | None = None
    test_texts_per_second: float | None = None
    peak_memory_bytes: int | None = None
    num_trainable: int | None = None
    adapter_bytes: int | None = None
    num_train: int | None = None
    num_selection: int | None = None
    num_test: int | None = None
    num_texts_cut: int | None = None
    init_seed: int | None = None
    chosen_by: str = ""
    inverse_penalty: float | None = None

    @property
    def num_texts(self) -> int | None:
        """All texts that the run read; None when the record does not say."""
        counts = (self.num_train, self.num_selection, self.num_test)
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def chosen_epoch(self) -> float | None:
        """How many times the training texts had been read at the update that was kept."""
        return next((point.epoch for point in self.curve if point.update == self.chosen_update), None)

    @property
    def by_epoch(self) -> tuple[float, float | None, float] | None:
        """Test accuracy at the update that was kept, at the last one (None where training ends with the one to keep, so
        that there is no other), and at the one that is best on the test texts: the oracle. None where the record did
        not measure all of them."""
        tested = {point.update: point.test_accuracy for point in self.curve if point.test_accuracy is not None}
        if not tested or len(tested) < len(self.curve) or self.chosen_update not in tested:
            return None
        last = max(tested)
        chooses = any({point.selection_log_loss, point.test_log_loss} != {None} for point in self.curve)
        has_last = chooses or self.chosen_update != last
        return tested[self.chosen_update], tested[last] if has_last else None, max(tested.values())

    @property
    def diverged(self) -> bool:
        """Whether training went astray: it failed and says so, or its training loss rose by a tenth."""
        losses = [point.train_loss for point in self.curve if point.train_loss is not None]
        rose = len(losses) > 1 and losses[-1] > DIVERGED_ABOVE * losses[0]
        return rose or (self.status == "failed" and "diverged" in self.reason)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one cell minus that of another row's cell in the same column, as fractions.

    Paired by seed and by test text: only seeds and texts that both have are in it. interval: None when they
    share none. p_value: exact McNemar, when there is one run on either side, else None. t_p_value: of the test that
    the interval stands for, where there is more. detectable: the smallest true difference that such data find with 80 %
    power, None where they say nothing of it. is_single: one draw of a trained method's labels stands in it, so what it
    says is of that draw, and not of the method. num_seeds: of samples; num_starts: pairs of each of them, more than one
    where it is the same sample everywhere.
    """

    other: str
    interval: Interval | None
    p_value: float | None
    num_seeds: int
    num_texts: int
    t_p_value: float | None = None
    detectable: float | None = None
    is_single: bool = False
    num_starts: int = 1

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
    versus_no_labels: against each row on the same data that reads no labels, itself left out. components: where the
    variance of the mean comes from, with at least two seeds on the same test texts.
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
    components: VarianceComponents | None = None

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
    def chosen_epochs(self) -> tuple[float, ...]:
        """The epoch that each finished run kept, where its record says so."""
        return tuple(run.chosen_epoch for run in self.runs if run.accuracy is not None and run.chosen_epoch is not None)

    @property
    def ties_best(self) -> bool:
        """Not the best of its column, and not distinguishable from it."""
        return self.versus_best is not None and self.versus_best.distinguishable is False


@dataclass(frozen=True)
class Row:
    """All cells that ask for the same but for `num_labels` and `seed`.

    label: method name and the knobs that tell it from the other rows. asked: the cell as the study file asks
    it, without num_labels and seed. spec: the resolved spec of its first cell. group: rows of one group are
    on the same data, choose alike, and are compared. uses_model: False when the resolved model is none. cells: by
    num_labels, one for every column. sees: what its runs were allowed to look at before the test, where their records
    say so. facts: each fact's distinct values over the finished runs. recipes: hashes of the recipes that filled its
    open knobs. on_test: its updates were chosen on the test texts. num_tried: fewest and most settings that a
    finished run tried, 1 where it chose nothing. specs: the resolved spec of the first cell at each number of labels.
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
    sees: tuple[str, ...] = ()
    facts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    recipes: tuple[str, ...] = ()
    on_test: bool = False
    num_tried: tuple[int, int] | None = None
    specs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A comparison that the study declared before it ran, at one number of labels.

    first, second: labels of rows. num_labels: 0 where neither reads any. difference: first minus second. p_value:
    exact McNemar, or of the crossed test. adjusted: after Holm, over all claims of the study that could be tested;
    None where the difference `is_single`: a claim is about methods, and one seed says nothing of another.
    """

    first: str
    second: str
    num_labels: int
    difference: Difference
    p_value: float
    adjusted: float | None

    @property
    def is_settled(self) -> bool:
        """Whether the data tell the two apart, all claims taken together."""
        return self.adjusted is not None and self.adjusted < SIGNIFICANCE


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
    nothing finished. prompts, models, data, training: distinct resolved parts of the specs. init_seeds: of the start,
    where it has seeds of its own.
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
    init_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """How the records were made: distinct values, in the order of the plan.

    paths: the engine's fast or plain path, and why. memory: what the peak memory was measured of. notes: of
    the runs and of the study's execution. finished_at: ISO 8601, sorted. lock_sha256: of what
    the lock file says of the study itself, "" without one.
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
    lock_sha256: str = ""
