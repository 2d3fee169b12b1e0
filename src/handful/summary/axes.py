"""Rows that differ in one thing only: knobs of a method against N, and the same method under several prompts.

Names no knob: a second axis is whatever takes several values within a method. Computes no interval of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handful.identity import canonical_json
from handful.summary.comparison import difference_of
from handful.summary.outcomes import Outcome
from handful.summary.parts import Difference, Row
from handful.summary.plain import flat
from handful.summary.rows import row_labels, short_value


@dataclass(frozen=True)
class Pivot:
    """A method's rows by the values of one knob (or of several that change together).

    context: what else tells these rows from others of the method, "rank=8". values: one for each row, in words,
    sorted when they are numbers. best: for each number of labels the place of the largest mean accuracy among
    `rows`. versus_best: (place, number of labels) -> difference to that one.
    """

    method: str
    knobs: tuple[str, ...]
    context: str
    values: tuple[str, ...]
    rows: tuple[Row, ...]
    best: Mapping[int, int]
    versus_best: Mapping[tuple[int, int], Difference]

    def ties_best(self, place: int, num_labels: int) -> bool:
        """Not the best of its column of this pivot, and not distinguishable from it."""
        versus = self.versus_best.get((place, num_labels))
        return versus is not None and versus.distinguishable is False


@dataclass(frozen=True)
class SpreadCell:
    """Mean, smallest and largest of the mean accuracies of rows; num_rows: how many of them have one."""

    mean: float
    low: float
    high: float
    num_rows: int


@dataclass(frozen=True)
class Spread:
    """The same method and knobs under several prompts; cells by number of labels, where several rows have numbers."""

    label: str
    group: int
    rows: tuple[Row, ...]
    cells: Mapping[int, SpreadCell]

    @property
    def reads_labels(self) -> bool:
        """Whether any of its rows does."""
        return any(row.reads_labels for row in self.rows)


def pivots_of(rows: Sequence[Row], columns: Sequence[int], outcomes: Mapping[str, Outcome]) -> tuple[Pivot, ...]:
    """One pivot for each knob of a method that takes several values while the others stay.

    Where knobs only ever change together, one pivot shows them together.
    """
    made = []
    for family in _families(rows, without="method"):
        knobs = _varying_knobs(family)
        found = []
        for knob in knobs:
            for members in _families(family, without=knob):
                if len({_value(row, knob) for row in members}) > 1:
                    found.append(_pivot(members, (knob,), [other for other in knobs if other != knob]))
        if not found and len(family) > 1 and knobs:
            found.append(_pivot(family, tuple(knobs), []))
        made += [_compared(pivot, columns, outcomes) for pivot in found]
    return tuple(_told_apart(made))


def _told_apart(pivots: Sequence[Pivot]) -> list[Pivot]:
    """Those that are named alike, since only prompt or base tells them apart, with that in their context."""
    told = list(pivots)
    for name in dict.fromkeys((pivot.method, pivot.knobs, pivot.context) for pivot in pivots):
        alike = [place for place, one in enumerate(pivots) if (one.method, one.knobs, one.context) == name]
        if len(alike) > 1:
            # Labels of rows that ask for no knob say what else differs.
            first = [pivots[place].rows[0] for place in alike]
            bare = [replace(row, asked={**row.asked, "method": {"name": row.method}}) for row in first]
            for place, label in zip(alike, row_labels(bare), strict=True):
                words = [pivots[place].context, label.removeprefix(pivots[place].method).strip()]
                told[place] = replace(pivots[place], context=" ".join(word for word in words if word))
    return told


def spreads_of(rows: Sequence[Row], columns: Sequence[int]) -> tuple[Spread, ...]:
    """One spread for each method and its knobs that has numbers under several prompts, where it has them."""
    families = [family for family in _families(rows, without="prompt") if len(family) > 1]
    # Labels that leave the prompt out: it is what a spread runs over.
    bare = [replace(family[0], asked=_without(family[0].asked, "prompt")) for family in families]
    made = []
    for family, label in zip(families, row_labels(bare), strict=True):
        cells = {}
        for num_labels in columns:
            means = [cell.accuracy.estimate for row in family if (cell := row.cells[num_labels]).accuracy]
            if len(means) > 1:
                cells[num_labels] = SpreadCell(sum(means) / len(means), min(means), max(means), len(means))
        if cells:
            made.append(Spread(label, family[0].group, tuple(family), cells))
    return tuple(made)


def _families(rows: Sequence[Row], without: str) -> list[list[Row]]:
    """Rows that ask for the same but for `without`: a section, or "method.rank"; never across methods."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        rest = {path: value for path, value in flat(row.asked) if path.partition(".")[0] != without and path != without}
        found.setdefault(canonical_json([row.method, row.group, rest]), []).append(row)
    return list(found.values())


def _varying_knobs(rows: Sequence[Row]) -> list[str]:
    """Dotted names of the method's knobs that some row asks for and that are not the same in all."""
    paths = dict.fromkeys(path for row in rows for path, _ in flat(row.asked) if path.startswith("method."))
    return [path for path in paths if path != "method.name" and len({_value(row, path) for row in rows}) > 1]


def _value(row: Row, path: str) -> str:
    return canonical_json(_plain_value(row, path))


def _plain_value(row: Row, path: str) -> Any:
    """What a row asks for, else what that was resolved to."""
    asked = dict(flat(row.asked))
    return asked[path] if path in asked else dict(flat(row.spec)).get(path)


def _pivot(rows: Sequence[Row], knobs: tuple[str, ...], others: Sequence[str]) -> Pivot:
    def key(row: Row) -> tuple[tuple[bool, float, str], ...]:
        values = [_plain_value(row, knob) for knob in knobs]
        return tuple(
            (False, float(value), "") if isinstance(value, (int, float)) else (True, 0.0, str(value))
            for value in values
        )

    ordered = sorted(rows, key=key)
    words = [", ".join(short_value(_plain_value(row, knob)) for knob in knobs) for row in ordered]
    context = " ".join(f"{_name(path)}={short_value(_plain_value(ordered[0], path))}" for path in others)
    return Pivot(rows[0].method, tuple(map(_name, knobs)), context, tuple(words), tuple(ordered), {}, {})


def _compared(pivot: Pivot, columns: Sequence[int], outcomes: Mapping[str, Outcome]) -> Pivot:
    best: dict[int, int] = {}
    versus: dict[tuple[int, int], Difference] = {}
    for num_labels in columns:
        cells = [row.cells[num_labels] for row in pivot.rows]
        means = {place: cell.accuracy.estimate for place, cell in enumerate(cells) if cell.accuracy is not None}
        if not means:
            continue
        top = best[num_labels] = max(means, key=lambda place: (means[place], -place))
        for place in means:
            if place != top:
                label = pivot.rows[top].label
                versus[place, num_labels] = difference_of(cells[place], cells[top], label, outcomes)
    return replace(pivot, best=best, versus_best=versus)


def _name(path: str) -> str:
    return path.removeprefix("method.")


def _without(asked: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name != section}
