"""A summary -> two or three plain sentences, every number in them from the records.

Knows nothing of formats; a sentence is plain text, to be escaped by whoever shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from handful.report.wording import (
    ONE_SEED,
    bounds,
    equivalence_words,
    group_titles,
    listed,
    p_value,
    percent,
    plural,
    points,
    points_words,
    starts,
)
from handful.statistics import Interval
from handful.summary import Cell, Claim, Equivalence, Row, Spread, Summary

EXPLORATORY = "exploratory: looked for in the results, and not adjusted for how often."
NAMED = 3
"""Rows that a sentence names at most before it counts them."""


def findings(summary: Summary) -> list[str]:
    """What the numbers allow to say, most useful first; never empty. Three sentences for each data source, and what is
    unfinished.
    """
    sentences = _claims_in_short(summary)
    for title, rows in zip(group_titles(summary), summary.groups, strict=True):
        found = _group_findings(rows, summary)
        if found and title:
            found[0] = f"On {title}: {found[0]}"
        sentences.extend(found)
    return sentences + _unfinished(summary)


def explores(summary: Summary) -> str:
    """Which of the findings were looked for and not declared; empty where nothing is compared."""
    if summary.claims:
        return f"The first sentence was declared beforehand (all claims are below). The others are {EXPLORATORY}"
    if any(cell.versus_best for row in summary.rows for cell in row.cells.values()):
        none = "No declared claim could be tested" if summary.num_declared else "No claims were declared beforehand"
        return f"{none}, so all of this is {EXPLORATORY}"
    return ""


def _claims_in_short(summary: Summary) -> list[str]:
    """One sentence: the declared pairs, each at its fewest labels; one pair alone at its most labels, too."""
    by_pair = _by_pair(summary.claims)
    if not by_pair:
        return []
    told = [claims[0] for claims in by_pair]
    if len(told) == 1:
        (claims,) = by_pair
        told = list(dict.fromkeys((claims[0], claims[-1])))
    sentence = "; ".join(map(_claim_words, told[:NAMED]))
    return [sentence.replace("can't", "Can't", 1 if sentence.startswith("can't") else 0) + "."]


def claim_sentences(summary: Summary) -> list[str]:
    """One for each pair that the study declared: "lora beats tfidf by 6.1 points [4.0, 8.2] at 150 labels, same 2,000
    texts, 5 seeds", number of labels after number, and "can't tell" where the data can't.
    """
    return ["; ".join(map(_claim_words, claims)) + "." for claims in _by_pair(summary.claims)]


def _by_pair(claims: Sequence[Claim]) -> list[list[Claim]]:
    found: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        found.setdefault((claim.first, claim.second), []).append(claim)
    return list(found.values())


def _claim_words(claim: Claim) -> str:
    interval = claim.difference.interval
    assert interval is not None
    at, same = "", f"same {claim.difference.num_texts:,} texts"
    if claim.num_labels:
        at = f" at {plural(claim.num_labels, 'label')}"
        same += f", {plural(claim.difference.num_seeds, 'seed')}{starts(claim.difference)}"
    if not claim.is_settled:
        why = _why_open(claim, interval)
        return f"can't tell {claim.first} from {claim.second}{at}, {points_words(interval)}{why}, {same}"
    first, second = claim.first, claim.second
    if interval.estimate < 0:
        first, second, interval = second, first, Interval(-interval.estimate, -interval.high, -interval.low)
    return f"{first} beats {second} by {percent(interval.estimate)} points {bounds(interval)}{at}, {same}"


def _why_open(claim: Claim, interval: Interval) -> str:
    """What keeps a claim open beside an interval that may leave out 0; empty where that holds it."""
    if claim.difference.is_single:
        return f" ({ONE_SEED})"
    return "" if interval.low <= 0.0 <= interval.high else f" (p = {p_value(claim.adjusted)} after Holm)"


def gain_sentences(summary: Summary) -> list[str]:
    """What more labels would bring to each row that has a learning curve: "lora, from 500 labels: 100 more, +0.4 points
    [0.1, 0.8]; twice as many, +1.2 points [0.4, 2.0]"."""
    sentences = []
    for curve in summary.curves:
        if curve.gains:
            steps = [
                f"{'twice as many' if gain.more == gain.start else f'{gain.more:,} more labels'}: "
                f"{points_words(gain.interval)}"
                for gain in curve.gains
            ]
            sentences.append(f"{curve.label}, from {plural(curve.gains[0].start, 'label')} on: {'; '.join(steps)}.")
    return sentences


def equivalence_sentences(summary: Summary) -> list[str]:
    """How many labels of one row are worth those of another, a sentence for each pair."""
    by_pair: dict[tuple[str, str], list[Equivalence]] = {}
    for equivalence in summary.equivalences:
        if equivalence.found is not None:
            by_pair.setdefault((equivalence.first, equivalence.second), []).append(equivalence)
    return [
        "; ".join(map(equivalence_words, found)) + ("." if found[0].is_declared else " (exploratory).")
        for found in by_pair.values()
    ]


def without_curve(summary: Summary) -> list[tuple[str, str]]:
    """[(rows, why there is no learning curve of them)]; the table of curves has each row's own."""
    by_reason: dict[str, list[str]] = {}
    for curve in summary.curves:
        if curve.law is None:
            by_reason.setdefault(curve.reason, []).append(curve.label)
    return [(listed(labels, limit=NAMED), reason) for reason, labels in by_reason.items()]


def _group_findings(rows: Sequence[Row], summary: Summary) -> list[str]:
    columns = summary.columns
    with_labels = [
        number for number in columns
        if any(row.cells[number].reads_labels and row.cells[number].accuracy for row in rows)
    ]
    if not with_labels:
        return _without_labels([row for row in rows if columns and row.cells[columns[0]].accuracy], columns)
    spreads = [spread for spread in summary.spreads if spread.group == rows[0].group]
    sentences = [_best_sentence(rows, with_labels[-1]), _gain_sentence(rows, with_labels, spreads)]
    if len(with_labels) > 1 and not summary.claims:
        sentences.append(_best_sentence(rows, with_labels[0]))
    return [sentence for sentence in sentences if sentence]


def _without_labels(rows: Sequence[Row], columns: Sequence[int]) -> list[str]:
    """One sentence: the best of the rows, none of which reads labels, and how far they lie apart."""
    if not rows:
        return []
    best = max(rows, key=lambda row: _estimate(row.cells[columns[0]]))
    sentence = f"{best.label}, which reads no labels, reaches {_accuracy(best.cells[columns[0]])}"
    if len(rows) > 1:
        reached = [_estimate(row.cells[columns[0]]) for row in rows]
        mean = percent(sum(reached) / len(reached))
        sentence += (
            f", the best of {len(rows)} that read none: they range from {percent(min(reached))} to "
            f"{percent(max(reached))} %, {mean} % on average"
        )
    return [sentence + "."]


def _best_sentence(rows: Sequence[Row], number: int) -> str:
    """Who is best at a number of labels, and whom the data cannot tell from it."""
    shown = [row for row in rows if row.cells[number].accuracy]
    best = next(row for row in shown if row.cells[number].is_best)
    at = f"With {plural(number, 'label')}"
    which = "" if best.reads_labels else ", which reads none of them,"
    if len(shown) == 1:
        reached = _accuracy(best.cells[number])
        return f"{at}, {best.label}{which} reaches {reached}; nothing stands beside it yet."
    others = sorted((row for row in shown if row is not best), key=lambda row: -_estimate(row.cells[number]))
    tied = [row for row in others if row.cells[number].ties_best]
    below = [row for row in others if (versus := row.cells[number].versus_best) and versus.distinguishable]
    mean = "mean " if best.cells[number].num_seeds_finished > 1 else ""
    sentence = f"{at}, {best.label}{which} has the best {mean}accuracy, {_accuracy(best.cells[number])}"
    if tied:
        named = [f"{row.label} ({percent(_estimate(row.cells[number]))} %)" for row in tied]
        sentence += f"; these test texts cannot tell it apart from {listed(named, limit=NAMED)}"
    for where, is_single in (("", False), ("in these runs alone ", True)):
        behind = [row for row in below if (versus := row.cells[number].versus_best) and versus.is_single == is_single]
        if behind:
            sentence += f"; {where}{_ahead_words(behind, number)}"
    return sentence + "."


def _ahead_words(behind: Sequence[Row], number: int) -> str:
    """By how much the best is ahead of the first of the rows, and the names of the others."""
    nearest = behind[0].cells[number].versus_best
    assert nearest is not None and nearest.interval is not None
    ahead = f"{100 * -nearest.interval.estimate:.1f} points"
    ends = f"[{percent(-nearest.interval.high)}, {percent(-nearest.interval.low)}]"
    words = f"it is ahead of {behind[0].label} by {ahead} {ends}"
    if len(behind) > 1:
        words += f", and of {_or_count([row.label for row in behind[1:]])}"
    return words


def _or_count(labels: Sequence[str]) -> str:
    """The labels, or how many there are: a sentence is no table."""
    return listed(labels) if len(labels) <= NAMED else f"{len(labels)} others"


def _gain_sentence(rows: Sequence[Row], columns: Sequence[int], spreads: Sequence[Spread]) -> str:
    """What labels bring over the best row that reads none, and how much that one owes to its prompt."""
    number = columns[-1]
    shown = [row for row in rows if row.cells[number].accuracy]
    unlabelled = [row for row in shown if not row.cells[number].reads_labels]
    labelled = [row for row in shown if row.cells[number].reads_labels]
    if not unlabelled or not labelled:
        return ""
    base = max(unlabelled, key=lambda row: _estimate(row.cells[number]))
    top = max(labelled, key=lambda row: _estimate(row.cells[number]))
    gain = next(
        (versus for versus in top.cells[number].versus_no_labels if versus.other == base.label), None)
    if gain is None or gain.interval is None:
        return ""
    sentence = (
        f"Against {base.label} without labels, {_accuracy(base.cells[number])}, the difference of "
        f"{top.label} with {plural(number, 'label')} is {points(gain.interval)} points"
    )
    about = _prompt_words(base, number, spreads)
    if not gain.distinguishable:
        return f"{sentence}, which these test texts cannot tell from none{about}."
    if gain.is_single:
        sentence += " in these runs alone"
    above = [
        (column, row.label)
        for column in columns for row in labelled if _is_above(row.cells[column], base.label)
    ]
    if above and len(columns) > 1:
        sentence += f"; the fewest labels that bring a clear gain are {above[0][0]:,} ({above[0][1]})"
    return f"{sentence}{about}."


def _prompt_words(base: Row, number: int, spreads: Sequence[Spread]) -> str:
    """Mean and range over prompts, where the row is the best of several."""
    for spread in spreads:
        cell = spread.cells.get(number)
        if cell is not None and any(row.label == base.label for row in spread.rows):
            ends = f"{percent(cell.low)} to {percent(cell.high)} %, {percent(cell.mean)} % on average"
            return f"; over its {cell.num_rows} prompts {spread.label} ranges from {ends}"
    return ""


def _is_above(cell: Cell, other: str) -> bool:
    """By more than the run of one seed can tell."""
    return any(
        versus.other == other and versus.distinguishable and versus.interval and versus.interval.estimate > 0
        and not versus.is_single
        for versus in cell.versus_no_labels
    )


def _unfinished(summary: Summary) -> list[str]:
    failed, missing, planned = summary.num_failed, summary.num_missing, summary.num_planned
    if not planned:
        return ["The plan holds no cells."]
    if failed == planned:
        return [f"All {plural(planned, 'planned run')} failed: the reasons are below."]
    if not summary.has_results:
        counts = f"{plural(planned, 'run')} planned, {failed:,} failed, {missing:,} missing"
        return [f"Nothing has finished yet: {counts}."]
    if not failed and not missing:
        return []
    words = [f"{failed:,} failed"] if failed else []
    words += [f"{missing:,} {'is' if missing == 1 else 'are'} missing"] if missing else []
    return [f"Of {plural(planned, 'planned run')} {' and '.join(words)}: this may change what is said here."]


def _accuracy(cell: Cell) -> str:
    assert cell.accuracy is not None
    text = f"{percent(cell.accuracy.estimate)} % {bounds(cell.accuracy)}"
    if cell.status == "partial":
        text += f", {cell.num_seeds_finished} of {plural(cell.num_seeds_planned, 'seed')}"
    return text


def _estimate(cell: Cell) -> float:
    assert cell.accuracy is not None
    return cell.accuracy.estimate
