"""`table_file`: a person's own table, CSV, TSV, JSONL or Parquet.

Knows nothing of file formats (`tables` reads them) or of drawing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from handful.data.rows import checked_rows
from handful.data.source import DataSource, RawData, RawRow, column_names
from handful.tables import read_table


@dataclass(frozen=True, kw_only=True)
class TableFile(DataSource):
    """One table, and if there are such, one with test texts and one with unlabelled texts.

    Paths are relative to the current directory. Field names are the names of the `text` columns, label
    names are what stands in the `label` column. Without `test_path`, `test_size` texts are drawn from
    the table as its test side; without both, each seed draws its labelled texts and tests on the rest.
    `id` names a column of ids that are unique over all the files; without it, texts are named by content.
    """

    name: ClassVar[str] = "table_file"

    path: str = field(metadata={"where": True})
    test_path: str | None = field(default=None, metadata={"where": True})
    unlabelled_path: str | None = field(default=None, metadata={"where": True})
    text: tuple[str, ...] = ("text",)
    label: str = "label"
    id: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "text", column_names(self.text))

    def read(self) -> RawData:
        return RawData(
            field_names=self.text,
            train=self._rows(self.path, self.label),
            test=None if self.test_path is None else self._rows(self.test_path, self.label),
            unlabelled=[] if self.unlabelled_path is None else self._rows(self.unlabelled_path, None),
        )

    def local_files(self) -> tuple[Path, ...]:
        paths = (self.path, self.test_path, self.unlabelled_path)
        return tuple(Path(path).expanduser() for path in paths if path is not None)

    def _rows(self, path: str, label: str | None) -> list[RawRow]:
        wanted = [*self.text, *(column for column in (label, self.id) if column is not None)]
        table = read_table(Path(path).expanduser(), wanted)
        return checked_rows(table, self.text, label, self.id)
