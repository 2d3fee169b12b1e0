"""Plan and records of a study -> numbers: means, intervals, paired differences, what is missing.

Knows nothing of how a run is made, of torch, or of how numbers are shown: it reads what `results` holds on
disk and asks `statistics`. It names no method; "reads no labels" and "uses no language model" are read from
the resolved specs. Accuracies and differences are fractions, log losses are in nats, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handful.results import StudyFolder
from handful.summary.comparison import compare
from handful.summary.outcomes import Outcome, read_outcome
from handful.summary.parts import Cell, Difference, Protocol, Provenance, Row, Run, Summary, Unfinished
from handful.summary.plain import agreed
from handful.summary.protocol import protocol_of, provenance_of, unfinished_runs
from handful.summary.rows import make_rows

__all__ = [
    "Cell",
    "Difference",
    "Protocol",
    "Provenance",
    "Row",
    "Run",
    "Summary",
    "Unfinished",
    "summarise",
]


def summarise(folder: StudyFolder) -> Summary:
    """Reads a study folder. Raises StudyError when it is no study, or of a format not read here."""
    plan = folder.plan()
    planned: list[Mapping[str, Any]] = list(plan.get("cells", []))
    outcomes: dict[str, Outcome] = {}
    for cell in planned:
        if cell["spec_id"] not in outcomes:
            outcomes[cell["spec_id"]] = read_outcome(folder, cell["spec_id"])
    columns = tuple(sorted({int(cell["asked"]["num_labels"]) for cell in planned}))
    rows, notes = compare(make_rows(planned, columns, outcomes), columns, outcomes)
    finished = [outcome.record for outcome in outcomes.values() if outcome.record and outcome.tested]
    failures, missing = unfinished_runs(planned, rows, outcomes)
    return Summary(
        name=str(plan.get("name", folder.path.name)),
        rows=rows,
        columns=columns,
        num_planned=len(outcomes),
        num_finished=len(finished),
        num_failed=len(failures),
        num_missing=len(missing),
        label_names=agreed([row.label_names for row in rows if row.label_names]),
        protocol=protocol_of(planned, rows, outcomes),
        provenance=provenance_of(plan, folder.execution(), finished),
        failures=failures,
        missing=missing,
        notes=notes,
    )
