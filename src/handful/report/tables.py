"""The tables below the main one, as texts for all formats: (head, rows) each, no rows where there is nothing.

Escapes nothing: whoever shows a text escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from handful.report.wording import (
    ABSENT,
    DASH,
    ONE_SEED,
    as_printed,
    bounds,
    count,
    decimals,
    detectable,
    distinct_values,
    extent,
    group_titles,
    kept_words,
    labels_words,
    listed,
    p_value,
    percent,
    plural,
    points,
    rate,
    row_title,
    seconds,
    size,
    sizes,
    spread_range,
    spread_title,
    starts,
    state,
    verdict,
    without_folders,
)
from handful.statistics import VarianceComponents
from handful.summary import Pivot, PublishedCell, Row, Run, Summary, Told
from handful.summary.plain import mean

Table = tuple[list[str], list[list[str]]]


def cost_table(summary: Summary) -> Table:
    """(head, rows): what a row may look at, its training time at each N, and what it costs at any N."""
    head = ["method", "trained parameters", "adapter", "test texts/s", "peak memory", "engine path"]
    head[1:1] = ["allowed to see", *(f"train, N = {num_labels:,}" for num_labels in summary.columns)]
    table = []
    for row in summary.rows:
        cells = list(row.cells.values())
        trained = [number for cell in cells for number in cell.num_trainable or ()]
        adapters = [number for cell in cells for number in cell.adapter_bytes or ()]
        rates = [cell.test_texts_per_second for cell in cells if cell.test_texts_per_second is not None]
        memory = [cell.peak_memory_bytes for cell in cells if cell.peak_memory_bytes is not None]
        fast, slow = rate(max(rates, default=None)), rate(min(rates, default=None))
        table.append([
            row_title(row),
            ", ".join(row.sees) or ABSENT,
            *(seconds(row.cells[num_labels].train_seconds) for num_labels in summary.columns),
            extent((min(trained), max(trained)) if trained else None),
            sizes((min(adapters), max(adapters)) if adapters else None),
            slow if slow == fast else f"{slow}{DASH}{fast}",
            size(max(memory, default=None)),
            ", ".join(row.engine_paths) or ABSENT,
        ])
    return head, table


TEXT_FACTS = {
    "num_texts_cut": "texts cut to fit the prompt",
    "num_tokens_cut": "tokens cut",
    "num_duplicates_across": "texts of the training side that also stand on the whole test side, word for word",
    "num_duplicates_removed": "duplicates removed from the training side",
    "num_duplicates_within_train": "texts of the training side that repeat another one there, word for word",
}
"""What a reader wants to know of the texts before any other fact, in this order."""


def texts_table(summary: Summary) -> Table:
    """(head, rows): what records note of cut texts and duplicates and that is not the same in all; see below."""
    shared = {words for words, _ in shared_text_facts(summary)}
    noted = [
        name for name, words in TEXT_FACTS.items()
        if words not in shared and any(name in row.facts for row in summary.rows)
    ]
    head = ["method", *(TEXT_FACTS[name] for name in noted), "share cut"]
    table = [
        [row_title(row), *(_text_fact(row, name) for name in noted), _share_cut(row)]
        for row in summary.rows if any(name in row.facts for name in noted)
    ]
    return head, table


def shared_text_facts(summary: Summary) -> list[tuple[str, str]]:
    """[(what, value)] of the facts on texts in which all records that note them agree."""
    shared = []
    for name, words in TEXT_FACTS.items():
        values = {_text_fact(row, name) for row in summary.rows if name in row.facts}
        if len(values) == 1:
            shared.append((words, values.pop()))
    return shared


def _text_fact(row: Row, name: str) -> str:
    """What the records of a row note, duplicates with the number of texts that they were counted among."""
    noted = distinct_values(row.facts.get(name, ()))
    if name not in row.facts or not name.startswith("num_duplicates"):
        return noted
    if name == "num_duplicates_across" and row.facts.get("num_test_available") == (0,):
        return f"{noted} of those that a run drew"  # there is no test side, but what a run did not draw
    kept, removed = row.facts.get("num_train", ()), row.facts.get("num_duplicates_removed", ())
    return f"{noted} of {kept[0] + removed[0]:,}" if len(kept) == len(removed) == 1 else noted


def _share_cut(row: Row) -> str:
    """Cut texts of all that a run read (training, selection and test), smallest and largest over its runs."""
    runs = [run for cell in row.cells.values() for run in cell.runs]
    shares = [run.num_texts_cut / run.num_texts for run in runs if run.num_texts_cut is not None and run.num_texts]
    if not shares:
        return ABSENT
    low, high = percent(min(shares)), percent(max(shares))
    return f"{low} %" if low == high else f"{low}{DASH}{high} %"


def facts_table(summary: Summary) -> Table:
    """(head, rows): every other fact that the records note, a line for each value of it."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in summary.rows:
        for name, values in row.facts.items():
            if name not in TEXT_FACTS:
                found.setdefault((name, distinct_values(values)), []).append(row.label)
    noting = {name: sum(name in row.facts for row in summary.rows) for name, _ in found}
    table = [
        [
            name.replace("_", " "),
            value,
            "all that note it" if len(rows) == noting[name] else listed(rows, limit=len(rows)),
        ]
        for (name, value), rows in sorted(found.items(), key=lambda item: list(noting).index(item[0][0]))
    ]
    return ["fact", "over all runs", "method"], table


def spreads_table(summary: Summary) -> Table:
    """(head, rows): mean and range over prompts of every method that is asked under several."""
    head = ["method", *(f"N = {num_labels:,}" for num_labels in summary.columns)]
    table = []
    for spread in summary.spreads:
        line = [spread_title(spread)]
        for num_labels in summary.columns:
            cell = spread.cells.get(num_labels)
            line.append(f"{percent(cell.mean)} ({spread_range(cell, len(spread.rows))})" if cell else ABSENT)
        table.append(line)
    return head, table


def pivot_title(pivot: Pivot) -> str:
    """"lora, rank=8: dropout by N"."""
    name = f"{pivot.method}, {pivot.context}" if pivot.context else pivot.method
    return f"{name}: {', '.join(pivot.knobs)} by N"


def pivot_table(pivot: Pivot, columns: Sequence[int]) -> Table:
    """(head, rows): accuracy of each value of a knob at each N, best and ties said in words."""
    head = [", ".join(pivot.knobs), *(f"N = {num_labels:,}" for num_labels in columns)]
    table = []
    for place, (value, row) in enumerate(zip(pivot.values, pivot.rows, strict=True)):
        line = [value]
        for num_labels in columns:
            cell = row.cells[num_labels]
            words = [percent(cell.accuracy.estimate), bounds(cell.accuracy)] if cell.accuracy else []
            words += [pivot_mark(pivot, place, num_labels), state(cell)]
            line.append(" ".join(word for word in words if word))
        table.append(line)
    return head, table


def pivot_mark(pivot: Pivot, place: int, num_labels: int) -> str:
    """"best" or "tie" among the rows of a pivot, else nothing."""
    if pivot.best.get(num_labels) == place:
        return "best"
    return "tie" if pivot.ties_best(place, num_labels) else ""


def numbers_table(summary: Summary) -> Table:
    """(head, rows): every cell with all its metrics, seed by seed where they differ."""
    head = [
        "method", "N", "seeds", "accuracy %", "each seed", "macro F1", "log loss (nats)", "calibration error",
        "updates kept", "state",
    ]
    table = []
    for row in summary.rows:
        for num_labels, cell in row.cells.items():
            mean = cell.accuracy
            table.append([
                row_title(row),
                count(num_labels),
                f"{cell.num_seeds_finished} of {cell.num_seeds_planned}" if cell.runs else ABSENT,
                f"{percent(mean.estimate)} {bounds(mean)}" if mean else ABSENT,
                ", ".join(percent(value) for value in cell.accuracies) or ABSENT,
                decimals(cell.macro_f1),
                decimals(cell.log_loss),
                decimals(cell.calibration_error),
                ", ".join(map(str, cell.chosen_updates)) or ABSENT,
                state(cell) or "finished",
            ])
    return head, table


def claims_table(summary: Summary) -> Table:
    """(head, rows): every comparison that the study declared, with its p-value before and after Holm."""
    head = ["claim", "N", "difference, points", "detectable", "p", "p (Holm)", "seeds", "test texts", "verdict"]
    table = []
    for claim in summary.claims:
        difference = claim.difference
        table.append([
            f"{claim.first} against {claim.second}",
            count(claim.num_labels or None),
            points(difference.interval) if difference.interval else ABSENT,
            detectable(difference.detectable),
            p_value(claim.p_value),
            p_value(claim.adjusted),
            count(difference.num_seeds) + starts(difference),
            count(difference.num_texts),
            "differs" if claim.is_settled else "can't tell" + (f": {ONE_SEED}" if difference.is_single else ""),
        ])
    return head, table


def components_table(summary: Summary) -> Table:
    """(head, rows): where the variance of each mean accuracy comes from, at each N of several seeds and one test.

    A cell's seed names both its sample and its start, so the two stand together where no init_seed tells them apart.
    """
    numbers = [
        number for number in summary.columns if any(row.cells[number].components is not None for row in summary.rows)
    ]
    table = []
    for row in summary.rows:
        found = [row.cells[number].components for number in numbers]
        if any(found):
            table.append([row_title(row), *(ABSENT if one is None else _components(one) for one in found)])
    return ["method", *(f"N = {number:,}" for number in numbers)], table


def _components(found: VarianceComponents) -> str:
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.shares.items())
    if found.inits is None:
        return f"{shares} (sd between seeds beyond chance {100 * math.sqrt(found.seeds):.2f})"
    samples = f"between samples {100 * math.sqrt(found.seeds):.2f}, " if found.num_seeds > 1 else ""
    return f"{shares} (sd {samples}between starts {100 * math.sqrt(found.inits):.2f})"


def learning_table(summary: Summary) -> Table:
    """(head, rows): every row's learning curve and what more labels bring, or why there is none."""
    head = ["method", "error in %, by N", "read up to N", "more labels", "gain, points", "why not"]
    table = []
    for curve in summary.curves:
        if curve.law is None:
            table.append([curve.label, ABSENT, ABSENT, ABSENT, ABSENT, curve.reason])
            continue
        law = f"{100 * curve.law.floor:.1f} + {100 * curve.law.scale:.1f} N^-{curve.law.exponent:.2f}"
        for gain in curve.gains:
            steps = f"{gain.more:,} from {gain.start:,}"
            table.append([curve.label, law, count(curve.reach), steps, points(gain.interval), ABSENT])
    return head, table


def equivalences_table(summary: Summary) -> Table:
    """(head, rows): how many labels of one row give what another reaches with its own."""
    head = ["method", "N", "as good as", "with labels", "95 % interval", "why not"]
    table = []
    for one in summary.equivalences:
        words = [ABSENT, ABSENT, one.reason]
        if one.found is not None:
            middle, low, high = (
                labels_words(end, one.found) for end in (one.found.estimate, one.found.low, one.found.high)
            )
            words = [middle, f"[{low}, {high}]" if low != high else ABSENT, ABSENT]
        table.append([one.first, count(one.num_labels), one.second, *words])
    return head, table


def published_table(summary: Summary) -> Table:
    """(head, rows): the table of others in its own layout, every number of it with ours and the difference."""
    published = summary.published
    if published is None:
        return [], []
    head = ["N" if published.columns != (0,) else "", *(row.label for row in published.rows)]
    table = []
    for number in published.columns:
        cells = [row.cells.get(number) for row in published.rows]
        table.append([count(number) if number else "no labels", *map(_published_cell, cells)])
    return head, table


def _published_cell(cell: PublishedCell | None) -> str:
    if cell is None:
        return ABSENT
    epoch = f" (epoch {cell.epoch})" if cell.epoch is not None else ""
    ours = f"ours {ABSENT} ({cell.absent})"
    if cell.ours and cell.own:
        kept = kept_words(cell.own)
        ours = f"ours {percent(cell.ours.estimate)} {bounds(cell.ours)}" + (f" ({kept})" if kept else "")
    difference = f"; {points(cell.difference)}" if cell.difference else ""
    return f"{as_printed(cell.theirs.estimate)}{epoch}; {ours}{difference}"


def published_sentences(summary: Summary) -> list[str]:
    """What the table beside ours is, what its difference to ours says, and what its own rows can tell."""
    published = summary.published
    if published is None:
        return []
    sentences = [f"{published.source}. Each cell: as printed; ours with its 95 % interval; the difference in points."]
    sizes = sorted({round(row.times_smaller) for row in published.rows if row.times_smaller and row.times_smaller >= 2})
    if published.ours:
        smaller = f", {extent((sizes[0], sizes[-1]))} times smaller" if sizes else ""
        sentences.append(f"Theirs is {published.base}; ours is {listed(list(published.ours))}{smaller}.")
    if any(number and cell.difference for row in published.rows for number, cell in row.cells.items()):
        sentences.append(
            "The interval of a difference lacks what another seed of theirs would change, and of ours where that is "
            "one run."
        )
    told = published.told
    if told:
        apart = [one for one in told if one.num_apart]
        parts = [_told(one) for one in told]
        verdict = (
            "" if apart else f" So nowhere can {published.num_test:,} texts tell their columns apart: their order may "
            "be chance."
        )
        seeds = " What another seed would change is in none of these numbers." if any(published.columns) else ""
        sentences.append(
            f"Between their own columns, taken as fixed classifiers with independent errors on {published.num_test:,} "
            f"texts: {'; '.join(parts)}.{verdict}{seeds}"
        )
    return sentences


def _told(one: Told) -> str:
    at = f"at {one.num_labels:,} labels " if one.num_labels else ""
    return (
        f"{at}{one.num_apart} of {plural(one.num_pairs, 'pair')} differ (largest difference "
        f"{100 * one.largest:.2f} points, smallest p {p_value(one.p_value)} after Holm)"
    )


def epochs_table(summary: Summary) -> Table:
    """(head, rows): test accuracy at the update that was kept, at the last one, and at the oracle's: the best on the
    test texts. Only where records measured the test at every point. No last one where training ends with the one to
    keep: at a length that was chosen before, or at the recipe's."""
    head = ["method", "N", "seeds", "kept, %", "last, %", "oracle (best on test), %"]
    table = []
    for row in summary.rows:
        for num_labels, cell in row.cells.items():
            finished = [run for run in cell.runs if run.status == "finished"]
            found = [run.by_epoch for run in finished if run.by_epoch is not None]
            if found and len(found) == len(finished):
                means = (mean(values) for values in zip(*found, strict=True))
                kept, last, oracle = (f"{DASH} (the kept one)" if one is None else percent(one) for one in means)
                table.append([
                    row_title(row),
                    count(num_labels),
                    count(len(found)),
                    kept,
                    last,
                    f"{oracle}, {'kept by it' if row.on_test else 'never used'}",
                ])
    return head, table


def overlap_lines(summary: Summary) -> list[tuple[str, str]]:
    """[(what, value)]: test texts that stand on the training side too, or that nobody counted them."""
    counted = {part.group: part for part in summary.overlaps}
    lines = []
    for title, rows in zip(group_titles(summary), summary.groups, strict=True):
        part, where = counted.get(rows[0].group), f" ({title})" if title else ""
        if part is None:
            lines.append((f"near duplicates across training and test{where}", NOT_COUNTED))
            continue
        least = "" if part.is_complete else "at least "
        other = f"the {part.num_train:,} texts of the training side" if part.has_test_side else "the other texts"
        of = f"{least}{{:,}} of {part.num_test:,}"
        same = f"test texts that also stand among {other}, but for case, spacing and punctuation{where}"
        near = f"test texts nearly the same as one there (3-word shingles, Jaccard similarity of 0.8 or more){where}"
        lines += [(same, of.format(part.num_equal)), (near, of.format(part.num_near))]
        if part.num_equal or part.num_near:
            read = ", ".join(f"{extent(ends)} at N = {number:,}" for number, ends in part.read.items())
            lines.append((f"of all these, with the twin among the labels that a run read{where}", read or ABSENT))
    return lines


NOT_COUNTED = "not counted: `handful study FILE` counts them where the texts are at hand"


def differences_table(summary: Summary) -> Table:
    """(head, rows): every paired difference that was computed, in percentage points."""
    head = ["method", "N", "against", "difference, points", "detectable"]
    head += ["p (McNemar)", "seeds", "test texts", "verdict"]
    table = []
    for row in summary.rows:
        for num_labels, cell in row.cells.items():
            compared = [difference for difference in (cell.versus_best, *cell.versus_no_labels) if difference]
            for difference in dict.fromkeys(compared):
                table.append([
                    row_title(row),
                    count(num_labels),
                    difference.other,
                    points(difference.interval) if difference.interval else ABSENT,
                    detectable(difference.detectable),
                    p_value(difference.p_value),
                    count(difference.num_seeds) + starts(difference),
                    count(difference.num_texts),
                    verdict(difference),
                ])
    return head, table


def diverged_lines(summary: Summary) -> list[tuple[str, str]]:
    """[(row and run, why)]: every run whose training went astray, failed or not."""
    lines = []
    for row in summary.rows:
        for num_labels, cell in row.cells.items():
            for run in cell.runs:
                if run.diverged:
                    seed = "" if run.seed is None else f", seed {run.seed}"
                    lines.append((f"{row.label}, N = {num_labels:,}{seed}", _divergence(run)))
    return lines


def _divergence(run: Run) -> str:
    if run.reason:
        return without_folders(run.reason)
    losses = [point.train_loss for point in run.curve if point.train_loss is not None]
    return f"the training loss rose from {losses[0]:.3g} to {losses[-1]:.3g} nats"
