"""Numbers of a summary -> the words and figures that all three formats share.

Knows nothing of terminals, Markdown or HTML, and escapes nothing: whoever shows a text escapes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.identity import canonical_json
from handful.statistics import Interval
from handful.summary import (
    Cell,
    Difference,
    Equivalence,
    Equivalent,
    Protocol,
    Row,
    Spread,
    SpreadCell,
    Summary,
    Unfinished,
)

NO_LABELS_MARK = "\N{DAGGER}"
DASH = "\N{EN DASH}"
ABSENT = DASH
"""Stands where the records hold no number."""
ONE_SEED = "one seed says nothing of another"
"""Why a claim about methods is not decided where one seed stands for a trained one."""


# -- single values ------------------------------------------------------------------------------------------


def percent(fraction: float) -> str:
    """0.7853 -> "78.5"."""
    return f"{100 * fraction:.1f}"


def as_printed(fraction: float) -> str:
    """0.9605 -> "96.05", 0.649 -> "64.9": all digits of a number that was printed in percent."""
    return f"{100 * fraction:.4f}".rstrip("0").rstrip(".")


def bounds(interval: Interval) -> str:
    """The ends in percent: "[75.1, 81.6]"."""
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def points(interval: Interval) -> str:
    """A difference in percentage points with its ends: "+5.2 [2.1, 8.3]"."""
    return f"{100 * interval.estimate:+.1f} {bounds(interval)}"


def points_words(interval: Interval) -> str:
    """"+5.2 points [2.1, 8.3]"."""
    return f"{100 * interval.estimate:+.1f} points {bounds(interval)}"


def detectable(value: float | None) -> str:
    """The smallest difference in points that the data could have found: "1.4"."""
    return ABSENT if value is None else percent(value)


def count(value: float | None) -> str:
    """A number of things with thousands separated; `ABSENT` for None."""
    return ABSENT if value is None else f"{value:,.0f}"


def extent(values: tuple[int, int] | None) -> str:
    """"1,024", or "1,024-2,048" with an en dash when smallest and largest differ."""
    if values is None:
        return ABSENT
    low, high = values
    return count(low) if low == high else f"{count(low)}{DASH}{count(high)}"


def seconds(value: float | None) -> str:
    """"< 0.01 s", "0.31 s", "12 s", "5 min 20 s", "2 h 05 min"."""
    if value is None:
        return ABSENT
    if value < 0.005:
        return "< 0.01 s"
    if value < 9.95:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate(value: float | None) -> str:
    """Texts per second, to two digits when slow."""
    if value is None:
        return ABSENT
    return count(value) if value >= 10 else f"{value:.2g}"


def size(num_bytes: float | None) -> str:
    """Bytes in decimal units: "13.4 MB"."""
    if num_bytes is None:
        return ABSENT
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 99.5 else f"{value:.1f} {units[0]}"


def sizes(values: tuple[int, int] | None) -> str:
    """A size, or smallest and largest when they read differently."""
    if values is None:
        return ABSENT
    low, high = size(values[0]), size(values[1])
    return low if low == high else f"{low}{DASH}{high}"


def decimals(value: float | None) -> str:
    """Three decimals: for log loss, F1 and calibration error."""
    return ABSENT if value is None else f"{value:.3f}"


def p_value(value: float | None) -> str:
    """"0.031", "< 0.001"."""
    if value is None:
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain(value: Any) -> str:
    """Text as it is, anything else as its canonical JSON."""
    return value if isinstance(value, str) else canonical_json(value)


def distinct_values(values: Sequence[Any]) -> str:
    """Numbers as "3" or a span, anything else side by side; `ABSENT` for none."""
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if not values:
        return ABSENT
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        return f"{low:,}" if low == high else f"{low:,}{DASH}{high:,}"
    return listed([plain(value) for value in values], limit=4)


def leaves(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """[(dotted name, value)] of nested mappings; a single ("", value) for anything else."""
    if not isinstance(value, Mapping):
        return [(prefix, plain(value))]
    return [
        leaf for name, item in value.items()
        for leaf in leaves(item, f"{prefix}.{name}" if prefix else str(name))
    ]


def part_name(part: Any) -> str:
    """A short name of a resolved prompt, model or data section: its checkpoint or name."""
    if isinstance(part, Mapping):
        for key in ("checkpoint", "name", "path"):
            if part.get(key):
                return plain(part[key])
    return plain(part)


def printable(text: str) -> str:
    """The text without control characters, escape sequences and lone surrogates; line ends become spaces."""
    spaced = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in spaced)


def without_folders(text: str) -> str:
    """The text with the folders of absolute paths left out: "/home/me/x.toml" becomes "…/x.toml".

    Where files lie on one machine says nothing elsewhere, and may say more of its owner than was meant.
    """
    return re.sub(r"(?<![\w./:…])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"]+[/\\])+(?=[^\s/\\])", "…/", text)


def listed(items: Sequence[str], limit: int = 4) -> str:
    """"a", "a and b", "a, b and c", "a, b, c, d and 3 more"."""
    shown = list(items) if len(items) <= limit else [*items[:limit], f"{len(items) - limit} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def plural(number: int, noun: str) -> str:
    """"1 seed", "2 seeds"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def labels_words(number: float, equal: Equivalent) -> str:
    """A number of labels read off a curve, to two digits: "900", "more than 5,000", "fewer than 50"; to three where two
    would round it to the end of the curve."""
    if number > equal.largest:
        return f"more than {equal.largest:,}"
    if number < equal.smallest:
        return f"fewer than {equal.smallest:,}"
    digits = 1 - math.floor(math.log10(number))
    rounded = round(number, min(0, digits))
    return f"{round(number, min(0, digits + 1)) if rounded >= equal.largest else rounded:,.0f}"


def equivalence_words(equivalence: Equivalence) -> str:
    """"lora with 50 labels = tfidf with 900 [600, 1,400]"; without an interval where all of it lies out of reach."""
    equal = equivalence.found
    head = f"{equivalence.first} with {plural(equivalence.num_labels, 'label')} = {equivalence.second} with"
    if equal is None:
        return f"{head} can't tell: {equivalence.second} has no curve to read ({equivalence.reason})"
    words = [labels_words(end, equal) for end in (equal.estimate, equal.low, equal.high)]
    return f"{head} {words[0]}" if len(set(words)) == 1 else f"{head} {words[0]} [{words[1]}, {words[2]}]"


# -- cells and rows -----------------------------------------------------------------------------------------


def state(cell: Cell) -> str:
    """What keeps a cell from being whole: "failed", "1 of 2 seeds failed", "missing"; empty for nothing."""
    total, failed, missing = cell.num_seeds_planned, cell.num_seeds_failed, cell.num_seeds_missing
    if cell.status == "not planned":
        return "not planned"
    if failed == missing == 0:
        return ""
    if failed == total:
        return "failed"
    if missing == total:
        return "missing"
    if failed and missing:
        return f"{failed} of {total} seeds failed, {missing} missing"
    return f"{failed or missing} of {total} seeds {'failed' if failed else 'missing'}"


def mark(cell: Cell) -> str:
    """"best", "tie" or nothing."""
    return "best" if cell.is_best else "tie" if cell.ties_best else ""


def row_title(row: Row) -> str:
    """The row's label, marked when it reads no labels."""
    return row.label if row.reads_labels else f"{row.label} {NO_LABELS_MARK}"


def level_label(level: Row | Spread) -> str:
    """What stands in a legend for a row that reads no labels, or for one method under several prompts."""
    if isinstance(level, Spread):
        return f"{spread_title(level)} and range (reads no labels)"
    return f"{level.label} (reads no labels)"


def spread_title(spread: Spread) -> str:
    """"zero_shot, mean of 3 prompts"."""
    return f"{spread.label}, mean of {plural(len(spread.rows), 'prompt')}"


def spread_range(cell: SpreadCell, num_prompts: int) -> str:
    """"65.1 to 79.9", and over how many prompts where some have no numbers."""
    words = f"{percent(cell.low)} to {percent(cell.high)}"
    return words if cell.num_rows == num_prompts else f"{words}, {cell.num_rows} of {num_prompts} prompts"


def kept_words(cell: Cell) -> str:
    """"epoch 2", "epochs 2, 1, 2", else "update 40": what each finished run kept; empty where none was trained."""
    epochs = [f"{epoch:.3g}" for epoch in cell.chosen_epochs]
    if epochs and len(epochs) == cell.num_seeds_finished:
        return f"epoch {epochs[0]}" if len(set(epochs)) == 1 else f"epochs {', '.join(epochs)}"
    updates = [f"{update:,}" for update in cell.chosen_updates]
    if not any(cell.chosen_updates):
        return ""
    return f"update {updates[0]}" if len(set(updates)) == 1 else f"updates {', '.join(updates)}"


def starts(difference: Difference) -> str:
    """", 3 starts", to stand behind the number of seeds; empty where each seed has one."""
    return f", {plural(difference.num_starts, 'start')}" if difference.num_starts > 1 else ""


def verdict(difference: Difference) -> str:
    """What a difference lets one say, in a word or three."""
    known = difference.distinguishable
    if not known:
        return "not compared" if known is None else "tie"
    return "these runs differ" if difference.is_single else "differs"


def group_titles(summary: Summary) -> list[str]:
    """A name for the data of each group, with what differs where two have one name; [""] for one group."""
    if len(summary.groups) < 2:
        return [""] * len(summary.groups)
    data = [rows[0].asked.get("data") for rows in summary.groups]
    names = [part_name(part) for part in data]
    known = [dict(leaves(part)) for part in data]
    titles = []
    for name, values in zip(names, known, strict=True):
        alike = [other for other, another in zip(known, names, strict=True) if another == name]
        differing = [
            f"{key}={value[:40]}" for key, value in values.items()
            if any(other.get(key) != value for other in alike)
        ]
        titles.append(" ".join([name, *differing]))
    return [
        title + (", best test epoch (paper's protocol)" if rows[0].on_test else "")
        for title, rows in zip(titles, summary.groups, strict=True)
    ]


# -- lists --------------------------------------------------------------------------------------------------


def unfinished_lines(entries: Iterable[Unfinished]) -> list[tuple[str, str]]:
    """[(row and its cells, reason)]: runs of one row with one reason stand together."""
    found: dict[tuple[str, str], dict[int, list[int | None]]] = {}
    for entry in entries:
        by_number = found.setdefault((entry.row, entry.reason), {})
        by_number.setdefault(entry.num_labels, []).append(entry.seed)
    lines = []
    for (row, reason), by_number in found.items():
        cells = []
        for num_labels, seeds in by_number.items():
            known = [str(seed) for seed in seeds if seed is not None]
            if not known:
                cells.append("reads no labels")
            else:
                noun = "seed" if len(known) == 1 else "seeds"
                cells.append(f"{plural(num_labels, 'label')} ({noun} {', '.join(known)})")
        lines.append((f"{row}: {', '.join(cells)}", without_folders(reason)))
    return lines


def progress(summary: Summary) -> str:
    """"22 of 24 runs finished, 1 failed, 1 missing"."""
    words = [f"{summary.num_finished:,} of {plural(summary.num_planned, 'run')} finished"]
    if summary.num_failed:
        words.append(f"{summary.num_failed:,} failed")
    if summary.num_missing:
        words.append(f"{summary.num_missing:,} missing")
    return ", ".join(words)


def tests_text(protocol: Protocol) -> str:
    """"2,000 test texts", "1,950 to 2,000 test texts"."""
    return f"{distinct_values(protocol.num_test)} test texts"


def splits_text(protocol: Protocol) -> str:
    """"50 = 40 + 10; 16 = 16 + 0": training plus selection, as drawn."""
    return "; ".join(
        " or ".join(f"{num_labels:,} = {train:,} + {selection:,}" for train, selection in sizes)
        for num_labels, sizes in protocol.splits.items()
    )


def footnotes(summary: Summary) -> list[str]:
    """What a reader of the table must know: the interval, what N counts, the marks."""
    cells = [cell for row in summary.rows for cell in row.cells.values()]
    kinds = {cell.interval_kind for cell in cells}
    notes = []
    if summary.has_results:
        notes.append(f"Accuracy in % on {tests_text(summary.protocol)}: mean over seeds [95 % interval].")
    if "crossed" in kinds:
        notes.append(
            "Interval of a mean over seeds: training seeds and test texts both count as sampled (two-way "
            "random effects)."
        )
    if "wilson" in kinds:
        notes.append(
            "Interval of a single run: Wilson's score interval; it covers the sampling of test texts only."
        )
    compared = [difference for cell in cells for difference in (cell.versus_best, *cell.versus_no_labels)]
    if any(difference is not None and difference.is_single for difference in compared):
        notes.append(
            "A difference in which one seed stands for a trained method is of these runs and not of the method: "
            f"{ONE_SEED}."
        )
    notes.append(
        "N counts every labelled text that is read before the test: training and selection"
        + (f" ({splits_text(summary.protocol)})." if summary.protocol.splits else ".")
    )
    if any(cell.versus_best is not None for cell in cells):
        notes.append(
            "best: largest mean accuracy of its column. tie: cannot be told apart from it (the 95 % interval "
            "of the paired difference includes 0; one run on either side: exact McNemar p of 0.05 or "
            "more). Not corrected for the number of comparisons."
        )
    if summary.claims:
        num_open = sum(claim.difference.is_single for claim in summary.claims)
        notes.append(
            f"{plural(len(summary.claims), 'declared comparison')} (claims), adjusted for their number after Holm"
            + (f" ({num_open:,} undecided and not counted: {ONE_SEED})" if num_open else "")
            + "; every other comparison here is exploratory."
        )
    elif any(cell.versus_best is not None for cell in cells):
        none = "No declared claim could be tested" if summary.num_declared else "The study declares no claims"
        notes.append(f"{none}: every comparison here is exploratory.")
    if any(kept_words(cell) for cell in cells):
        notes.append("epoch, update: what was kept of training, seed by seed where it differs.")
    if summary.spreads:
        notes.append("mean of prompts: over the mean accuracies under each prompt, with the lowest and the highest.")
    if any(not row.reads_labels for row in summary.rows):
        notes.append(f"{NO_LABELS_MARK} reads no labels: the same run is repeated across its row.")
    baselines = [row.label for row in summary.rows if not row.uses_model]
    if baselines:
        notes.append(f"No model ran here for: {listed(baselines)}.")
    if any(cell.status == "not planned" for cell in cells):
        notes.append("not planned: the study does not ask for this cell.")
    if summary.protocol.num_chosen_on_test:
        notes.append(
            f"{plural(summary.protocol.num_chosen_on_test, 'finished run')} chose on the test texts: the "
            "accuracy of those is optimistic."
        )
    return notes + list(summary.notes)
