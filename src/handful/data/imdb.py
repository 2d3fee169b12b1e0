"""`imdb`: the Large Movie Review Dataset (Maas et al. 2011), from local Parquet files or the hub.

25,000 reviews to train on, 25,000 to test on, 50,000 without labels. Texts are named by content, so
local files and the hub give the same samples. Knows nothing of drawing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from handful.data.hub import download, is_within_reach, split_table
from handful.data.reviews import Reviews
from handful.data.rows import checked_rows
from handful.data.source import DataSource, RawData, RawRow
from handful.errors import DataError
from handful.examples import Dataset, Example
from handful.identity import ESTIMATED
from handful.tables import Table, read_table

HUB_NAME = "stanfordnlp/imdb"
LABEL_NAMES = ("negative", "positive")
TEXT, LABEL = "text", "label"

TRAIN_LENGTHS = (
    221, 294, 353, 410, 471, 528, 576, 611, 634, 650, 663, 678, 694, 709, 725, 741, 759, 779, 800, 820, 842, 867, 895,
    921, 950, 980, 1011, 1044, 1081, 1120, 1163, 1210, 1264, 1317, 1373, 1440, 1508, 1585, 1671, 1769, 1875, 1984, 2123,
    2287, 2467, 2707, 2995, 3389, 4010, 5265,
)  # fmt: skip
TEST_LENGTHS = (
    214, 287, 340, 398, 456, 514, 564, 601, 628, 644, 658, 672, 687, 702, 717, 734, 751, 769, 789, 809, 832, 856, 881,
    907, 934, 963, 994, 1028, 1063, 1100, 1140, 1180, 1224, 1274, 1333, 1396, 1470, 1546, 1623, 1714, 1811, 1928, 2060,
    2211, 2391, 2619, 2915, 3294, 3912, 5158,
)  # fmt: skip
"""Characters of the 25,000 reviews of a side, ascending: the means of fifty equal shares, line breaks for <br />."""
SIDE = 25_000


@dataclass(frozen=True, kw_only=True)
class Imdb(DataSource):
    """IMDB from `folder`, else from `imdb/` in the folder that HANDFUL_DATA names, else from the hub.

    A folder holds train.parquet and test.parquet, and unsupervised.parquet if wanted, with the columns
    text and label (0 negative, 1 positive).
    """

    name: ClassVar[str] = "imdb"

    folder: str | None = field(default=None, metadata={"where": True})

    def read(self) -> RawData:
        folder = self._folder()
        tables = self._hub_tables() if folder is None else self._folder_tables(folder)
        return RawData(
            field_names=(TEXT,),
            train=_labelled(tables["train"]),
            test=_labelled(tables["test"]),
            unlabelled=_unlabelled(tables["unsupervised"]) if "unsupervised" in tables else [],
            label_names=LABEL_NAMES,
        )

    def outline(self) -> Dataset | None:
        """Stand-ins, made of the reviews that ship, where IMDB lies in no folder and the hub is out of reach."""
        if self._folder() is not None or is_within_reach(HUB_NAME):
            return None
        num_test = min(self.test_size or SIDE, SIDE)
        return Dataset(
            name=self.name,
            label_names=LABEL_NAMES,
            field_names=(TEXT,),
            train=_stand_ins("train", TRAIN_LENGTHS, SIDE),
            test=_stand_ins("test", TEST_LENGTHS, num_test),
            unlabelled=(),  # no plan counts them
            revision=ESTIMATED,
            facts={"balanced": self.balanced},
        )

    def local_files(self) -> tuple[Path, ...]:
        folder = self._folder()
        names = ("train", "test", "unsupervised")
        return () if folder is None else tuple(folder / f"{name}.parquet" for name in names)

    def _folder(self) -> Path | None:
        if self.folder is not None:
            return Path(self.folder).expanduser()
        shared = os.environ.get("HANDFUL_DATA")
        if shared and (Path(shared).expanduser() / "imdb").is_dir():
            return Path(shared).expanduser() / "imdb"
        return None

    def _folder_tables(self, folder: Path) -> dict[str, Table]:
        missing = [name for name in ("train", "test") if not (folder / f"{name}.parquet").is_file()]
        if missing:
            raise DataError(
                f"imdb: {folder} lacks {' and '.join(f'{name}.parquet' for name in missing)}. Put "
                f"train.parquet and test.parquet of {HUB_NAME} there, or name another folder; without one "
                "they come from the hub."
            )
        tables = {name: read_table(folder / f"{name}.parquet", (TEXT, LABEL)) for name in ("train", "test")}
        if (folder / "unsupervised.parquet").is_file():
            tables["unsupervised"] = read_table(folder / "unsupervised.parquet", (TEXT,))
        return tables

    def _hub_tables(self) -> dict[str, Table]:
        try:
            splits = download(HUB_NAME)
        except DataError as error:
            raise DataError(
                f"{error} Or put train.parquet and test.parquet into a folder and name it: "
                'data = { name = "imdb", folder = "..." }.'
            ) from error
        tables = {name: split_table(splits, HUB_NAME, name, (TEXT, LABEL)) for name in ("train", "test")}
        if "unsupervised" in splits:
            tables["unsupervised"] = split_table(splits, HUB_NAME, "unsupervised", (TEXT,))
        return tables


@lru_cache(maxsize=4)
def _stand_ins(side: str, lengths: tuple[int, ...], count: int) -> tuple[Example, ...]:
    """`count` texts of those lengths, ascending, so that a sample spread over them is as long as all are."""
    words = "\n".join(row[1][TEXT] for row in Reviews().read().train)
    assert len(words) >= max(lengths)
    texts = [{TEXT: words[:length]} for length in lengths]
    return tuple(
        Example(f"{side}-{index}", texts[index * len(texts) // count], index % 2) for index in range(count)
    )


def _labelled(table: Table) -> list[RawRow]:
    """Rows with 0 and 1 turned into names."""
    _require(table, (TEXT, LABEL))
    named: list[str | None] = []
    for row, label in enumerate(table.columns[LABEL], start=1):
        if label is None:
            named.append(None)
        elif isinstance(label, int) and label in (0, 1):
            named.append(LABEL_NAMES[label])
        else:
            raise DataError(
                f"imdb: {table.title}, row {row}: label {label!r}; only 0 (negative) and 1 (positive) are "
                "known. Read another table with the data source table_file."
            )
    table = Table(table.title, table.column_names, {**table.columns, LABEL: named})
    return checked_rows(table, (TEXT,), LABEL)


def _unlabelled(table: Table) -> list[RawRow]:
    _require(table, (TEXT,))
    return checked_rows(table, (TEXT,))


def _require(table: Table, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise DataError(
            f"imdb: {table.title} has no column {' and '.join(map(repr, missing))}; it has: "
            f"{', '.join(map(repr, table.column_names))}. Read another table with the data source table_file."
        )
