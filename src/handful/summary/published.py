"""The table that somebody else printed beside the study's own, cell by cell, and what its own columns can tell.

Knows nothing of how numbers are shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handful.errors import nearest
from handful.statistics import Interval, difference_interval, holm, two_proportions_p_value, wilson_interval
from handful.summary.parts import SIGNIFICANCE, Cell, Row
from handful.summary.plain import distinct, flat
from handful.summary.rows import short_value


@dataclass(frozen=True)
class PublishedCell:
    """theirs: as printed, with Wilson's interval over their texts. epoch: the one they chose, None where not told.
    own: our cell, None where the study has none; absent: why it has no number, in a word or three. difference: ours
    minus theirs, as of independent texts and runs; what another seed of theirs would change is not in its interval.
    """

    theirs: Interval
    epoch: int | None
    own: Cell | None
    difference: Interval | None
    absent: str = ""

    @property
    def ours(self) -> Interval | None:
        """The accuracy of our cell with its interval, where it has one."""
        return self.own.accuracy if self.own else None


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
        same = _rows_asked(rows, quoted_row["where"])
        epochs = quoted_row["epochs"]
        row = same[0] if len(same) == 1 else None
        if row is not None and isinstance(model := row.spec.get("model"), Mapping) and model.get("checkpoint"):
            ours[str(model["checkpoint"])] = None
        made.append(
            PublishedRow(
                label=str(quoted_row["label"]),
                row=row.label if row else "",
                cells={
                    int(number): _cell(float(value), epochs.get(number), num_test, same, int(number))
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


def problems_of_published(quoted: Mapping[str, Any] | None, rows: Sequence[Row], is_other_base: bool) -> list[str]:
    """Each printed number that is to have nothing beside it. is_other_base: several rows may then be asked the same."""
    problems = []
    for number, quoted_row in enumerate(quoted["rows"] if quoted else (), start=1):
        same, what = _rows_asked(rows, quoted_row["where"]), f"published row {number} ({quoted_row['label']!r})"
        if not same:
            problems.append(f"{what}: {_unmet(rows, quoted_row['where'])}. Mend its `where`, or leave the row out")
        elif len(same) > 1 and not is_other_base:
            problems.append(
                f"{what}: {len(same)} rows of this study are asked the same, so its `where` has to say more: "
                + "; ".join(row.label for row in same)
            )
        elif len(same) == 1:
            lacking = [key for key in quoted_row["accuracy"] if _absent(same, int(key)) == NOT_ASKED]
            problems.extend(
                f"{what}: it has an accuracy at {key} labels, where this study asks nothing of {same[0].label}. Put "
                f"{key} into num_labels, or leave the number out" for key in lacking
            )
    return problems


def _rows_asked(rows: Sequence[Row], where: Mapping[str, Any]) -> list[Row]:
    return [row for row in rows if all(_said(row).get(name) == value for name, value in where.items())]


def _said(row: Row) -> dict[str, Any]:
    return dict(flat(row.spec)) | dict(flat(row.asked))


def _unmet(rows: Sequence[Row], where: Mapping[str, Any]) -> str:
    """Which part of a `where` no row has, else that no row has all of it."""
    for name, value in where.items():
        here = distinct(_said(row).get(name) for row in rows)
        if not here:
            known = dict.fromkeys(name for row in rows for name in _said(row))
            return f"no row of this study says {name}.{nearest(name, known)}"
        if not any(_said(row).get(name) == value for row in rows):
            return f"no row of this study has {name} = {short_value(value)}, but {', '.join(here)}"
    return "no row of this study has all at once that its `where` says"


NOT_ASKED = "not asked"


def _cell_at(row: Row, number: int) -> Cell | None:
    # What reads no labels says the same in every column.
    return row.cells.get(number) or (next(iter(row.cells.values())) if not row.reads_labels else None)


def _absent(same: Sequence[Row], number: int) -> str:
    """Why no number of ours stands beside a printed one; empty where one does. same: our rows that are asked alike."""
    if len(same) != 1:
        return "several such rows" if same else "no such row"
    cell = _cell_at(same[0], number)
    if cell is None or cell.status == "not planned":
        return NOT_ASKED
    return cell.status if cell.accuracy is None else ""


def _cell(theirs: float, epoch: int | None, num_test: int, same: Sequence[Row], number: int) -> PublishedCell:
    # A printed share is rounded, so the count of right texts is the nearest.
    counted = wilson_interval(round(theirs * num_test), num_test)
    printed = Interval(theirs, counted.low, counted.high)
    cell = _cell_at(same[0], number) if len(same) == 1 else None
    ours = cell.accuracy if cell else None
    difference = difference_interval(ours, printed) if ours else None
    return PublishedCell(printed, epoch, cell, difference, _absent(same, number))


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
