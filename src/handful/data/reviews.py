"""`reviews`: the small table of reviews that ships with handful, for trying things out offline.

Knows nothing of what the reviews say or of drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import ClassVar

from handful.data.rows import checked_rows
from handful.data.source import DataSource, RawData
from handful.errors import DataError
from handful.tables import Table, parse_csv

SIDES = ("train", "test", "unlabelled")
COLUMNS = ("id", "text", "label", "split")


@dataclass(frozen=True, kw_only=True)
class Reviews(DataSource):
    """The shipped reviews: columns id, text, label, and split (train, test or unlabelled)."""

    name: ClassVar[str] = "reviews"

    def read(self) -> RawData:
        file = asset()
        if not file.is_file():
            raise DataError(f"reviews: {file} is missing, so handful is half installed. Install it again.")
        table = parse_csv(file.read_text(encoding="utf-8"), "reviews.csv")
        sides = table.columns.get("split", ())
        unknown = sorted({str(side) for side in sides} - set(SIDES))
        if not set(COLUMNS) <= set(table.column_names) or unknown:
            raise DataError(f"reviews: {file} is not the file that was shipped. Install handful again.")
        parts = {
            side: Table(
                f"reviews.csv, split {side!r}",
                table.column_names,
                {
                    name: [value for value, at in zip(table.columns[name], sides, strict=True) if at == side]
                    for name in COLUMNS
                },
            )
            for side in SIDES
        }
        text = ("text",)
        return RawData(
            field_names=text,
            train=checked_rows(parts["train"], text, "label", "id"),
            test=checked_rows(parts["test"], text, "label", "id") if "test" in sides else None,
            unlabelled=checked_rows(parts["unlabelled"], text, None, "id") if "unlabelled" in sides else [],
        )


def asset() -> Traversable:
    """Where the table lies inside the package."""
    return files("handful").joinpath("assets", "reviews.csv")
