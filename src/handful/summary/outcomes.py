"""Records and predictions -> what each planned run came to, and on which test texts.

Knows nothing of rows, columns or intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handful.results import Predictions, RunRecord, StudyFolder
from handful.summary.parts import Run
from handful.summary.plain import length, mapping, number, whole

MIN_COMMON_TEXTS = 20
"""Where seeds have test texts of their own, the interval is measured on those that all of them have, if so many."""


@dataclass(frozen=True)
class Tested:
    """The outcome of one run on its test texts; labels and correct are [texts]."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, predictions: Predictions) -> Tested:
        return cls(predictions.ids, np.asarray(predictions.labels), np.asarray(predictions.correct))

    def on(self, ids: Sequence[str]) -> Tested:
        """The same outcome, on `ids` and in their order; all of them must be here."""
        if tuple(ids) == self.ids:
            return self
        position = {name: index for index, name in enumerate(self.ids)}
        order = [position[name] for name in ids]
        return Tested(tuple(ids), self.labels[order], self.correct[order])


@dataclass(frozen=True)
class Outcome:
    """A planned run's record, and its test outcome when it finished; both None when it is missing."""

    record: RunRecord | None
    tested: Tested | None


def read_outcome(folder: StudyFolder, spec_id: str) -> Outcome:
    record = folder.record(spec_id)
    if record is None or record.status != "finished":
        return Outcome(record, None)
    tested = Tested.of(folder.predictions(spec_id))
    # A run without a single test text has no accuracy to show: it counts as missing, not as a number.
    return Outcome(record, tested) if tested.ids else Outcome(None, None)


def make_run(spec_id: str, seed: int | None, outcome: Outcome) -> Run:
    record, tested = outcome.record, outcome.tested
    if record is None:
        return Run(spec_id, seed, "missing")
    if tested is None:
        return Run(spec_id, seed, "failed", record.reason or "the record gives no reason")
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
        train_seconds=number(seconds, "train"),
        test_texts_per_second=test_rate,
        peak_memory_bytes=whole(record.execution, "peak_memory_bytes"),
        num_trainable=whole(record.learned, "num_trainable"),
        adapter_bytes=whole(record.learned, "adapter_bytes"),
        num_train=length(record.sample, "train_ids"),
        num_selection=length(record.sample, "selection_ids"),
        num_test=len(tested.ids),
    )


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
    first = tests[0].ids
    return all(test.ids == first or set(test.ids) == set(first) for test in tests[1:])


def tested_of(run: Run, outcomes: Mapping[str, Outcome]) -> Tested:
    tested = outcomes[run.spec_id].tested
    assert tested is not None
    return tested
