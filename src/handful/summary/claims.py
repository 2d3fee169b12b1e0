"""The comparisons that a study declared beforehand, tested and adjusted for their number; all others explore.

Knows nothing of how a claim is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.errors import nearest
from handful.identity import canonical_json
from handful.statistics import holm
from handful.summary.comparison import difference_of
from handful.summary.outcomes import Outcome
from handful.summary.parts import Claim, Difference, Row
from handful.summary.plain import mapping


def claims_of(
    asked: Sequence[Sequence[str]], rows: Sequence[Row], columns: Sequence[int], outcomes: Mapping[str, Outcome]
) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """Every declared pair of rows at every number of labels where both have numbers, once where neither reads any, and
    notes on claims without."""
    pairs, notes = pairs_of(asked, rows)
    found: list[tuple[str, str, int, Difference, float]] = []
    for a, b in pairs:
        untested: dict[str, list[int]] = {}
        reads = a.reads_labels or b.reads_labels
        both = [number for number in columns if _is_planned(a, number) and _is_planned(b, number)]
        for number in both if reads else both[:1]:
            tested = _tested(a, b, number, outcomes)
            if isinstance(tested, str):
                untested.setdefault(tested, []).append(number)
            else:
                found.append((a.label, b.label, number if reads else 0, *tested))
        for why, numbers in untested.items():
            at = f" at N = {', '.join(f'{number:,}' for number in numbers)}" if reads else ""
            notes.append(f"The claim {a.label} against {b.label} is not tested{at}: {why}.")
    # A claim is about methods, which one draw of a seed can't decide: it takes no part.
    adjusted = iter(holm([p_value for *_, difference, p_value in found if not difference.is_single]).tolist())
    claims = [
        Claim(first, second, number, difference, p_value, None if difference.is_single else next(adjusted))
        for first, second, number, difference, p_value in found
    ]
    return tuple(claims), tuple(notes)


def pairs_of(asked: Sequence[Sequence[str]], rows: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[str]]:
    """The rows that the claims set side by side, no two of them twice, and what is wrong with each claim without any.

    A name means the row of that label, or the rows of that title, else of that method; rows that are chosen on the test
    texts don't count. Two single rows are a pair. Else rows pair up that differ in their method alone: what a
    method does not read (a base, a prompt, training, a protocol) keeps it from no row, but from one that has a rival of
    its own protocol.
    """
    found: dict[frozenset[str], tuple[Row, Row]] = {}
    problems = []
    for first, second in asked:
        pairs, why = _paired(first, second, rows)
        num_before = len(found)
        for a, b in pairs:
            found.setdefault(frozenset((a.label, b.label)), (a, b))
        if pairs and len(found) == num_before:
            why = "it repeats another claim, keep one"
        if why:
            problems.append(f"The claim {first} against {second} cannot be tested: {why}.")
    return list(found.values()), problems


def _paired(first: str, second: str, rows: Sequence[Row]) -> tuple[list[tuple[Row, Row]], str]:
    """The rows of one claim side by side, or why there are none."""
    sides = [_rows_named(name, rows) for name in (first, second)]
    for name, side in zip((first, second), sides, strict=True):
        if not side:
            hint = nearest(name, [row.method for row in rows] + [row.label for row in rows])
            return [], f"no row is called {name}.{hint} Rows: {'; '.join(row.label for row in rows)}"
    ours = [_once(row for row in side if not row.on_test) for side in sides]
    for name, side in zip((first, second), ours, strict=True):
        if not side:
            return [], f"{name} is chosen on the test texts, on which no claim rests"
    is_single = len(ours[0]) == len(ours[1]) == 1
    pairs = [
        (a, b) for a in ours[0] for b in ours[1]
        if a is not b and a.group == b.group and (is_single or _are_alike(_setting(a), _setting(b)))
    ]  # fmt: skip
    pairs = _of_own_protocol(pairs)
    if not pairs:
        return [], "no two rows of these names differ in their method alone; name two rows by their labels"
    for name, paired in zip((first, second), zip(*pairs, strict=True), strict=True):
        rivals = {row.label: canonical_json(_setting(row)) for row in paired}
        if len(set(rivals.values())) < len(rivals):
            return [], f"{name} has several rows there, name one by its label: {'; '.join(rivals)}"
    pairs = [(a, b) for a, b in pairs if any(_is_planned(a, number) and _is_planned(b, number) for number in a.cells)]
    return pairs, "" if pairs else "they are asked at no common number of labels"


def _of_own_protocol(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    """The pairs without those of a row that reads no protocol and one that has a rival of its own protocol."""

    def both_read(pair: tuple[Row, Row]) -> bool:
        return all("protocol" in _setting(row) for row in pair)

    served = {row.label for pair in pairs if both_read(pair) for row in pair}
    return [pair for pair in pairs if both_read(pair) or not any(row.label in served for row in pair)]


def _rows_named(name: str, rows: Sequence[Row]) -> list[Row]:
    exact = [row for row in rows if row.label == name]
    titled = [row for row in rows if mapping(row.asked, "method").get("title") == name]
    method = titled or [row for row in rows if row.method == name]
    # A label may be a method's bare name: then it goes before the others of its setting, not before those of another.
    return exact + [row for row in method if all(_setting(row) != _setting(own) for own in exact)]


def _once(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of the same runs as one before: their method does not read what tells them apart."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        found.setdefault(tuple(run.spec_id for cell in row.cells.values() for run in cell.runs), row)
    return list(found.values())


def _setting(row: Row) -> dict[str, Any]:
    """What a row is asked beside its method, without what the method does not read: that is resolved to another member,
    or to nothing."""
    asked, spec = row.asked, row.spec
    read = [part for part in ("model", "prompt") if mapping(asked, part).get("name") == mapping(spec, part).get("name")]
    if "training" in spec:
        read.append("training")
    if "training" in spec or "protocol" in spec:  # the default protocol is not in the plan
        read.append("protocol")
    return {part: asked.get(part) for part in ["data", *read]}


def _are_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[part] == other[part] for part in one.keys() & other.keys())


def _is_planned(row: Row, number: int) -> bool:
    return row.cells[number].status != "not planned"


def _tested(
    a: Row, b: Row, number: int, outcomes: Mapping[str, Outcome]
) -> tuple[Difference, float] | str:
    """The difference of two cells and its p-value, or why there is none."""
    without = [row.label for row in (a, b) if row.cells[number].accuracy is None]
    if without:
        return f"no finished run of {' and '.join(without)}"
    difference = difference_of(a.cells[number], b.cells[number], b.label, outcomes)
    p_value = difference.p_value if difference.p_value is not None else difference.t_p_value
    if difference.interval is None or p_value is None:
        return "they share no seed, or fewer than two test texts"
    return difference, p_value
