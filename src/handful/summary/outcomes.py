"""Records and predictions -> what each planned run came to, and on which test texts.

Knows nothing of rows, columns or intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handful.results import Predictions, RunRecord, StudyFolder
from handful.summary.parts import CurvePoint, Run
from handful.summary.plain import length, mapping, number, whole

MIN_COMMON_TEXTS = 20
"""Where seeds have test texts of their own, the interval is measured on those that all of them have, if so many."""


@dataclass(frozen=True)
class Tested:
    """The outcome of one run on its test texts; all arrays are [texts], the scores natural logarithms."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    gold_log_probability: NDArray[np.float64]

    @classmethod
    def of(cls, predictions: Predictions) -> Tested:
        """What predictions say of each text."""
        labels = np.asarray(predictions.labels)
        gold = np.asarray(predictions.log_probabilities)[np.arange(len(labels)), labels]
        return cls(predictions.ids, labels, np.asarray(predictions.predicted), gold)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[texts]"""
        return self.predicted == self.labels

    def on(self, ids: Sequence[str]) -> Tested:
        """The same outcome, on `ids` and in their order; all of them must be here."""
        if tuple(ids) == self.ids:
            return self
        order = _places(self.ids, ids)
        return Tested(tuple(ids), self.labels[order], self.predicted[order], self.gold_log_probability[order])


@dataclass(frozen=True)
class Outcome:
    """A planned run's record, and its test outcome when it finished; both None when it is missing."""

    record: RunRecord | None
    tested: Tested | None


def read_outcome(folder: StudyFolder, spec_id: str) -> Outcome:
    """What lies in the folder for a planned run."""
    record = folder.record(spec_id)
    if record is None or record.status != "finished":
        return Outcome(record, None)
    tested = Tested.of(folder.predictions(spec_id))
    # A run without a single test text has no accuracy to show: it counts as missing, not as a number.
    return Outcome(record, tested) if tested.ids else Outcome(None, None)


def make_run(spec_id: str, seed: int | None, outcome: Outcome, init_seed: int | None = None) -> Run:
    """What a planned run's record says; without one it is missing."""
    record, tested = outcome.record, outcome.tested
    if record is None:
        return Run(spec_id, seed, "missing", init_seed=init_seed)
    if tested is None:
        reason = record.reason or "the record gives no reason"
        return Run(spec_id, seed, "failed", reason, curve=_curve(record), init_seed=init_seed)
    seconds = mapping(record.execution, "seconds")
    test_seconds = number(seconds, "test")
    test_rate = number(mapping(record.execution, "texts_per_second"), "test")
    has_probabilities = record.learned.get("has_probabilities") is not False
    is_remembered = bool(number(mapping(record.execution, "amounts"), "remembered_test_texts"))
    if test_rate is None and test_seconds and not is_remembered:
        test_rate = len(tested.ids) / test_seconds
    return Run(
        spec_id=spec_id,
        seed=seed,
        status="finished",
        accuracy=float(tested.correct.mean()),
        macro_f1=number(record.metrics, "macro_f1"),
        # Where nobody gave probabilities, what is computed from stand-ins for them says nothing.
        log_loss=number(record.metrics, "log_loss") if has_probabilities else None,
        calibration_error=number(record.metrics, "calibration_error") if has_probabilities else None,
        chosen_update=whole(record.curve, "chosen_update"),
        curve=_curve(record),
        # Before its first update a method may look at unlabelled texts: that is part of what it takes to train it.
        train_seconds=_sum(number(seconds, "prior"), number(seconds, "train")),
        test_texts_per_second=test_rate,
        peak_memory_bytes=whole(record.execution, "peak_memory_bytes"),
        num_trainable=whole(record.learned, "num_trainable"),
        adapter_bytes=whole(record.learned, "adapter_bytes"),
        num_train=length(record.sample, "train_ids"),
        num_selection=length(record.sample, "selection_ids"),
        num_test=len(tested.ids),
        num_texts_cut=whole(record.facts, "num_texts_cut"),
        init_seed=init_seed,
        chosen_by=str(record.curve.get("chosen_by") or ""),
        inverse_penalty=number(record.learned, "inverse_penalty"),
    )


def _sum(first: float | None, second: float | None) -> float | None:
    return second if first is None or second is None else first + second


def _curve(record: RunRecord) -> tuple[CurvePoint, ...]:
    """The measured updates of a record, those left out that do not say which update they are."""
    points = record.curve.get("points")
    made = []
    for point in points if isinstance(points, (list, tuple)) else ():
        if isinstance(point, Mapping) and (update := whole(point, "update")) is not None:
            names = "epoch", "train_loss", "selection_log_loss", "test_accuracy", "test_log_loss"
            made.append(CurvePoint(update, *(number(point, name) for name in names)))
    return tuple(made)


@dataclass(frozen=True)
class Unit:
    """What counts as one draw of a seed: a run, or the mean over the runs of one sample that differ in their start.

    ids, labels: [texts]. correct: [texts], 0/1 of a run, else the share of its runs that are right. spec_ids: of them.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    correct: NDArray[np.float64]
    spec_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> Unit:
        """The mean of these finished runs, on the texts that all of them have."""
        tests = [tested_of(run, outcomes) for run in runs]
        everywhere = set.intersection(*(set(test.ids) for test in tests))
        ids = tuple(name for name in tests[0].ids if name in everywhere)
        shown = [test.on(ids) for test in tests]
        correct = np.mean([test.correct for test in shown], axis=0)
        return cls(ids, shown[0].labels, correct, tuple(run.spec_id for run in runs))

    def on(self, ids: Sequence[str]) -> Unit:
        """The same, on `ids` and in their order; all of them must be here."""
        if tuple(ids) == self.ids:
            return self
        order = _places(self.ids, ids)
        return Unit(tuple(ids), self.labels[order], self.correct[order], self.spec_ids)


def _places(ids: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of `wanted` stands among `ids`."""
    position = {name: index for index, name in enumerate(ids)}
    return [position[name] for name in wanted]


class HasIds(Protocol):
    """Anything that was tested on texts with these ids."""

    @property
    def ids(self) -> tuple[str, ...]:
        """[texts]"""
        ...


def units_of(finished: Sequence[Run], outcomes: Mapping[str, Outcome]) -> list[Unit]:
    """One for each sample of labels; where there is a single sample, one for each start."""
    return [Unit.of(runs, outcomes) for runs in by_sample(finished).values()]


def by_sample(finished: Sequence[Run]) -> dict[Any, list[Run]]:
    """Runs by the seed of their sample; by that of their start, too, where several have one sample."""
    by_start = len(finished) > 1 and len({run.seed for run in finished}) == 1
    groups: dict[Any, list[Run]] = {}
    for run in finished:
        groups.setdefault((run.seed, run.init_seed) if by_start else run.seed, []).append(run)
    return groups


def on_shared_texts(a: Unit, b: Unit) -> tuple[Unit, Unit] | None:
    """Both on the texts that both have; None when there are none, or when one id means two texts."""
    in_b = set(b.ids)
    ids = [name for name in a.ids if name in in_b]
    if not ids:
        return None
    a, b = a.on(ids), b.on(ids)
    return (a, b) if np.array_equal(a.labels, b.labels) else None


def common_ids(tests: Sequence[HasIds]) -> tuple[str, ...]:
    """The texts that every run was tested on, in the first one's order; none when they are too few to say much.

    Seeds that draw their labels out of one table have overlapping test texts: as if they were independent, an
    interval over the seeds' means would leave out how the texts were sampled.
    """
    everywhere = set.intersection(*(set(test.ids) for test in tests))
    common = tuple(name for name in tests[0].ids if name in everywhere)
    if same_texts(tests):
        return common if len(common) > 1 else ()
    return common if len(common) >= MIN_COMMON_TEXTS else ()


def same_texts(tests: Sequence[HasIds]) -> bool:
    """Whether all were tested on the same texts, in whatever order."""
    first = tests[0].ids
    return all(test.ids == first or set(test.ids) == set(first) for test in tests[1:])


def tested_of(run: Run, outcomes: Mapping[str, Outcome]) -> Tested:
    """The test outcome of a finished run."""
    tested = outcomes[run.spec_id].tested
    assert tested is not None
    return tested
