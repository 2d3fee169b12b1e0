"""A table of predictions that something else made (a tool, a person, an API), brought into the same comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np

from handful import progress
from handful.engine.base import Base
from handful.errors import RunError, SpecError, nearest
from handful.examples import EncodedExample, Task
from handful.identity import file_hash
from handful.methods.method import Defaults, Given
from handful.tables import Table, read_table
from handful.training import Curve, TrainingSpec

SURE = 1 - 1e-6
"""Probability that a bare label is given, and all that the others share is what is left."""

LEAST = 1e-12
"""Smallest probability, so that its logarithm is a number."""

SHOWN = 3
"""Ids that an error names."""


@dataclass(frozen=True)
class Predictions(Defaults):
    """A table (.csv, .tsv, .jsonl, .parquet) with a row for each test text.

    title: what the report calls it; left out, the file's name. id: the column with the texts' ids; where there is no
    such column, texts are found by what stands in the data's own text columns. label: the column with the predicted
    label's name; where the table has a column for every label, named as it is, those are their probabilities
    instead. labels_read: how many labelled texts its maker had read, 0 for none. missing: a test text that the
    table does not answer is "refused", which stops the cell, or counted "wrong". The path may hold
    {num_labels} and {seed}, one file for each cell; per_seed and revision are filled.
    """

    name: ClassVar[str] = "predictions"

    path: str = field(default="", metadata={"where": True})
    title: str | None = None
    id: str = "id"
    label: str = "label"
    labels_read: int = field(default=0, metadata={"per_cell": True})
    missing: Literal["refused", "wrong"] = "refused"
    per_seed: bool = False
    revision: str | None = field(default=None, metadata={"per_cell": True})

    def __post_init__(self) -> None:
        if self.labels_read < 0:
            raise SpecError(f"labels_read must not be negative, got {self.labels_read}")

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Names the table by content; without {num_labels} and {seed} in the path a grid asks for it once."""
        per_labels, per_seed = "{num_labels}" in self.path, self.per_seed or "{seed}" in self.path
        path = self.path.replace("{num_labels}", str(cell["num_labels"])).replace("{seed}", str(cell["seed"]))
        knobs: dict[str, Any] = {"name": self.name, "id": self.id, "label": self.label, "missing": self.missing}
        title = self.title or Path(self.path).stem.replace("{num_labels}", "N").replace("{seed}", "seed")
        if title:
            knobs["title"] = title
        num_labels = cell["num_labels"] if per_labels else self.labels_read
        if num_labels and num_labels != cell["num_labels"]:
            raise SpecError(
                f"labels_read = {num_labels} of predictions belongs to num_labels = {num_labels}, and the study asks "
                f"at {cell['num_labels']}: put it into a [[grid]] of its own with num_labels = [{num_labels}]"
            )
        if num_labels:
            knobs["labels_read"] = num_labels
        if per_seed:
            knobs["per_seed"] = True
        if path:
            knobs["path"] = path
            knobs["revision"] = self.revision or "sha256:" + file_hash(_existing(path))
        nothing = {"name": "none"}
        return {
            **cell, "method": knobs, "model": nothing, "prompt": nothing, "training": None, "num_labels": num_labels,
            "seed": cell["seed"] if per_seed else 0,
        }  # fmt: skip

    def check(self, given: Given) -> None:
        """Raises SpecError without a table."""
        if not self.path:
            raise SpecError('predictions reads a table: name it, such as { name = "predictions", path = "gpt.csv" }')

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return ("what its maker saw",)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> TableTuned:
        """Leaves the base alone. Raises RunError when the table is another one than when the study was planned."""
        path = _existing(self.path)
        found = "sha256:" + file_hash(path)
        if self.revision not in (None, found):
            raise RunError(f"{path} has changed since the study was planned: bring the old table back, or plan again")
        return TableTuned(self, path, task)


def _existing(path: str) -> Path:
    """Raises SpecError with the way out where there is no such file."""
    there = Path(path).expanduser()
    if not there.is_file():
        names = [entry.name for entry in there.parent.iterdir()] if there.parent.is_dir() else []
        raise SpecError(f"{there} is not there (predictions).{nearest(there.name, names) or ' Check the path.'}")
    return there


class TableTuned:
    """Looks every text up; learns nothing."""

    num_trainable = 0
    is_adapter = False

    def __init__(self, method: Predictions, path: Path, task: Task) -> None:
        self._method, self._path, self._names = method, path, task.label_names
        self.facts: dict[str, Any] = {}
        self._no_labels: list[str] = []

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """There is nothing to learn."""
        progress.advance(1, 1)
        return Curve(chosen_by="made elsewhere")

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64 log-probabilities. Raises RunError for texts without an answer where they are
        refused, for two answers to one text, and for values that are no labels or probabilities.
        """
        fields = list(examples[0].fields) if examples else []
        table = read_table(self._path, [self._method.id, self._method.label, *self._names, *fields])
        asked, keys, keyed_by = self._looked_up(examples, table, fields)
        wanted = set(asked)
        # Only what is asked for is read: other rows may hold anything.
        read, given = self._answers(table)
        known: dict[str, np.ndarray] = {}
        num_doubled = 0
        for number, key in enumerate(keys):
            row = read(number) if key in wanted else None
            if row is None:
                continue
            if key in known:
                num_doubled += 1
                if not np.allclose(known[key], row):
                    raise RunError(f"{self._path} answers one text in two ways ({keyed_by} {key[:60]!r}): keep one row")
            known[key] = row
        absent = [index for index, key in enumerate(asked) if key not in known]
        num_unknown = len({key for key in keys if key and key not in wanted})
        if absent and self._method.missing == "refused":
            shown = ", ".join(repr(examples[index].id) for index in absent[:SHOWN])
            raise RunError(
                f"{self._path} answers {len(examples) - len(absent)} of {len(examples)} test texts (looked up by "
                f"{keyed_by}); without an answer are {shown}{' and others' if len(absent) > SHOWN else ''}. Complete "
                'it, or count them as wrong with missing = "wrong"'
            )
        for count, what in (
            (num_unknown, "answers of texts that are no test texts here are left out"),
            (num_doubled, "answers stand there twice"),
            (len(absent), "test texts have no answer and count as wrong"),
            (len(self._no_labels), f"of them were answered with what is no label, such as {self._no_labels[:1]}"),
            (0 if given == "probabilities" else len(known), "answers are labels without probabilities: their log-loss "
             "and calibration error say nothing"),
        ):  # fmt: skip
            if count:
                progress.note(f"{self._path.name}: {count} {what}")
        self.facts = {"given": given, "num_unanswered": len(absent), "num_unknown": num_unknown, "found_by": keyed_by}
        if given == "labels" or absent:
            self.facts["has_probabilities"] = False
        answers = [
            known[key] if key in known else _sure((example.label + 1) % len(self._names), len(self._names))
            for key, example in zip(asked, examples, strict=True)
        ]
        progress.advance(len(examples), len(examples))
        logarithms: np.ndarray = np.log(np.array(answers).reshape(len(examples), len(self._names)))
        return logarithms

    def save(self, folder: Path) -> None:
        """The table stays where it is."""

    def __enter__(self) -> TableTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was touched."""

    def _looked_up(
        self, examples: Sequence[EncodedExample], table: Table, fields: Sequence[str]
    ) -> tuple[list[str], list[str], str]:
        """(key of every text asked for, key of every row, what they are): ids, where some row has one of those asked
        for; else texts, where the table has them: a column of ids may count rows of another table."""
        texts = [_squeezed(example.fields.values()) for example in examples]
        if self._method.id not in table.columns:
            return texts, self._texts(table, fields), "text"
        ids, keys = [example.id for example in examples], [_id(value) for value in table.columns[self._method.id]]
        if not set(ids).intersection(keys):
            # As a table writes whole numbers once one of them was blank.
            keys = [key.removesuffix(".0") for key in keys]
        has_texts = bool(fields) and all(name in table.columns for name in fields)
        if has_texts and not set(ids).intersection(keys):
            progress.note(f"{self._path.name}: no {self._method.id!r} is one of a test text, so texts are looked up")
            return texts, self._texts(table, fields), "text"
        return ids, keys, "id"

    def _texts(self, table: Table, fields: Sequence[str]) -> list[str]:
        """The text of each row. Raises RunError without the columns for it."""
        absent = [name for name in fields if name not in table.columns]
        if absent or not fields:
            raise RunError(
                f"{self._path} has neither a column {self._method.id!r} with ids nor the text columns "
                f"({', '.join(fields)}); it has {', '.join(table.column_names)}"
            )
        return [_squeezed(values) for values in zip(*(table.columns[name] for name in fields), strict=True)]

    def _answers(self, table: Table) -> tuple[Callable[[int], np.ndarray | None], str]:
        """Row -> its probabilities [labels], None where it has no answer; and whether they were given as such."""
        if all(name in table.columns for name in self._names):
            columns = [table.columns[name] for name in self._names]
            return lambda number: self._probabilities(number + 1, [column[number] for column in columns]), (
                "probabilities"
            )
        if self._method.label not in table.columns:
            raise RunError(
                f"{self._path} has neither a column {self._method.label!r} with labels nor one with probabilities for "
                f"each of {', '.join(self._names[:5])}; it has {', '.join(table.column_names)}"
            )
        labels = table.columns[self._method.label]
        return lambda number: self._label(number + 1, labels[number]), "labels"

    def _label(self, number: int, value: object) -> np.ndarray | None:
        name = _id(value)
        if not name:
            return None
        name = name if name in self._names else name.removesuffix(".0")
        if name not in self._names and self._method.missing == "wrong":
            self._no_labels.append(name[:40])
            return None
        if name not in self._names:
            raise RunError(
                f"{self._path}, row {number}: {name[:40]!r} is no label of this data.{nearest(name, self._names)} "
                f"Labels: {', '.join(self._names[:8])}"
            )
        return _sure(self._names.index(name), len(self._names))

    def _probabilities(self, number: int, values: Sequence[object]) -> np.ndarray | None:
        if all(value is None or value != value or not str(value).strip() for value in values):
            return None
        try:
            row = np.array([float(str(value)) for value in values])
        except ValueError:
            row = np.array([math.nan])
        if not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > 0.01:
            shown = ", ".join(str(value) for value in values[:4])
            raise RunError(
                f"{self._path}, row {number}: {shown} are no probabilities of the labels: give numbers from 0 that add "
                "up to 1, or a column of labels"
            )
        clipped: np.ndarray = np.maximum(row, LEAST)
        return clipped / clipped.sum()  # type: ignore[no-any-return]


def _id(value: object) -> str:
    """As text; nothing for a blank."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()


def _sure(label: int, num_labels: int) -> np.ndarray:
    """[labels]: all but certain."""
    row = np.full(num_labels, (1 - SURE) / max(1, num_labels - 1))
    row[label] = SURE
    return row / row.sum()  # type: ignore[no-any-return]


_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)


def _squeezed(values: Any) -> str:
    """Texts that differ in white space alone, or in how a line break is written, are one."""
    return "\n".join(" ".join(_BREAK.sub("\n", str(value)).split()) for value in values)
