"""CSV, TSV, JSONL and Parquet files -> tables. Nothing is guessed: every CSV cell is text as it stands.

Knows nothing of which column is a text or a label.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handful.errors import DataError, nearest


@dataclass(frozen=True)
class Table:
    """Columns of equal length, under a title that a person knows it by (a path, a split).

    `column_names` are all that the table has; `columns` holds at least those that were asked for and
    exist, each a list with one value per row.
    """

    title: str
    column_names: tuple[str, ...]
    columns: Mapping[str, Sequence[object]]


SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """The table in a file, its format told by the suffix; of Parquet only the `wanted` columns are read.

    Raises DataError for a missing or unreadable file, another suffix, an encoding that is not UTF-8,
    malformed lines and damaged Parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path} is no table that handful reads: its name must end in {', '.join(SUFFIXES)}. "
            "Save it in one of these formats."
        )
    if suffix == ".parquet":
        return _read_parquet(_existing(path), wanted)
    text = _decoded(read_bytes(path), str(path))
    if suffix == ".jsonl":
        return parse_jsonl(text, str(path))
    return parse_csv(text, str(path), delimiter="\t" if suffix == ".tsv" else ",")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises DataError when it is missing, with the nearest name beside it."""
    try:
        return _existing(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def parse_csv(text: str, title: str, delimiter: str = ",") -> Table:
    """A table of strings, from text with a header line. Raises DataError, with the line, if malformed."""
    if not text.strip():
        raise DataError(f"{title} is empty. It needs a header line with the column names, then the rows.")
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    try:
        # strict: an unclosed quote is an error, instead of a last text that swallows the file
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return _table_of(reader, title)
    except csv.Error as error:
        raise DataError(
            f"{title}, line {reader.line_num}: not well-formed ({error}). A text with quotes must stand in "
            'quotes, with each inner quote doubled: "She said ""yes""".'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _table_of(reader: csv._reader, title: str) -> Table:  # type: ignore[name-defined,unused-ignore]
    header = tuple(name.strip() for name in next(cells for cells in reader if cells))
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{title}: the header names a column twice: {', '.join(repeated)}. Rename one.")
    rows: list[list[str]] = []
    for cells in reader:
        if not cells:  # a blank line
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{title}, line {reader.line_num}: {len(cells)} cells, but the header names {len(header)} "
                "columns. A text with separators or line breaks in it must stand in double quotes."
            )
        rows.append(cells)
    columns = {name: [cells[index] for cells in rows] for index, name in enumerate(header)}
    return Table(title, header, columns)


def parse_jsonl(text: str, title: str) -> Table:
    """A table from one JSON object a line; a key that a line lacks is None there.

    Raises DataError, with the line, if malformed.
    """
    records: list[dict[str, object]] = []
    # not splitlines: texts may hold U+2028 and the like, which JSON does not escape
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg}, column {error.colno}"
            way_out = "Mend the line, or leave it out."
            if number == 1 and line.startswith("["):
                way_out = "It looks like one JSON array: write one object a line."
            raise DataError(f"{title}, line {number}: not JSON ({reason}). {way_out}") from error
        if not isinstance(record, dict):
            raise DataError(
                f"{title}, line {number}: a {type(record).__name__}, not an object. Each line must be like "
                '{"text": "...", "label": "..."}.'
            )
        records.append(record)
    if not records:
        raise DataError(f'{title} is empty. It needs one object a line: {{"text": "...", "label": "..."}}.')
    names = tuple(dict.fromkeys(key for record in records for key in record))
    return Table(title, names, {name: [record.get(name) for record in records] for name in names})


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            table = file.read(columns=[name for name in dict.fromkeys(wanted) if name in names])
        return Table(str(path), names, {name: table.column(name).to_pylist() for name in table.column_names})
    except UnicodeDecodeError as error:
        raise DataError(f"{path} holds text that is not UTF-8 ({error}). Write it again as UTF-8.") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{path} cannot be read as Parquet ({reason}). It may be cut off or another format: "
            "copy or write it again."
        ) from error


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name the file in it that holds the table.")
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise DataError(f"{path} is not there: no folder {folder} (from {Path.cwd()}). Check the path.")
        hint = nearest(path.name, (entry.name for entry in folder.iterdir()))
        raise DataError(f"{path} is not there (looked in {folder.resolve()}).{hint or ' Check the path.'}")
    return path


def _decoded(data: bytes, title: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from after the byte order mark
        position = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, position) + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"
        raise DataError(
            f"{title}: read as utf-8, but byte 0x{data[position]:02x} at position {position} (line {line}) "
            f"is not. Save it as UTF-8, such as with: iconv -f {guess} -t UTF-8 (if it is {guess})."
        ) from error
