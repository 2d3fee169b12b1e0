"""The reviews that ship: balanced, of four kinds, and no sentence is a mould for others."""

from __future__ import annotations

import csv
import re
import statistics
from collections import Counter, defaultdict
from importlib import resources

import pytest

Row = dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with (resources.files("handful") / "assets" / "reviews.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_enough_of_both_labels_in_both_splits(rows: list[Row]) -> None:
    assert len(rows) >= 400
    assert Counter(row["label"] for row in rows) == dict.fromkeys(("positive", "negative"), len(rows) / 2)
    test = Counter(row["label"] for row in rows if row["split"] == "test")
    assert test["positive"] == test["negative"] == 100
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)


def test_at_least_40_of_every_kind_with_both_labels(rows: list[Row]) -> None:
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"plain", "negation", "mixed", "irony"} and min(kinds.values()) >= 40
    for kind in kinds:
        labels = Counter(row["label"] for row in rows if row["kind"] == kind)
        assert labels["positive"] == labels["negative"]


def test_lengths_in_words(rows: list[Row]) -> None:
    lengths = [len(row["text"].split()) for row in rows]
    assert min(lengths) >= 15 and max(lengths) <= 150
    assert statistics.median(lengths) >= 40


def test_no_six_words_in_a_row_occur_in_more_than_two(rows: list[Row]) -> None:
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        words = re.findall(r"[a-z0-9']+", row["text"].lower())
        for start in range(len(words) - 5):
            found[tuple(words[start : start + 6])].add(row["id"])
    repeated = {" ".join(words): ids for words, ids in found.items() if len(ids) > 2}
    assert not repeated
