"""A table's columns -> checked rows: every text is text and there, every label is there.

Knows nothing of where a table came from, of sides, samples or line breaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from handful.data.source import RawRow
from handful.errors import DataError, nearest
from handful.tables import Table

ROWS_SHOWN = 10


def checked_rows(
    table: Table, text: Sequence[str], label: str | None = None, id_column: str | None = None
) -> list[RawRow]:
    """The rows of a table, in its order; `label=None` reads unlabelled texts.

    Raises DataError for a missing column, no rows, values that are not text, blank texts, missing
    labels or ids. Rows are counted from 1, without a header.
    """
    if label is not None and label in text:
        raise DataError(
            f"{table.title}: {label!r} is both the label and a text column, so every text would hold its "
            f"answer. Name another text or label column; there are: {_listed(table.column_names)}."
        )
    for knob, column in [*(("text", name) for name in text), ("label", label), ("id", id_column)]:
        if column is not None and column not in table.column_names:
            raise _missing_column(table, knob, column)

    texts = [table.columns[name] for name in text]
    num_rows = len(texts[0])
    if num_rows == 0:
        raise DataError(f"{table.title} has no rows. Give a table with at least one text per label.")
    for name, values in zip(text, texts, strict=True):
        _check_texts(table, name, values)
    labels: Sequence[str | None] = [None] * num_rows
    if label is not None:
        labels = _names(table, "label", label, "Fill them in, or leave these rows out.")
    ids: Sequence[str | None] = [None] * num_rows
    if id_column is not None:
        way_out = "Fill them in, or leave `id` out: then each text is named by its content."
        ids = _names(table, "id", id_column, way_out)

    if len(texts) == 1:  # by far the commonest case, and twice as fast
        only = text[0]
        return [
            (id_, {only: value}, name)  # type: ignore[dict-item]  # _check_texts saw that all are str
            for id_, value, name in zip(ids, texts[0], labels, strict=True)
        ]
    return [
        (id_, dict(zip(text, values, strict=True)), name)
        for id_, values, name in zip(ids, zip(*texts, strict=True), labels, strict=True)
    ]


def _check_texts(table: Table, column: str, values: Sequence[object]) -> None:
    blank: list[int] = []
    for row, value in enumerate(values, start=1):
        if isinstance(value, str):
            if not value or value.isspace():
                blank.append(row)
            elif not value.isascii():
                _refuse_broken_unicode(table, column, row, value)
        elif value is None or (isinstance(value, float) and math.isnan(value)):
            blank.append(row)
        else:
            raise DataError(
                f"{table.title}: column {column!r} holds {type(value).__name__}, not text (row {row}: "
                f"{str(value)[:40]!r}). Name a text column; there are: {_listed(table.column_names)}."
            )
    if values and all(isinstance(value, str) and _is_number(value) for value in values):
        raise DataError(
            f"{table.title}: column {column!r} holds numbers only, such as {str(values[0])[:40]!r}, not text. "
            f"Name a text column; there are: {_listed(table.column_names)}."
        )
    if blank:
        raise DataError(
            f"{table.title}: column {column!r} has no text in {_rows(blank)}. "
            "Fill them in, or leave these rows out."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(table: Table, knob: str, column: str, way_out: str) -> list[str | None]:
    """Labels or ids as names: numbers as Python writes them, so that all file formats agree."""
    names: list[str | None] = []
    missing: list[int] = []
    for row, value in enumerate(table.columns[column], start=1):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            missing.append(row)
            continue
        if not isinstance(value, (str, int, float)):
            raise DataError(
                f"{table.title}: the {knob} column {column!r} holds {type(value).__name__} (row {row}: "
                f"{str(value)[:40]!r}). It must hold text or numbers."
            )
        name = str(value).strip()
        if not name:
            missing.append(row)
            continue
        if not name.isascii():
            _refuse_broken_unicode(table, column, row, name)
        names.append(name)
    if missing:
        raise DataError(f"{table.title}: no {knob} in {_rows(missing)} (column {column!r}). {way_out}")
    return names


def _refuse_broken_unicode(table: Table, column: str, row: int, value: str) -> None:
    """Half a surrogate pair ("\\ud83d" alone in JSON) is no character: no tokenizer or file takes it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{table.title}: column {column!r}, row {row} holds {value[error.start]!r}, half of a surrogate "
            "pair, which is not a character. The text was cut or badly converted: mend or leave out the row."
        ) from error


def _missing_column(table: Table, knob: str, column: str) -> DataError:
    hint = nearest(column, table.column_names)
    only = table.column_names[0] if len(table.column_names) == 1 else ""
    separator = next((mark for mark in (";", "\t", "|") if mark in only), None)
    if separator is not None:
        hint = f" It seems to be separated by {separator!r}: save it with commas, or as .tsv with tabs."
    given = "" if column == knob else f" ({knob} = {column!r})"
    return DataError(
        f"{table.title} has no column {column!r}{given}; it has: {_listed(table.column_names)}.{hint} "
        f'Name the right one with {knob} = "...".'
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _rows(rows: Sequence[int]) -> str:
    """Such as `row 3`, `rows 3, 17`, or the first ten `and 5 more`."""
    shown = ", ".join(str(row) for row in rows[:ROWS_SHOWN])
    more = f" and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
