"""A summary -> CSV for other programs: one line for each cell and seed, numbers in full, nothing rounded.

Accuracies are fractions, log losses in nats, sizes in bytes. A number that the record does not hold is an empty
field. Knows nothing of files.
"""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

from handful.identity import canonical_json
from handful.report.wording import without_folders
from handful.summary import Cell, Row, Run, Summary

OF_RUN = (
    "accuracy", "macro_f1", "log_loss", "calibration_error", "chosen_update", "chosen_epoch", "train_seconds",
    "test_texts_per_second", "peak_memory_bytes", "num_trainable", "adapter_bytes", "num_train", "num_selection",
    "num_test", "num_texts_cut",
)
"""Columns that are a run's own numbers, by the names that `Run` gives them."""
COLUMNS = (
    "study", "row", "method", "num_labels", "reads_labels", "seed", "init_seed", "status", "reason", "spec_id", *OF_RUN,
    "cell_accuracy", "cell_low", "cell_high", "cell_mark", "spec",
)
"""The head. cell_*: of the cell that the run is part of, the mean over its seeds with its 95 % interval. spec: the
row's resolved spec as JSON."""
NOT_OF_ROW = ("num_labels", "seed", "init_seed")


def render(summary: Summary) -> str:
    """The table. A cell that reads no labels stands at every number of labels, with an empty seed if it has none."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in summary.rows:
        for cell in row.cells.values():
            for run in cell.runs:
                writer.writerow(_line(summary, row, cell, run))
    return stream.getvalue()


def _line(summary: Summary, row: Row, cell: Cell, run: Run) -> list[Any]:
    values: dict[str, Any] = {name: getattr(run, name) for name in OF_RUN} | {
        "study": summary.name,
        "row": row.label,
        "method": row.method,
        "num_labels": cell.num_labels,
        "reads_labels": "true" if cell.reads_labels else "false",
        "seed": run.seed,
        "init_seed": run.init_seed,
        "status": run.status,
        "reason": without_folders(run.reason),
        "spec_id": run.spec_id,
        "cell_mark": "best" if cell.is_best else "tie" if cell.ties_best else "",
        "spec": canonical_json({name: part for name, part in row.spec.items() if name not in NOT_OF_ROW}),
    }
    if cell.accuracy is not None:
        mean = cell.accuracy
        values |= {"cell_accuracy": mean.estimate, "cell_low": mean.low, "cell_high": mean.high}
    # csv writes floats so that they read back as the same number, and None as nothing.
    return [values.get(name) for name in COLUMNS]
