"""The rows of a source -> a Dataset: line breaks, ids, duplicates, the test side, the content's revision.

The same for every source, and the same for every order of its rows. Knows nothing of files, columns or
the hub, nor of what one cell draws.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

from handful.data.sampling import draw, text_key
from handful.data.source import DataSource, RawData, RawRow
from handful.errors import DataError, nearest
from handful.examples import UNLABELLED, Dataset, Example
from handful.identity import canonical_json, text_hash

_LINE_BREAK = re.compile(r"<[bB][rR] ?/?>")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_TEST_KEY = "0"
"""The test sample is drawn with a seed of its own, shared by all cells."""


_Row = tuple[str, int, str, dict[str, str]]
"""(64 hex digits over the fields, label, given id or "", fields)"""


def build_dataset(source: DataSource, raw: RawData) -> Dataset:
    """All sides of what `source` read; `train` is sorted by id, a drawn `test` in the order it was drawn.

    Ids without a column for them are the first 16 hex digits of sha256 over the fields, with "-2", "-3" on
    exact repeats (train before test before unlabelled). `facts` count the duplicates: exact equality of
    all fields.

    Raises DataError for one label only, test labels that no training text has, ids that are not unique,
    and a `test_size` that is more than can be drawn.
    """
    sides = {"train": raw.train, "test": raw.test or (), "unlabelled": raw.unlabelled}
    label_names = _label_names(source, raw)
    rows = {side: _clean(side_rows, label_names) for side, side_rows in sides.items()}
    examples = _with_ids(source, rows)
    revision = _revision(rows, label_names)

    train, test = examples["train"], examples["test"]
    num_classes = len(label_names)
    if raw.test is not None:
        if not test:
            raise DataError(f"{source.name}: the test side is empty. Give test texts, or no test side.")
        num_test_available = len(test)
        train, duplicates = _without_duplicates(source, train, test, raw.field_names)
        if source.test_size is not None:
            if source.test_size > len(test):
                raise DataError(
                    f"test_size = {source.test_size}, but {source.name} has {len(test)} test texts. "
                    f"Give at most {len(test)}, or leave test_size out to test on all of them."
                )
            test = draw(test, source.test_size, _TEST_KEY, num_classes)
    elif source.test_size is not None:
        num_test_available = len(train) - num_classes
        if source.test_size > num_test_available:
            raise DataError(
                f"test_size = {source.test_size}, but {source.name} has {len(train)} labelled texts and no "
                f"test side, and training needs at least one text of each of its {num_classes} labels. "
                f"Give at most {num_test_available}."
            )
        test = draw(train, source.test_size, _TEST_KEY, num_classes, leave=1)
        drawn = {example.id for example in test}
        train = [example for example in train if example.id not in drawn]
        train, duplicates = _without_duplicates(source, train, test, raw.field_names)
    else:
        num_test_available = 0
        train, duplicates = _without_repeats(source, train, raw.field_names)

    counts = Counter(example.label for example in train)
    gone = [name for label, name in enumerate(label_names) if not counts[label]]
    if gone:
        raise DataError(
            f"{source.name}: without the duplicates of test texts, no training text is left for "
            f"{', '.join(map(repr, gone))}. Leave remove_duplicates out, or give more texts of these labels."
        )
    return Dataset(
        name=source.name,
        label_names=label_names,
        field_names=raw.field_names,
        train=tuple(train),
        test=tuple(test),
        unlabelled=tuple(examples["unlabelled"]),
        revision=revision,
        facts={
            "source": source.name,
            "revision": revision,
            "num_train": len(train),
            "num_test_available": num_test_available,
            "num_unlabelled": len(examples["unlabelled"]),
            "balanced": source.balanced,
            **duplicates,
        },
    )


def _label_names(source: DataSource, raw: RawData) -> tuple[str, ...]:
    """The labels that training texts have, in the source's order or sorted (numbers as numbers)."""
    present = {label for _, _, label in raw.train if label is not None}
    if len(present) < 2:
        raise DataError(
            f"{source.name}: the training texts have one label only ({', '.join(map(repr, present))}). "
            "A classifier needs at least two: check the label column, or add texts of another label."
        )
    unknown = sorted({label for _, _, label in raw.test or () if label is not None} - present)
    if unknown:
        raise DataError(
            f"{source.name}: test texts have labels that no training text has: "
            f"{', '.join(map(repr, unknown[:10]))}.{nearest(unknown[0], sorted(present))} "
            f"Training texts have: {', '.join(map(repr, sorted(present)[:10]))}. "
            "Correct the names, or add training texts of these labels."
        )
    if raw.label_names:
        return tuple(name for name in raw.label_names if name in present)
    if all(_NUMBER.fullmatch(name) for name in present):
        return tuple(sorted(present, key=lambda name: (float(name), name)))
    return tuple(sorted(present))


def _clean(rows: Sequence[RawRow], label_names: Sequence[str]) -> list[_Row]:
    """Rows with line breaks for <br />, sorted by content and label: no order of files is left in them."""
    index: dict[str | None, int] = {name: label for label, name in enumerate(label_names)}
    index[None] = UNLABELLED
    cleaned: list[_Row] = []
    for given_id, raw_fields, name in rows:
        fields = {key: _LINE_BREAK.sub("\n", text) for key, text in raw_fields.items()}
        cleaned.append((content_hash(fields), index[name], given_id or "", fields))
    cleaned.sort(key=lambda row: row[:3])
    return cleaned


def content_hash(fields: Mapping[str, str]) -> str:
    """64 hex digits: the sha256 of `canonical_json(fields)`, written out here as that takes 100,000 texts."""
    quoted = encode_basestring
    text = ",".join([f"{quoted(key)}:{quoted(fields[key])}" for key in sorted(fields)])
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()


def _with_ids(source: DataSource, rows: Mapping[str, Sequence[_Row]]) -> dict[str, list[Example]]:
    """Examples by side, each side sorted by id."""
    repeats: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {}
    for side, side_rows in rows.items():
        members: list[Example] = []
        for content, label, given_id, fields in side_rows:
            id_ = given_id or content[:16]
            repeats[id_] += 1
            if repeats[id_] > 1 and given_id:
                raise DataError(
                    f"{source.name}: the id {id_!r} stands at more than one text (train, test and unlabelled "
                    "together). Give each text an id of its own, or leave `id` out: then texts are named by "
                    "their content."
                )
            if repeats[id_] > 1:
                id_ = f"{id_}-{repeats[id_]}"
            members.append(Example(id_, fields, label))
        members.sort(key=lambda example: example.id)
        examples[side] = members
    return examples


def _revision(rows: Mapping[str, Sequence[_Row]], label_names: Sequence[str]) -> str:
    """Names sides, texts, labels and given ids; ids by content follow from the texts."""
    content = [
        [side, content, given_id, "" if label == UNLABELLED else label_names[label]]
        for side, side_rows in rows.items()
        for content, label, given_id, _ in side_rows  # sorted by `_clean`
    ]
    return f"sha256:{text_hash(canonical_json(content))}"


def _without_duplicates(
    source: DataSource, train: list[Example], test: Sequence[Example], field_names: Sequence[str]
) -> tuple[list[Example], dict[str, Any]]:
    """`train`, without what is in `test` word for word if the source says so; and counts for the record."""
    test_texts = {text_key(example, field_names) for example in test}
    train_texts = [text_key(example, field_names) for example in train]
    across = [text in test_texts for text in train_texts]
    kept = train
    if source.remove_duplicates:
        kept = [example for example, duplicate in zip(train, across, strict=True) if not duplicate]
    return kept, {
        "num_duplicates_across": sum(across),
        "num_duplicates_removed": len(train) - len(kept),
        "num_duplicates_within_train": len(train_texts) - len(set(train_texts)),
    }


def _without_repeats(
    source: DataSource, train: list[Example], field_names: Sequence[str]
) -> tuple[list[Example], dict[str, Any]]:
    """For a source that each seed splits: one copy of each text if it says so, as a draw may split a pair."""
    first: dict[tuple[str, ...], Example] = {}
    for example in train:
        first.setdefault(text_key(example, field_names), example)
    kept = list(first.values()) if source.remove_duplicates else train
    return kept, {
        "num_duplicates_across": 0,
        "num_duplicates_removed": len(train) - len(kept),
        "num_duplicates_within_train": len(train) - len(first),
    }
