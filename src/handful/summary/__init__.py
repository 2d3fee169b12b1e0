"""Plan and records of a study -> numbers: means, intervals, paired differences, what is missing.

Knows nothing of how a run is made, of torch, or of how numbers are shown: it reads what `results` holds on
disk and asks `statistics`. It names no method; "reads no labels" and "uses no language model" are read from
the resolved specs. Accuracies and differences are fractions, log losses are in nats, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handful.learning_curves import Equivalent
from handful.results import StudyFolder
from handful.summary.axes import Pivot, Spread, SpreadCell, pivots_of, spreads_of
from handful.summary.claims import claims_of, pairs_of
from handful.summary.comparison import compare
from handful.summary.learning import CurveOfRow, Equivalence, Gain, learning_of
from handful.summary.mistakes import Mistake, Mistakes, mistakes_of
from handful.summary.outcomes import Outcome, read_outcome
from handful.summary.overlap import OverlapOfData, overlaps_of
from handful.summary.parts import Cell, Claim, CurvePoint, Difference, Protocol, Provenance, Row, Run, Unfinished
from handful.summary.plain import agreed
from handful.summary.protocol import protocol_of, provenance_of, unfinished_runs
from handful.summary.published import (
    Published,
    PublishedCell,
    PublishedRow,
    Told,
    problems_of_published,
    published_of,
)
from handful.summary.rows import make_rows

__all__ = [
    "Cell",
    "Claim",
    "CurveOfRow",
    "CurvePoint",
    "Difference",
    "Equivalence",
    "Equivalent",
    "Gain",
    "Mistake",
    "Mistakes",
    "OverlapOfData",
    "Pivot",
    "Protocol",
    "Provenance",
    "Published",
    "PublishedCell",
    "PublishedRow",
    "Row",
    "Run",
    "Spread",
    "SpreadCell",
    "Summary",
    "Told",
    "Unfinished",
    "problems_of_plan",
    "rows_of_plan",
    "summarise",
]


@dataclass(frozen=True)
class Summary:
    """A study in numbers. Counts are of distinct runs; a run that several asked cells share counts once.

    columns: the asked numbers of labels, sorted. label_names: empty when the rows do not agree on them or nothing
    finished. failures, missing: every run that has no numbers. pivots: methods of which a knob takes several values.
    spreads: methods asked under several prompts. mistakes: the texts that runs get wrong. claims: the comparisons
    that the study declared and that were tested, num_declared: pairs that it declared. curves: of every row that
    reads labels, with a reason where there is none. equivalences: how many labels of one row are worth those of
    another. overlaps: test texts on the training side, of each data source for which the study counted them. notes:
    what a reader must know about how these numbers were computed. published: a table that others printed, beside this
    one.
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
    pivots: tuple[Pivot, ...] = ()
    spreads: tuple[Spread, ...] = ()
    mistakes: tuple[Mistakes, ...] = ()
    claims: tuple[Claim, ...] = ()
    num_declared: int = 0
    curves: tuple[CurveOfRow, ...] = ()
    equivalences: tuple[Equivalence, ...] = ()
    overlaps: tuple[OverlapOfData, ...] = ()
    published: Published | None = None

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
    outcomes: dict[str, Outcome] = {}
    for cell in planned:
        if cell["spec_id"] not in outcomes:
            outcomes[cell["spec_id"]] = read_outcome(folder, cell["spec_id"])
    columns = _columns(planned)
    rows, notes = compare(make_rows(planned, columns, outcomes), columns, outcomes)
    declared = plan.get("claims") or ()
    claims, untested = claims_of(declared, rows, columns, outcomes)
    curves, equivalences = learning_of(rows, columns, outcomes, claims)
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
        provenance=provenance_of(plan, folder.execution(), finished, folder.lock_sha256()),
        failures=failures,
        missing=missing,
        notes=(*notes, *untested),
        pivots=pivots_of(rows, columns, outcomes),
        spreads=spreads_of(rows, columns),
        mistakes=mistakes_of(rows, columns, outcomes),
        claims=claims,
        num_declared=len(declared),
        curves=curves,
        equivalences=equivalences,
        overlaps=overlaps_of(folder.overlap(), rows, outcomes),
        published=published_of(plan.get("published"), rows),
    )


def rows_of_plan(plan: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows that the study will have, labelled as its report labels them. plan: as `StudyFolder.plan` gives it."""
    planned = plan["cells"]
    return make_rows(planned, _columns(planned), {cell["spec_id"]: Outcome(None, None) for cell in planned})


def problems_of_plan(plan: Mapping[str, Any], is_other_base: bool = False) -> list[str]:
    """What of a plan's claims and of the table that it quotes can meet no rows of the study, before anything has run.

    plan: as `StudyFolder.plan` gives it. is_other_base: one base stands in for all that the study names, so rows that
    only their bases told apart may be one by now.
    """
    rows = rows_of_plan(plan)
    _, problems = pairs_of(plan.get("claims") or (), rows)
    return [*problems, *problems_of_published(plan.get("published"), rows, is_other_base)]


def _columns(planned: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(sorted({int(cell["asked"]["num_labels"]) for cell in planned}))
