"""A table that somebody else printed, as a study file quotes it, to stand beside the study's own.

Knows nothing of how a study is run, or of how the two are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedRow:
    """One method, knob or base of the table.

    where: what a row of the study says where it is asked the same, by dotted name ({"method.dropout": 0.1}). accuracy:
    by number of labels ("0" where there are none), as fractions. epochs: the epoch that was chosen, where it is told.
    parameters: of the base that was used, where it is not the table's.
    """

    label: str
    where: Mapping[str, str | bool | float]
    accuracy: Mapping[str, float]
    epochs: Mapping[str, int] = field(default_factory=dict)
    parameters: float | None = None

    def __post_init__(self) -> None:
        if not self.accuracy:
            raise ValueError("accuracy is empty: give what was printed, such as { 50 = 0.91 }")
        for name, values in (("accuracy", self.accuracy), ("epochs", self.epochs)):
            for key in values:
                if not key.isdecimal() or key != str(int(key)):
                    raise ValueError(f"{name} is by number of labels, such as {{ 50 = 0.91 }}, got {key!r}")
        for key, value in self.accuracy.items():
            if not 0 < value < 1:
                raise ValueError(f"accuracy is a fraction between 0 and 1, got {key} = {value:g}")
        for key, epoch in self.epochs.items():
            if epoch < 1 or key not in self.accuracy:
                raise ValueError(f"epochs count from 1, at a number of labels that accuracy has, got {key} = {epoch}")


@dataclass(frozen=True)
class PublishedTable:
    """source: who printed it, and what they did. base: what they ran. num_test: texts behind every number.

    parameters: of their base. rows: in the order of the table.
    """

    source: str
    base: str
    num_test: int
    rows: tuple[PublishedRow, ...] = ()
    parameters: float | None = None

    def __post_init__(self) -> None:
        if self.num_test < 1:
            raise ValueError(f"num_test must be at least 1, got {self.num_test}")
        for label, count in Counter(row.label for row in self.rows).items():
            if count > 1:
                raise ValueError(f"{count} rows have the label {label!r}: give each one of its own")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the plan."""
        return asdict(self)
