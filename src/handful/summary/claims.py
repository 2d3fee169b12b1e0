"""The comparisons that a study declared beforehand, tested and adjusted for their number; all others explore.

Knows nothing of plans or of how a claim is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handful.statistics import holm
from handful.summary.comparison import difference_of
from handful.summary.outcomes import Outcome
from handful.summary.parts import Claim, Difference, Row


def claims_of(
    asked: Sequence[Sequence[str]], rows: Sequence[Row], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """Each declared pair at every number of labels where both have numbers, and notes on those that have none.

    A side names a row by its label, or a method that has a single row. Rows that were chosen on the test texts don't
    count.
    """
    notes = []
    found: list[tuple[str, str, int, Difference, float]] = []
    ours = [row for row in rows if not row.on_test]
    for first, second in asked:
        sides = [_rows_named(name, ours) for name in (first, second)]
        pairs = [(a, b) for a in sides[0] for b in sides[1] if a.group == b.group and a is not b]
        many = [
            name for name, side in zip((first, second), sides, strict=True) if len({row.label for row in side}) > 1
        ]
        if many or not pairs:
            several = f"{many[0]} has several rows, name one by its label" if many else ""
            on_test = [name for name in (first, second) if not _rows_named(name, ours) and _rows_named(name, rows)]
            chosen = f"{on_test[0]} was chosen on the test texts, on which no claim rests" if on_test else ""
            why = several or chosen or "no rows of these names stand side by side"
            notes.append(f"The claim {first} against {second} was not tested: {why}.")
            continue
        for a, b in pairs:
            for number in columns:
                tested = _tested(a, b, number, outcomes)
                if tested is not None:
                    found.append((a.label, b.label, number, *tested))
    # A claim is about methods, which one draw of a seed can't decide: it takes no part.
    adjusted = iter(holm([p_value for *_, difference, p_value in found if not difference.is_single]).tolist())
    claims = [
        Claim(first, second, number, difference, p_value, None if difference.is_single else next(adjusted))
        for first, second, number, difference, p_value in found
    ]
    return tuple(claims), tuple(notes)


def _rows_named(name: str, rows: Sequence[Row]) -> list[Row]:
    exact = [row for row in rows if row.label == name]
    return exact or [row for row in rows if row.method == name]


def _tested(
    a: Row, b: Row, number: int, outcomes: Mapping[str, Outcome]
) -> tuple[Difference, float] | None:
    """The difference of two cells and its p-value; None where one has no numbers, or nothing is shared."""
    if a.cells[number].accuracy is None or b.cells[number].accuracy is None:
        return None
    difference = difference_of(a.cells[number], b.cells[number], b.label, outcomes)
    p_value = difference.p_value if difference.p_value is not None else difference.t_p_value
    return None if p_value is None or difference.interval is None else (difference, p_value)
