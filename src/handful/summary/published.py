"""The table that somebody else printed beside the study's own, cell by cell, and what its own columns can tell.

Knows nothing of plans or of how numbers are shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handful.statistics import Interval, difference_interval, holm, two_proportions_p_value, wilson_interval
from handful.summary.parts import SIGNIFICANCE, Row
from handful.summary.plain import flat


@dataclass(frozen=True)
class PublishedCell:
    """theirs: as printed, with Wilson's interval over their texts. epoch: the one they chose, None where not told.
    ours: None where the study has no number there. difference: ours minus theirs, as of independent texts and runs;
    what another seed of theirs would change is not in its interval.
    """

    theirs: Interval
    epoch: int | None
    ours: Interval | None
    difference: Interval | None


@dataclass(frozen=True)
class PublishedRow:
    """label: theirs. row: label of the row of the study that is asked the same, empty where none or several are.
    cells: by number of labels. times_smaller: parameters of their base over those of ours, None where not told.
    """

    label: str
    row: str
    cells: Mapping[int, PublishedCell]
    times_smaller: float | None


@dataclass(frozen=True)
class Told:
    """What their numbers at one number of labels tell of their own rows.

    largest: difference. num_apart: of num_pairs, those that differ after Holm, errors taken as independent and each
    number as one fixed classifier. p_value: the smallest, adjusted.
    """

    num_labels: int
    largest: float
    num_apart: int
    num_pairs: int
    p_value: float


@dataclass(frozen=True)
class Published:
    """source, base, num_test: as the study file quotes them. columns: numbers of labels, sorted. ours: names of the
    bases that the rows beside it ran on."""

    source: str
    base: str
    num_test: int
    columns: tuple[int, ...]
    rows: tuple[PublishedRow, ...]
    told: tuple[Told, ...]
    ours: tuple[str, ...]


def published_of(quoted: Mapping[str, Any] | None, rows: Sequence[Row]) -> Published | None:
    """The table of the plan beside the rows of the study; None where the plan quotes none."""
    if not quoted:
        return None
    num_test = int(quoted["num_test"])
    columns = sorted({int(number) for row in quoted["rows"] for number in row["accuracy"]})
    made, ours = [], dict[str, None]()
    for quoted_row in quoted["rows"]:
        same = [row for row in rows if _is_asked(row, quoted_row["where"])]
        epochs = quoted_row["epochs"]
        row = same[0] if len(same) == 1 else None
        if row is not None and isinstance(model := row.spec.get("model"), Mapping) and model.get("checkpoint"):
            ours[str(model["checkpoint"])] = None
        made.append(
            PublishedRow(
                label=str(quoted_row["label"]),
                row=row.label if row else "",
                cells={
                    int(number): _cell(float(value), epochs.get(number), num_test, _ours(row, int(number)))
                    for number, value in quoted_row["accuracy"].items()
                },
                times_smaller=_times_smaller(quoted_row.get("parameters") or quoted.get("parameters"), row),
            )
        )
    told = [_told(number, [row.cells[number].theirs for row in made if number in row.cells], num_test)
            for number in columns]
    return Published(
        str(quoted["source"]), str(quoted["base"]), num_test, tuple(columns), tuple(made),
        tuple(one for one in told if one is not None), tuple(ours),
    )


def _is_asked(row: Row, where: Mapping[str, Any]) -> bool:
    said = dict(flat(row.spec)) | dict(flat(row.asked))
    return all(said.get(name) == value for name, value in where.items())


def _ours(row: Row | None, number: int) -> Interval | None:
    if row is None:
        return None
    # What reads no labels says the same in every column.
    cell = row.cells.get(number) or (next(iter(row.cells.values())) if not row.reads_labels else None)
    return cell.accuracy if cell else None


def _cell(theirs: float, epoch: int | None, num_test: int, ours: Interval | None) -> PublishedCell:
    # A printed share is rounded, so the count of right texts is the nearest.
    counted = wilson_interval(round(theirs * num_test), num_test)
    printed = Interval(theirs, counted.low, counted.high)
    return PublishedCell(printed, epoch, ours, difference_interval(ours, printed) if ours else None)


def _times_smaller(parameters: float | None, row: Row | None) -> float | None:
    own = row.facts.get("num_parameters", ()) if row else ()
    return parameters / own[0] if parameters and len(own) == 1 and own[0] else None


def _told(number: int, printed: Sequence[Interval], num_test: int) -> Told | None:
    pairs = [(a.estimate, b.estimate) for a, b in itertools.combinations(printed, 2)]
    if not pairs:
        return None
    adjusted = holm([two_proportions_p_value(a, b, num_test, num_test) for a, b in pairs])
    return Told(
        number, max(abs(a - b) for a, b in pairs), int((adjusted < SIGNIFICANCE).sum()), len(pairs),
        float(adjusted.min()),
    )
