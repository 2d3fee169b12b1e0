"""Records and predictions -> what each planned run came to, and on which test texts.

Knows nothing of rows, columns or intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        position = {name: index for index, name in enumerate(self.ids)}
        order = [position[name] for name in ids]
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


def make_run(spec_id: str, seed: int | None, outcome: Outcome) -> Run:
    """What a planned run's record says; without one it is missing."""
    record, tested = outcome.record, outcome.tested
    if record is None:
        return Run(spec_id, seed, "missing")
    if tested is None:
        reason = record.reason or "the record gives no reason"
        return Run(spec_id, seed, "failed", reason, curve=_curve(record))
    seconds = mapping(record.execution, "seconds")
    test_seconds = number(seconds, "test")
    test_rate = number(mapping(record.execution, "texts_per_second"), "test")
    if test_rate is None and test_seconds:
        test_rate = len(tested.ids) / test_seconds
    return Run(
        spec_id=spec_id,
        seed=seed,
        status="finished",
        accuracy=float(tested.correct.mean()),
        macro_f1=number(record.metrics, "macro_f1"),
        log_loss=number(record.metrics, "log_loss"),
        calibration_error=number(record.metrics, "calibration_error"),
        chosen_update=whole(record.curve, "chosen_update"),
        curve=_curve(record),
        train_seconds=number(seconds, "train"),
        test_texts_per_second=test_rate,
        peak_memory_bytes=whole(record.execution, "peak_memory_bytes"),
        num_trainable=whole(record.learned, "num_trainable"),
        adapter_bytes=whole(record.learned, "adapter_bytes"),
        num_train=length(record.sample, "train_ids"),
        num_selection=length(record.sample, "selection_ids"),
        num_test=len(tested.ids),
        num_texts_cut=whole(record.facts, "num_texts_cut"),
    )


def _curve(record: RunRecord) -> tuple[CurvePoint, ...]:
    """The measured updates of a record, those left out that do not say which update they are."""
    points = record.curve.get("points")
    made = []
    for point in points if isinstance(points, (list, tuple)) else ():
        if isinstance(point, Mapping) and (update := whole(point, "update")) is not None:
            names = "epoch", "train_loss", "selection_log_loss", "test_accuracy"
            made.append(CurvePoint(update, *(number(point, name) for name in names)))
    return tuple(made)


def on_shared_texts(a: Tested, b: Tested) -> tuple[Tested, Tested] | None:
    """Both on the texts that both have; None when there are none, or when one id means two texts."""
    in_b = set(b.ids)
    ids = [name for name in a.ids if name in in_b]
    if not ids:
        return None
    a, b = a.on(ids), b.on(ids)
    return (a, b) if np.array_equal(a.labels, b.labels) else None


def common_ids(tests: Sequence[Tested]) -> tuple[str, ...]:
    """The texts that every run was tested on, in the first one's order; none when they are too few to say much.

    Seeds that draw their labels out of one table have overlapping test texts: as if they were independent, an
    interval over the seeds' means would leave out how the texts were sampled.
    """
    everywhere = set.intersection(*(set(test.ids) for test in tests))
    common = tuple(name for name in tests[0].ids if name in everywhere)
    if same_texts(tests):
        return common if len(common) > 1 else ()
    return common if len(common) >= MIN_COMMON_TEXTS else ()


def same_texts(tests: Sequence[Tested]) -> bool:
    """Whether all were tested on the same texts, in whatever order."""
    first = tests[0].ids
    return all(test.ids == first or set(test.ids) == set(first) for test in tests[1:])


def tested_of(run: Run, outcomes: Mapping[str, Outcome]) -> Tested:
    """The test outcome of a finished run."""
    tested = outcomes[run.spec_id].tested
    assert tested is not None
    return tested
