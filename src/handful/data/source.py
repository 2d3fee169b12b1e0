"""What every data source has: its common knobs, and the rows it reads.

Knows nothing of ids by content, test samples, duplicates or draws: `loading` and `sampling` do those
alike for every source. A source only reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from handful.errors import DataError
from handful.examples import Dataset

RawRow = tuple[str | None, dict[str, str], str | None]
"""(id, text fields by name, label name). No id: named by content. No label: an unlabelled text."""


@dataclass(frozen=True)
class RawData:
    """What a source read, before anything is drawn.

    `test` is None where the source has no test side. Empty `label_names` means: those that occur in
    `train`, sorted; else their given order holds. Every row has exactly `field_names`, none blank.
    """

    field_names: tuple[str, ...]
    train: Sequence[RawRow]
    test: Sequence[RawRow] | None
    unlabelled: Sequence[RawRow] = ()
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSource(ABC):
    """A source of labelled texts. Its fields are its knobs in a study file.

    Fields with `metadata={"where": True}` say where bytes lie and are no part of a spec's identity;
    `revision` is, and names the content. Raises DataError for a `test_size` below 1.

    test_size: how many test texts are drawn, the same for every cell; None: all of them.
    balanced: equally many labelled texts per label, instead of the natural frequencies.
    remove_duplicates: leave out training texts that occur in the test side word for word.
    revision: "sha256:..." that the content must have; None: whatever is there.
    """

    name: ClassVar[str]

    test_size: int | None = None
    balanced: bool = False
    remove_duplicates: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.test_size is not None and self.test_size < 1:
            raise DataError(
                f"test_size must be at least 1, got {self.test_size}. Leave it out to test on all test texts."
            )

    @abstractmethod
    def read(self) -> RawData:
        """All rows of all sides, texts as they stand in the source. Raises DataError."""

    def outline(self) -> Dataset | None:
        """For a plan where the texts are not to be had: as many of the same lengths, which say nothing. None where
        `read` can be expected to give the texts, or nothing is known of them.
        """
        return None

    def local_files(self) -> tuple[Path, ...]:
        """The files that `read` would read now; a change to one of them is seen by the cache."""
        return ()


def column_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """The text columns of a source, from one name or several. Raises DataError for none or a repeat."""
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f'text must name one column or several, got {given!r}, such as text = "review".')
    if len(set(names)) < len(names):
        raise DataError(f"text names a column twice: {', '.join(names)}. Name each one once.")
    return names
